"""`rollout_vs_vllm`: tokens a second through the whole agent loop, against bare AsyncLLM on the same requests.

Both sample the same number of tokens after the same prompts, at most CONCURRENCY episodes at once, each turn of an
episode waiting for the one before; tools answer at once from a recording. So the ratio is what the agent loop costs.
"""

from __future__ import annotations

import asyncio
import itertools
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.agent import Agent
from actors.generation import VllmGenerator
from actors.views import Viewer
from cluster.benchmarks.harness import Figure, compared, interleaved
from cluster.benchmarks.models import bench_model
from cluster.benchmarks.recorded import RecordedTools, Recorder, Request, recorded_queries
from common.chat import Chat
from common.media import FolderMediaStore, pixels_of
from common.types import Query, Sampling

if TYPE_CHECKING:
    from cluster.config import RunConfig
    from cluster.progress import Progress

NUM_EPISODES, CONCURRENCY, MAX_TOKENS = 64, 8, 24
TARGET = 0.85


def measure(config: RunConfig, progress: Progress, rounds: int) -> Sequence[Figure]:
    return asyncio.run(_measure(config, rounds))


async def _measure(config: RunConfig, rounds: int) -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="pixelis-bench-") as folder:
        model = bench_model(config, Path(folder))
        store = FolderMediaStore(Path(folder) / "media")
        chat = Chat.from_model(model)
        engine = await VllmGenerator.start(model, chat, store, config.generation)
        try:
            subject = _Subject(engine, chat, store, config)
            ours, peer = await interleaved(subject.through_the_agent, subject.bare, rounds=rounds)
        finally:
            await engine.close()
    return [compared("rollout_vs_vllm", ours, peer, unit="tokens/s", against="vLLM AsyncLLM", target=TARGET)]


class _Subject:
    """Runs the recording both ways. The peer repeats exactly the requests of our latest round."""

    def __init__(self, engine: VllmGenerator, chat: Chat, store: FolderMediaStore, config: RunConfig) -> None:
        self._engine, self._chat, self._store, self._config = engine, chat, store, config
        self._queries, crop = recorded_queries(store, NUM_EPISODES)
        self._tools = RecordedTools(crop)
        self._viewer = Viewer(store, chat.vision, config.view)
        self._recorded: list[list[Request]] = []
        self._round = 0

    async def through_the_agent(self) -> float:
        """Tokens a second of NUM_EPISODES episodes."""
        settings = replace(self._config.actor, max_tokens=MAX_TOKENS)
        recorders: list[Recorder] = []

        async def episode(number: int, query: Query) -> None:
            recorder = Recorder(self._engine, self._chat)
            recorders.append(recorder)
            agent = Agent(
                generator=recorder, toolbox=self._tools, chat=self._chat, viewer=self._viewer, config=settings
            )
            await agent.roll_out(query, Sampling(temperature=1.0, max_tokens=MAX_TOKENS, seed=number))

        await self._engine.bare.reset_prefix_cache()
        seconds = await _pooled([partial(episode, number, query) for number, query in enumerate(self._queries)])
        self._recorded = [recorder.requests for recorder in recorders]
        return self._num_tokens() / seconds

    async def bare(self) -> float:
        """Tokens a second of the same requests, straight to the engine."""
        if not self._recorded:
            await self.through_the_agent()
        prepared = [[self._bare_request(request) for request in episode] for episode in self._recorded]
        numbers = itertools.count()

        async def episode(requests: list[tuple[Any, Any]]) -> None:
            for prompt, parameters in requests:
                async for _ in self._engine.bare.generate(prompt, parameters, f"bare-{self._round}-{next(numbers)}"):
                    pass

        self._round += 1
        await self._engine.bare.reset_prefix_cache()
        return self._num_tokens() / await _pooled([partial(episode, requests) for requests in prepared])

    def _bare_request(self, request: Request) -> tuple[Any, Any]:
        """The request as one would write it for AsyncLLM: the same ids, pictures, seed, bans and number of tokens."""
        from PIL import Image
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        pictures = [Image.fromarray(pixels_of(self._store, view)) for view in request.images]
        prompt = {
            "prompt_token_ids": self._chat.collapse(request.prompt_ids),
            "multi_modal_data": {"image": pictures},
            "multi_modal_uuids": {"image": [view.digest for view in request.images]},
        }
        parameters = SamplingParams(
            temperature=request.sampling.temperature,
            max_tokens=request.num_tokens,
            seed=request.sampling.seed,
            logprobs=0,
            ignore_eos=True,
            logit_bias=dict.fromkeys(self._chat.banned, -100.0),
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        return prompt, parameters

    def _num_tokens(self) -> int:
        return sum(request.num_tokens for episode in self._recorded for request in episode)


async def _pooled(jobs: Sequence[Callable[[], Awaitable[None]]]) -> float:
    """Seconds to do all jobs, CONCURRENCY at a time."""
    waiting = iter(jobs)

    async def worker() -> None:
        for job in waiting:
            await job()

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(CONCURRENCY)))
    return time.perf_counter() - began
