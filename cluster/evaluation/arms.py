"""Putting the same tasks to a policy in several arms.

All arms of all tasks go through one pool, so engines and tool workers are busy to the end. The arms of a task go to
the same actor, one after another in the queue: they share its prefix cache (the question and its pictures) and its
tools' results.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from actors.actor import Actor, Outcome
from actors.arms import Arm
from actors.tasks.source import TaskSource
from cluster.loop import MAX_TRIES
from common.errors import ActorDied, DataError
from common.types import Sampling, Task

if TYPE_CHECKING:
    from cluster.phases import EvaluationConfig
    from cluster.system import Acting


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Outcomes of one policy on the same tasks: arm → one a task, in their order.

    planned: whether the tasks' shortest chains are known. wall_s: of all arms together. num_tokens: sampled in it.
    """

    arms: Mapping[Arm, tuple[Outcome, ...]]
    planned: bool
    wall_s: float
    num_tokens: int

    @property
    def learned(self) -> tuple[Outcome, ...]:
        return self.arms["learned"]


async def held_out(system: Acting, settings: EvaluationConfig) -> list[Task]:
    """`num_tasks` of the world's split, under the shift."""
    return await system.source.call(TaskSource.tasks, settings.split, 0, settings.num_tasks, settings.shift)


async def outside(system: Acting, settings: EvaluationConfig) -> list[Task]:
    """The first `num_tasks` of the set that `qa` and `data` name. Raises DataError, one line."""
    qa, media = place_of(settings)
    limits = system.config.tools.media_limits
    return await system.source.call(
        TaskSource.outside, qa, media, limits, limit=settings.num_tasks, reader=settings.reader
    )


def place_of(settings: EvaluationConfig) -> tuple[str, Path | None]:
    """Questions and media of an outside set, paths absolute. Of `data` alone the questions are in that folder."""
    media = Path(settings.data).resolve() if settings.data else None
    if media is not None and not media.is_dir():
        raise DataError(f"data={settings.data}: no such folder")
    qa = Path(settings.qa or settings.data)
    return (str(qa.resolve()) if qa.exists() else settings.qa), media


async def measure(
    system: Acting, tasks: Sequence[Task], arms: Sequence[Arm], *, planned: bool = True, strips: int = 0
) -> Measured:
    """Every arm on every task, greedily. The first `strips` outcomes of the learned arm keep their steps."""
    system.progress.start("evaluating", len(arms) * len(tasks))
    began = time.monotonic()
    pool = _Pool(system, strips=strips)
    found = await asyncio.gather(*(pool.task(number, task, arms) for number, task in enumerate(tasks)))
    done: dict[Arm, tuple[Outcome, ...]] = {arm: tuple(outcomes[arm] for outcomes in found) for arm in arms}
    means = {arm: mean([outcome.score for outcome in outcomes]) for arm, outcomes in done.items()}
    system.progress.update(len(arms) * len(tasks), **means)
    system.progress.finish()
    wall_s = time.monotonic() - began
    return Measured(arms=done, planned=planned, wall_s=wall_s, num_tokens=pool.num_tokens)


async def answer(system: Acting, tasks: Sequence[Task], *, strips: int = 0) -> tuple[Outcome, ...]:
    """One outcome a task, in their order, with the policy deciding; progress is that of the caller's stage."""
    pool = _Pool(system, strips=strips)
    found = await asyncio.gather(*(pool.task(number, task, ("learned",)) for number, task in enumerate(tasks)))
    return tuple(outcomes["learned"] for outcomes in found)


class _Pool:
    """At most `evaluation.concurrency` rollouts at once, in the order of the tasks."""

    def __init__(self, system: Acting, *, strips: int) -> None:
        self._system = system
        self._strips = strips
        self._room = asyncio.Semaphore(system.config.evaluation.concurrency)
        self._finished = 0
        self.num_tokens = 0

    async def task(self, number: int, task: Task, arms: Sequence[Arm]) -> dict[Arm, Outcome]:
        """One task's outcome in each arm."""
        done = await asyncio.gather(*(self._strand(number, task, strand) for strand in strands(arms)))
        return {outcome.arm: outcome for outcomes in done for outcome in outcomes}

    async def _strand(self, number: int, task: Task, arms: Sequence[Arm]) -> list[Outcome]:
        """Arms that one slot does in turn: a later one may find that an earlier one has done the same already."""
        done: list[Outcome] = []
        async with self._room:
            for arm in arms:
                if arm == "forced_tool" and done and was_forced_anyway(done[0]):
                    done.append(replace(done[0], arm=arm))
                else:
                    done.append(await self._roll_out(number, task, arm))
                    self.num_tokens += done[-1].num_tokens
                self._finished += 1
                self._system.progress.update(self._finished)
        return done

    async def _roll_out(self, number: int, task: Task, arm: Arm) -> Outcome:
        """One rollout; where its actor died it is put to another one."""
        config = self._system.config
        sampling = Sampling(temperature=0.0, max_tokens=config.actor.max_tokens, seed=config.seed)
        strip = arm == "learned" and number < self._strips
        for attempt in range(MAX_TRIES):
            actor = self._system.actors[number % len(self._system.actors)]
            try:
                return await actor.call(Actor.evaluate, task, arm=arm, sampling=sampling, strip=strip)
            except ActorDied:
                if attempt == MAX_TRIES - 1:
                    raise
                await self._system.heal()
        raise AssertionError("unreachable")


def strands(arms: Sequence[Arm]) -> list[list[Arm]]:
    """Arms that follow each other: forced_tool comes after learned, which it may equal; every other stands alone."""
    if not {"learned", "forced_tool"} <= set(arms):
        return [[arm] for arm in arms]
    return [["learned", "forced_tool"], *([arm] for arm in arms if arm not in ("learned", "forced_tool"))]


def was_forced_anyway(learned: Outcome) -> bool:
    """Whether forcing a call changes nothing of a greedy rollout: it began with the ids that would be written for it,
    and that first turn was a call. A rollout that was cut off might have gone on a little longer.
    """
    called = bool(learned.tools) and learned.tools[0] != ""
    return learned.begins_with_call and called and learned.stop_reason != "max_tokens"


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
