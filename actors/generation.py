"""The sampler: vLLM's asynchronous engine behind the Generator port.

Token-in, token-out: a prompt goes in as ids (one placeholder a picture), pictures go in under the digest of their
view, and ids come back with the log-probs of the distribution they were really drawn from: temperature and bans
applied.

New weights go live between two steps of the engine. While it is paused the weights are replaced, then everything
computed with the old ones (keys and values, also of requests in flight, and visual features) is dropped and
recomputed on demand. So a token's version says exactly which weights produced it *and* its context: what was sampled
before the pause keeps the old version, and what comes after agrees with a fresh engine that holds the new weights.
An adapter needs no pause: it joins the ones in use (actors/adapters.py), and a request keeps the one it began with.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import time
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from actors.adapters import MAX_SERVED, Adapter, Served, adapter_of, reserved_rank
from actors.config import GenerationConfig
from actors.grammar import Shaped
from actors.lifeline import children_die_with_us
from actors.weights import model_files, shapes, verify
from common.chat import Chat
from common.errors import ActorDied, ContractError, WeightsError
from common.media import FolderMediaStore
from common.protocols import Sample
from common.types import Canary, MediaRef, Sampling, VersionSpan, Weights

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.outputs import RequestOutput
    from vllm.v1.engine.async_llm import AsyncLLM

R = TypeVar("R")

_BAN = -100.0
"""The largest penalty that the engine takes; e⁻¹⁰⁰ is 0 in float32 beside any other token."""
_WATCH_S = 0.2
"""Between two looks at whether the engine still lives, while it is asked something."""
_DEAD = "the actor's engine has ended"
_FIRST = -1
"""Priority of a canary; everything else has 0."""


def prepare_environment(config: GenerationConfig) -> None:
    """Set the variables that the engine reads when it is imported. Call before anything imports vllm.

    Threads beyond `num_threads` slow a small model tenfold on a busy machine. Nothing is looked up or reported
    outside, and every address is loopback.
    """
    os.environ.update(
        OMP_NUM_THREADS=str(config.num_threads),
        VLLM_CPU_OMP_THREADS_BIND="nobind",
        VLLM_ENABLE_V1_MULTIPROCESSING="0",
        VLLM_WORKER_MULTIPROC_METHOD="spawn",
        VLLM_HOST_IP="127.0.0.1",
        VLLM_LOOPBACK_IP="127.0.0.1",
        GLOO_SOCKET_IFNAME="lo",
        VLLM_NO_USAGE_STATS="1",
        VLLM_DO_NOT_TRACK="1",
        HF_HUB_OFFLINE="1",
        TRANSFORMERS_OFFLINE="1",
        TOKENIZERS_PARALLELISM="false",
    )
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    if config.enforce_eager:
        os.environ["TORCHDYNAMO_DISABLE"] = "1"


class VllmGenerator:
    """A live engine. Make with `VllmGenerator.start`; it owns one child process, which dies with this one."""

    def __init__(
        self,
        engine: AsyncLLM,
        *,
        model: Path,
        chat: Chat,
        store: FolderMediaStore,
        config: GenerationConfig,
        version: int,
        grammar: str | None = None,
    ) -> None:
        self._running: AsyncLLM | None = engine
        self._chat = chat
        self._store = store
        self._config = config
        self._version = version
        self._parents: dict[int, int | None] = {version: None}
        self._files = model_files(model)
        self._held = shapes(self._files)
        self._refused: set[int] = set()
        self._adapters = Served(engine.remove_lora)
        self._loading = asyncio.Lock()
        self._settled = asyncio.Event()
        self._settled.set()
        self._numbers = itertools.count()
        self._grammar = grammar
        self._shaped: Shaped | None = None
        if grammar is not None:
            num_ids = engine.model_config.get_vocab_size()
            self._shaped = Shaped(grammar, model, num_ids=num_ids, never=chat.banned, stop=chat.end_of_turn)

    @classmethod
    async def start(
        cls,
        model: Path,
        chat: Chat,
        store: FolderMediaStore,
        config: GenerationConfig,
        *,
        version: int = 0,
        grammar: str | None = None,
    ) -> VllmGenerator:
        """Start the engine on a model directory whose weights are `version`. Takes tens of seconds, most of it imports.

        grammar: the structural tag that every turn is sampled under (actors/grammar.py), or None.
        Blocks the event loop: the engine's process is tied to the thread that starts it, and this one outlives it.
        """
        prepare_environment(config)
        # No local name holds the engine, here or in _start_engine: exceptions that vLLM keeps from its start-up keep
        # these frames, and an engine that outlives `close` complains when the interpreter ends.
        generator = cls(
            _start_engine(Path(model), config),
            model=Path(model),
            chat=chat,
            store=store,
            config=config,
            version=version,
            grammar=grammar,
        )
        await generator._engine.update_weight_version(str(version))
        return generator

    @property
    def version(self) -> int:
        return self._version

    @property
    def bare(self) -> AsyncLLM:
        """The engine itself, for measuring against it."""
        return self._engine

    async def generate(self, prompt_ids: Sequence[int], images: Sequence[MediaRef], sampling: Sampling) -> Sample:
        """Sample one turn. Waits out a pause; samples again what came from weights that were refused afterwards."""
        parameters = self._parameters(sampling)
        prompt = self._prompt(prompt_ids, images)
        while True:
            number = f"r{next(self._numbers)}"
            adapter = self._adapters.newest
            with _death_of_the_engine():
                with self._adapters.using(adapter):
                    lora = None if adapter is None else adapter.request()
                    async for output in self._engine.generate(prompt, parameters, number, lora_request=lora):
                        final = output
                await self._adapters.sweep()
            await self._settled.wait()
            sample = await self._marked(self._sample(final, len(prompt_ids), adapter))
            if not any(span.version in self._refused for span in sample.versions):
                return sample

    async def _marked(self, sample: Sample) -> Sample:
        """The sample with its shaped tokens named."""
        if self._shaped is None:
            return sample
        return replace(sample, shaped=await asyncio.to_thread(self._shaped.ranges, sample.token_ids))

    async def load(self, weights: Weights) -> float:
        """See Generator.load. Waits for an earlier load to end. The canary is scheduled before any other request.

        Raises WeightsError for an adapter where none is served (lora_rank is 0), and for whole weights where one is.
        """
        if weights.adapter != (self._config.lora_rank > 0):
            given, wanted = ("an adapter", "whole weights") if weights.adapter else ("whole weights", "an adapter")
            raise WeightsError(
                f"version {weights.version} is {given} where the engine takes {wanted}: "
                f"generation.lora_rank is {self._config.lora_rank}"
            )
        async with self._loading:
            self._parents[weights.version] = weights.parent
            return await (self._load_adapter(weights) if weights.adapter else self._load_whole(weights))

    async def _load_adapter(self, weights: Weights) -> float:
        """Let an adapter join; new requests take it once its canary agreed. Returns the seconds the engine took it in.

        Waits while the requests of earlier adapters hold all places.
        """
        served, adapter = self._adapters, adapter_of(weights)
        await asyncio.to_thread(verify, weights, {tensor.name: tensor.shape for tensor in weights.tensors})
        with _death_of_the_engine():
            await served.room()
        started = time.perf_counter()
        await self._unless_dead(self._join(adapter))
        pause_s = time.perf_counter() - started
        with served.on_trial(adapter):
            gap = await self._unless_dead(self._tried(weights.canary, adapter))
            if gap <= self._config.canary_tolerance:
                served.newest, self._version = adapter, weights.version
        with _death_of_the_engine():
            await served.sweep()
        if served.newest != adapter:
            raise self._refusal(weights.version, gap)
        return pause_s

    async def _join(self, adapter: Adapter) -> None:
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            await self._engine.add_lora(adapter.request())
        except EngineDeadError:
            raise
        except Exception as error:  # whatever a worker raised arrives as a plain Exception with its text
            raise WeightsError(f"version {adapter.version}: the engine refuses the adapter ({error})") from error

    async def _tried(self, canary: Canary | None, adapter: Adapter) -> float:
        """The canary's largest difference under `adapter`."""
        waiting = await self._add_canary(canary, adapter)
        return 0.0 if canary is None else await _canary_gap(waiting, canary)

    def _refusal(self, version: int, gap: float) -> WeightsError:
        return WeightsError(
            f"version {version} is refused: its canary differs by {gap:.3g} nats, and at most "
            f"{self._config.canary_tolerance:g} is allowed; version {self._version} stays"
        )

    async def _load_whole(self, weights: Weights) -> float:
        """Replace the weights between two steps.

        Should a worker fail half-way in spite of all checks, its model is in pieces: the engine ends, requests in
        flight get its error, and WeightsError says so.
        """
        await asyncio.to_thread(verify, weights, self._held)
        old_version, old_files = self._version, self._files
        self._settled.clear()
        try:
            pause_s, gap = await self._unless_dead(self._switch(weights.buckets, weights.version, weights.canary))
            if not gap <= self._config.canary_tolerance:  # a NaN is refused too
                self._refused.add(weights.version)
                await self._unless_dead(self._switch(old_files, old_version, None))
                raise self._refusal(weights.version, gap)
        finally:
            self._settled.set()
        self._held = {tensor.name: tensor.shape for tensor in weights.tensors}
        return pause_s

    async def ping(self) -> None:
        """Proof of the engine's life. Raises ActorDied when it has ended."""
        with _death_of_the_engine():
            await self._engine.check_health()

    async def close(self) -> None:
        """End the engine and its process. Requests in flight end with the engine's own error."""
        from vllm.v1.engine.exceptions import EngineDeadError

        engine, self._running = self._running, None
        if engine is None:
            return
        if engine.output_handler is not None:
            engine.output_handler.cancel()  # else it reports the end of its process as a failure
        engine.output_processor.propagate_error(EngineDeadError())
        await asyncio.to_thread(engine.shutdown, 0.0)

    async def _unless_dead(self, work: Coroutine[Any, Any, R]) -> R:
        """What `work` returns. Raises ActorDied when the engine ends meanwhile, whose answer would never come: vLLM
        0.32 lets calls that wait for a killed engine wait for ever."""
        engine, task = self._engine, asyncio.ensure_future(work)
        with _death_of_the_engine():
            while not task.done():
                await asyncio.wait({task}, timeout=_WATCH_S)
                if engine.errored and self._running is not None and not task.done():
                    task.cancel()
                    raise ActorDied(_DEAD)
            return task.result()

    @property
    def _engine(self) -> AsyncLLM:
        if self._running is None:
            raise WeightsError("the engine has ended; the actor must start again")
        return self._running

    async def _switch(self, files: tuple[str, ...], version: int, canary: Canary | None) -> tuple[float, float]:
        """Replace the weights between two steps. Returns the seconds paused and the canary's largest difference.

        Raises WeightsError, the engine ended, when a worker cannot load the files.
        """
        engine = self._engine
        started = time.perf_counter()
        await engine.pause_generation(mode="keep", clear_cache=False)
        # A paused engine only queues requests, so the canary's are prepared while the workers load.
        _, waiting = await asyncio.gather(self._take(files), self._add_canary(canary))
        await engine.update_weight_version(str(version))
        # In this order: preempting lets go of every cache entry, so the encoder's may be dropped; an entry dropped
        # while a running request holds it would stop the engine. Preprocessed pixels do not depend on weights and stay.
        await engine.reset_prefix_cache(reset_running_requests=True)
        await engine.reset_encoder_cache()
        self._version, self._files = version, files
        await engine.resume_generation()
        pause_s = time.perf_counter() - started
        return pause_s, 0.0 if canary is None else await _canary_gap(waiting, canary)

    async def _take(self, files: tuple[str, ...]) -> None:
        from vllm.v1.engine.exceptions import EngineDeadError

        paths = [str(Path(file).resolve()) for file in files]
        try:
            await self._engine.collective_rpc("take_weights", args=(paths,))
        except EngineDeadError:
            raise
        except Exception as error:  # whatever a worker raised arrives as a plain Exception with its text
            await self.close()
            raise WeightsError(f"a worker could not load {', '.join(files)} ({error}); the engine has ended") from error

    async def _add_canary(self, canary: Canary | None, adapter: Adapter | None = None) -> list[Any]:
        """One request a token: each scores its token after the ones before it, as the sampler would see it."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        waiting: list[Any] = []
        if canary is None:
            return waiting
        for index, token in enumerate(canary.token_ids):
            parameters = SamplingParams(
                temperature=1.0,
                max_tokens=1,
                logprob_token_ids=[token],
                ignore_eos=True,
                logit_bias=dict.fromkeys(self._chat.banned, _BAN),
                detokenize=False,
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
            prompt = self._prompt((*canary.prompt_ids, *canary.token_ids[:index]), canary.images)
            number = f"c{next(self._numbers)}"
            lora = None if adapter is None else adapter.request()
            waiting.append(
                await self._engine.add_request(number, prompt, parameters, priority=_FIRST, lora_request=lora)
            )
        return waiting

    def _prompt(self, prompt_ids: Sequence[int], images: Sequence[MediaRef]) -> Any:
        from PIL import Image

        prompt: dict[str, Any] = {"prompt_token_ids": self._chat.collapse(prompt_ids)}
        if images:
            pictures = [Image.frombytes("RGB", (v.width, v.height), self._store.get(v.digest)) for v in images]
            prompt["multi_modal_data"] = {"image": pictures}
            prompt["multi_modal_uuids"] = {"image": [view.digest for view in images]}
        return prompt

    def _parameters(self, sampling: Sampling) -> SamplingParams:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        grammar = None if self._grammar is None else StructuredOutputsParams(structural_tag=self._grammar)
        return SamplingParams(
            structured_outputs=grammar,
            temperature=sampling.temperature,
            max_tokens=sampling.max_tokens,
            seed=sampling.seed,
            logprobs=0,
            flat_logprobs=True,
            stop_token_ids=[self._chat.end_of_turn],
            ignore_eos=True,
            logit_bias=dict.fromkeys(self._chat.banned, _BAN),
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _sample(self, final: RequestOutput, num_prompt_tokens: int, adapter: Adapter | None) -> Sample:
        if len(final.prompt_token_ids or ()) != num_prompt_tokens:
            raise ContractError(
                f"the engine saw {len(final.prompt_token_ids or ())} prompt tokens where the chat wrote "
                f"{num_prompt_tokens}: its processor and the model's preprocessor_config.json disagree"
            )
        output = final.outputs[0]
        token_ids = tuple(output.token_ids)
        chosen = output.logprobs or []
        if len(chosen) != len(token_ids) or output.weight_versions is None:
            raise ContractError("the engine returned ids without log-probs or versions")
        spans = [(span.start, span.end, int(span.version)) for span in output.weight_versions]
        if adapter is not None:  # the base's version is the engine's, and the base never changes
            spans = [(0, len(token_ids), adapter.version)]
        return Sample(
            token_ids=token_ids,
            logprobs=tuple(position[token].logprob for position, token in zip(chosen, token_ids, strict=True)),
            versions=tuple(
                VersionSpan(start=start, stop=stop, version=version, parent=self._parents.get(version))
                for start, stop, version in spans
                if stop > start
            ),
            finished=output.finish_reason == "stop",
        )


def _start_engine(model: Path, config: GenerationConfig) -> AsyncLLM:
    from vllm import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    arguments = AsyncEngineArgs(
        model=str(model),
        max_model_len=config.max_model_len,
        max_num_seqs=config.max_num_seqs,
        dtype=config.dtype,
        enforce_eager=config.enforce_eager,
        block_size=config.block_size,
        kv_cache_memory_bytes=config.kv_cache_memory_bytes,
        gpu_memory_utilization=config.gpu_memory_utilization,
        tensor_parallel_size=config.tensor_parallel_size,
        limit_mm_per_prompt={"image": config.max_num_images, "video": 0},
        mm_processor_cache_gb=config.processor_cache_gb,
        enable_prefix_caching=True,
        logprobs_mode="processed_logprobs",
        scheduling_policy="priority",
        generation_config="vllm",
        worker_extension_cls="actors.worker_extension.WorkerExtension",
        enable_lora=config.lora_rank > 0,
        max_lora_rank=reserved_rank(config.lora_rank),
        max_loras=MAX_SERVED,
        max_cpu_loras=MAX_SERVED,
        enable_log_requests=False,
        disable_log_stats=True,
        seed=config.seed,
    )
    with children_die_with_us(), _same_preload():
        return AsyncLLM.from_engine_args(arguments)


@contextmanager
def _death_of_the_engine() -> Iterator[None]:
    """An actor does not outlive its engine: whoever asks it hears that it died, and starts another."""
    from vllm.v1.engine.exceptions import EngineDeadError

    try:
        yield
    except EngineDeadError as error:
        raise ActorDied(_DEAD) from error


@contextmanager
def _same_preload() -> Iterator[None]:
    """The engine preloads an allocator into its own process through our environment; the tools' workers must not get
    it.
    """
    before = os.environ.get("LD_PRELOAD")
    try:
        yield
    finally:
        os.environ.pop("LD_PRELOAD", None)
        if before is not None:
            os.environ["LD_PRELOAD"] = before


async def _last(collector: Any) -> RequestOutput:
    """The final output of a request."""
    while True:
        output: RequestOutput = collector.get_nowait() or await collector.get()
        if output.finished:
            return output


async def _canary_gap(waiting: Sequence[Any], canary: Canary) -> float:
    """Largest difference between the engine's and the learner's log-probs of the canary, in nats; NaN stays."""
    gaps = [0.0]
    for request, token, wanted in zip(waiting, canary.token_ids, canary.logprobs, strict=True):
        (scored,) = (await _last(request)).outputs[0].logprobs or [{}]
        found = scored[token].logprob if token in scored else math.nan
        gaps.append(abs(found - wanted))
    return math.nan if any(map(math.isnan, gaps)) else max(gaps)
