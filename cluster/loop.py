"""The whole training on a page: imitation, then acting and learning side by side.

Acting and learning meet only in the replay. `act` waits in `admit` while it is ahead of the learner by the lag bound;
`learn` waits in `sample` until enough whole groups are there; `broadcast` hands every actor the new policy, and only
then
does the step count as published. docs/architecture.md proves that nothing older than the bound is learned from.
Nothing here
holds a media byte or a token: rollouts pass from actor to replay, and draws from replay to learner, as references.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from actors.actor import Actor
from cluster.phases import ImitationPhase, RlPhase
from common.errors import ActorDied
from common.seeds import seed_of
from common.types import Sampling, Task
from learner.learner import Learner
from replay.buffer import ReplayBuffer

if TYPE_CHECKING:
    from cluster.runtime import Ranks, Ref
    from cluster.system import System

CHUNKS_AHEAD = 2
"""Chunks of traces being synthesised while the learner works."""
MAX_TRIES = 3
"""A rollout whose actor died is sampled again elsewhere; this many times in all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Traces [start, start + count) of curriculum level number `level`, learned from after step `due`.

    kept: they come from files, where `start` counts through all levels; the others are synthesised.
    """

    level: int
    num_plates: tuple[int, int]
    mixed: bool
    start: int
    count: int
    due: int
    kept: bool = False


def chunks(phase: ImitationPhase, *, share: float = 0.0) -> Iterator[Chunk]:
    """The traces of a phase in the order they are needed; a level's come in evenly over its steps, and everywhere about
    `share` of them are kept ones."""
    begin = before = 0
    for number, level in enumerate(phase.levels, 1):
        for first in range(0, level.num_traces, phase.chunk):
            last = min(first + phase.chunk, level.num_traces)
            kept = [num_kept(count, share) for count in (before, before + first, before + last)]
            made = [count - (each - kept[0]) for count, each in zip((first, last), kept[1:], strict=True)]
            for (start, stop), from_files in ((made, False), (kept[1:], True)):
                if start < stop:
                    yield Chunk(
                        level=number,
                        num_plates=level.num_plates,
                        mixed=level.mixed,
                        start=start,
                        count=stop - start,
                        due=begin + level.num_steps * first // level.num_traces,
                        kept=from_files,
                    )
        begin, before = begin + level.num_steps, before + level.num_traces


def num_kept(count: int, share: float) -> int:
    """How many of the first `count` traces of a phase come from files."""
    return math.floor(count * share + 1e-9)  # 0.29 · 100 is a hair less than 29


async def imitate(
    phase: ImitationPhase,
    *,
    learner: Ranks[Learner],
    make: Callable[[Chunk], Ref[bytes]],
    after_step: Callable[[int, dict[str, float]], Awaitable[None]],
    first_step: int = 0,
    share: float = 0.0,
) -> None:
    """Phase 1: learn from traces while later ones are still being synthesised by `make`; when a chunk counts depends on
    the step alone, so a seed fixes every batch. share: of the traces that `make` is to take from files."""
    waiting, sent = deque(chunks(phase, share=share)), deque[tuple[Chunk, "Ref[bytes]"]]()
    for step in range(first_step, phase.num_steps):
        while True:
            while waiting and len(sent) < CHUNKS_AHEAD:
                chunk = waiting.popleft()
                sent.append((chunk, make(chunk)))
            if not sent or sent[0][0].due > step:
                break
            await learner.call_all(Learner.add_traces, sent.popleft()[1])
        metrics = (await learner.call_all(Learner.imitate, step))[0]
        await after_step(step + 1, metrics)


async def reinforce(system: System, phase: RlPhase, *, first_step: int = 0) -> None:
    """Phases 2 and 3: act and learn at the same time until the last step; a failure of either ends both. Ends early
    when acting gives up because nothing it did could be learned from."""
    fruit = Fruit()
    acting = asyncio.create_task(act(system, phase, fruit))
    learning = asyncio.create_task(learn(system, phase, fruit, first_step=first_step))
    try:
        await asyncio.wait((acting, learning), return_when=asyncio.FIRST_COMPLETED)
        if learning.done():
            return learning.result()
        acting.result()
        system.progress.note(f"{phase.name}: {phase.patience} groups in a row gave nothing to learn from; ending early")
    finally:
        for task in (acting, learning):
            task.cancel()
        await asyncio.gather(acting, learning, return_exceptions=True)


@dataclass(slots=True)
class Fruit:
    """Groups started, and how many had been when the learner last learned."""

    started: int = 0
    learned_at: int = 0


async def act(system: System, phase: RlPhase, fruit: Fruit) -> None:
    """Keep `max_groups` groups in flight; rollouts go to replay singly, which waits while it is ahead of the learner.

    Returns when `patience` groups in a row were spent without a step: a policy that never agrees with itself, or is
    always wrong, has nothing to teach.
    """
    limit = 1 if system.config.phases.deterministic else phase.max_groups
    room = asyncio.Semaphore(limit)
    async with asyncio.TaskGroup() as groups:
        while fruit.started - fruit.learned_at < phase.patience:
            await room.acquire()
            number = await system.replay.call(ReplayBuffer.admit)
            fruit.started += 1
            task = await system.next_task(phase, number)
            group = groups.create_task(act_group(system, phase, number, task))
            group.add_done_callback(lambda _: room.release())


async def act_group(system: System, phase: RlPhase, number: int, task: Task) -> None:
    """Sample one group, hand each rollout to replay as it ends, and, where rewards come from a vote, let them vote."""
    group_id = f"{phase.name}/{number}"

    async def one(member: int) -> Ref[bytes]:
        sampling = Sampling(
            temperature=phase.temperature,
            max_tokens=system.config.actor.max_tokens,
            seed=seed_of(system.config.seed, phase.name, number, member) % 2**31,
        )
        for attempt in range(MAX_TRIES):
            rollout = system.pick_actor().send(
                Actor.run,
                task,
                sampling=sampling,
                group_id=group_id,
                group_size=phase.group_size,
                phase=phase.name,
                views=phase.views[member % len(phase.views)],
            )
            try:
                await system.replay.call(ReplayBuffer.add, rollout)
                return rollout
            except ActorDied:
                if attempt == MAX_TRIES - 1:
                    raise
                await system.heal()
        raise AssertionError("unreachable")

    try:
        if system.config.phases.deterministic:
            rollouts = [await one(member) for member in range(phase.group_size)]
        else:
            rollouts = await asyncio.gather(*(one(member) for member in range(phase.group_size)))
        if phase.votes:
            await vote(system, task, group_id, rollouts)
    except ActorDied as died:
        await system.replay.call(ReplayBuffer.abandon, group_id, str(died))


async def vote(system: System, task: Task, group_id: str, rollouts: list[Ref[bytes]]) -> None:
    """Ask the neighbours, vote over whole trajectories, and tell replay; an abstention spends the group."""
    actor = system.pick_actor()
    embedding = actor.send(Actor.embed, task.query)
    neighbours = system.replay.send(
        ReplayBuffer.nearest, embedding, system.config.num_neighbours, exclude_query=task.query.query_id
    )
    consensus = await actor.call(Actor.vote, rollouts, neighbours)
    await system.replay.call(ReplayBuffer.settle, consensus)


async def learn(system: System, phase: RlPhase, fruit: Fruit, *, first_step: int = 0) -> None:
    """Learn from fresh groups, then hand every actor the new policy."""
    for step in range(first_step, phase.num_steps):
        draw = system.replay.send(ReplayBuffer.sample, step)  # waits for groups within the policy lag
        metrics = (await system.learner.call_all(Learner.step, draw))[0]
        fruit.learned_at = fruit.started
        await system.broadcast()
        await system.replay.call(ReplayBuffer.advance, step + 1, system.version)
        await system.after_step(phase.name, step + 1, metrics, checkpoint=(step + 1) % phase.checkpoint_every == 0)
