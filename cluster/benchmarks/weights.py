"""`weights_live_s` and `engine_pause_ms`: how long until new weights are sampled from, and how long the engine
stands still for it.

Weights are published by a learner and loaded into an engine that has CONCURRENCY requests in flight, each with a
picture; a request that does not survive fails the measurement. `weights_live_s` counts from the learner's publish
to the engine's canary.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from actors.generation import VllmGenerator
from actors.views import Viewer
from cluster.benchmarks.harness import Figure, single
from cluster.benchmarks.models import bench_model
from cluster.benchmarks.recorded import recorded_queries
from cluster.factories import generation_config
from common.chat import Chat
from common.media import FolderMediaStore
from common.types import Query, Sampling

if TYPE_CHECKING:
    from cluster.config import RunConfig
    from cluster.progress import Progress

CONCURRENCY, NUM_TOKENS = 8, 256
LIVE_S, PAUSE_MS = 1.0, 100.0


def measure(config: RunConfig, progress: Progress, rounds: int) -> Sequence[Figure]:
    return asyncio.run(_measure(config, rounds))


async def _measure(config: RunConfig, rounds: int) -> list[Figure]:
    from learner.learner import Learner

    live_s: list[float] = []
    pause_ms: list[float] = []
    with tempfile.TemporaryDirectory(prefix="pixelis-bench-", dir=_memory()) as folder:
        root = Path(folder)
        model = bench_model(config, root)
        store = FolderMediaStore(root / "media")
        chat = Chat.from_model(model)
        engine = replace(config.learner.engine, backend="torch", dtype="float32", device="cpu")
        learner = Learner(
            replace(config.learner, engine=engine),
            rank=0,
            world_size=1,
            model_folder=model,
            store=store,
            weights_folder=root / "weights",
            seed=config.seed,
        )
        learner.begin("sft")
        generator = await VllmGenerator.start(model, chat, store, generation_config(config))
        try:
            queries, _ = recorded_queries(store, CONCURRENCY, siblings=1)
            viewer = Viewer(store, chat.vision, config.view)
            for number in range(rounds + 1):
                flights = [asyncio.create_task(_sampled(generator, chat, viewer, query)) for query in queries]
                await asyncio.sleep(0.1)
                began = time.perf_counter()
                weights = await asyncio.to_thread(learner.publish)
                assert weights is not None
                pause_s = await generator.load(weights)
                if number:  # the first one warms up
                    live_s.append(time.perf_counter() - began)
                    pause_ms.append(1000 * pause_s)
                survived = await asyncio.gather(*flights)
                assert all(survived), "a request in flight did not survive the new weights"
        finally:
            await generator.close()
    return [
        single("weights_live_s", live_s, unit="s", target=LIVE_S),
        single("engine_pause_ms", pause_ms, unit="ms", target=PAUSE_MS),
    ]


async def _sampled(generator: VllmGenerator, chat: Chat, viewer: Viewer, query: Query) -> bool:
    """Sample one long turn; whether it came back whole."""
    view = await viewer.view(query.images[0])
    turn = chat.question(query, [view])
    sample = await generator.generate(turn.token_ids, turn.images, Sampling(temperature=1.0, max_tokens=NUM_TOKENS))
    return len(sample.token_ids) == NUM_TOKENS or sample.finished


def _memory() -> str | None:
    memory = Path("/dev/shm")
    return str(memory) if memory.is_dir() else None
