"""What every process of the engine does first (vLLM's general plugin, named in pyproject.toml): two repairs of vLLM
0.32, without which requests in flight can end the engine.

Pixels. New weights make the engine forget its prefixes and encoded pictures, and go over the requests in flight
again. A request whose pictures were covered by a shared prefix when it began was handed to the workers without their
pixels, to save a copy; gone over again, it has nothing to encode. So pixels stay with their requests.

Seeds. A long prompt that shares a step's budget with others is read in parts, and a token is drawn after each part
although only the last one counts. For requests with a seed the others are taken back by rewinding the generator,
which a generator on the CPU cannot do. So there such a request draws from nobody's generator until its prompt is read.
"""

from __future__ import annotations

from typing import Any


def register() -> None:
    """Make both repairs."""
    from vllm.platforms import current_platform
    from vllm.v1.core.sched import output

    output.strip_covered_mm_data = keep_all
    if current_platform.is_cpu():
        from vllm.v1.worker.cpu_model_runner import CPUModelRunner

        CPUModelRunner.sample_tokens = holding_back_seeds(CPUModelRunner.sample_tokens)


def keep_all(features: Any, *_: Any, **__: Any) -> Any:
    """Instead of `vllm.multimodal.utils.strip_covered_mm_data`: nothing is stripped."""
    return features


def holding_back_seeds(sample_tokens: Any) -> Any:
    """`sample_tokens` without the generators of requests whose token of this step will be discarded."""

    def held_back(runner: Any, *arguments: Any, **named: Any) -> Any:
        generators = runner.input_batch.generators
        discarded = runner.discard_request_mask.np[: runner.input_batch.num_reqs].nonzero()[0]
        aside = {index: generators.pop(index) for index in map(int, discarded) if index in generators}
        try:
            return sample_tokens(runner, *arguments, **named)
        finally:
            generators.update(aside)

    return held_back
