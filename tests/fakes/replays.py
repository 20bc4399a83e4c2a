"""A replay under test: a buffer that closes, a phase, rollouts put into it, and a whole random run."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fakes.values import a_group

from common.schema import encode_rollouts
from common.types import Draw, Rollout
from replay.buffer import ReplayBuffer
from replay.config import Drawing, Durability, ReplayConfig
from replay.opening import open_replay
from replay.stats import ReplayStats

OS = Durability(mode="os")


@asynccontextmanager
async def a_buffer(folder: Path, **changes: Any) -> AsyncIterator[ReplayBuffer]:
    buffer = open_replay(ReplayConfig(folder=folder, **({"durability": OS} | changes)))
    try:
        yield buffer
    finally:
        await buffer.close()


def order(in_order: bool) -> Drawing:
    return Drawing(selector="in_order" if in_order else "fifo")


async def a_phase(buffer: ReplayBuffer, *, groups_per_step: int = 1, lag: int = 0, votes: bool = False) -> None:
    await buffer.begin("rft", groups_per_step=groups_per_step, max_policy_lag=lag, votes=votes)


async def resumed(buffer: ReplayBuffer, *, lag: int, step: int, version: int) -> None:
    """What a run does that was started again from a checkpoint of `step`."""
    await buffer.begin("rft", groups_per_step=1, max_policy_lag=lag, votes=False, step=step, version=version)


async def put(buffer: ReplayBuffer, *rollouts: Rollout) -> list[bool]:
    return [await buffer.add(encode_rollouts([rollout])) for rollout in rollouts]


def balanced(stats: ReplayStats) -> bool:
    return stats.inserted == stats.live + stats.spent + stats.expired + stats.quarantined + stats.erased


async def random_run(buffer: ReplayBuffer, random_: random.Random, *, groups_per_step: int, lag: int) -> list[Draw]:
    """Actors that start as many groups as the limiter lets them, finish them in any order and lose some, and a learner
    that never rests. It makes progress only if the limiter is right.
    """
    open_groups: dict[int, list[Rollout]] = {}
    draws: list[Draw] = []
    step = copies = 0
    sampling: asyncio.Task[Draw] | None = None
    for _ in range(120):
        while buffer.state.may_admit() and len(open_groups) < 6:
            number = await buffer.admit(f"g{buffer.state.admitted}")
            scores = random_.choice([(1.0, 0.0), (0.5, 0.25, 1.0), (1.0, 1.0)])
            open_groups[number] = a_group(number, scores=scores, version=step)
        if open_groups:
            number = random_.choice(list(open_groups))
            if random_.random() < 0.05:
                await buffer.abandon(f"g{number}", "lost")
                del open_groups[number]
            else:
                rollout = open_groups[number].pop()
                await put(buffer, rollout)
                if random_.random() < 0.2:
                    copies += 1
                    await put(buffer, rollout)
                if not open_groups[number]:
                    del open_groups[number]
        sampling = sampling or asyncio.ensure_future(buffer.sample(step))
        await asyncio.sleep(0)
        if buffer.state.draws.get(step) is not None:
            draws.append(await sampling)
            sampling, step = None, step + 1
            await buffer.advance(step, step)
    if sampling is not None:
        sampling.cancel()
    assert (await buffer.stats()).duplicates == copies
    return draws
