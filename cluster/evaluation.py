"""Measuring a policy: the same held-out tasks with its tools and without them, and what the table says of it.

RaPR is the share of rollouts with at least one visual call, RaCPR with two or more distinct tools of which one
worked on what another returned (both over all tasks, controls included). A chain is valid when every call worked
and an answer ended it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from actors.actor import Actor, Outcome
from actors.tasks.source import TaskSource
from cluster.loop import MAX_TRIES
from cluster.summary import PhaseSummary
from common.errors import ActorDied
from common.types import Task

if TYPE_CHECKING:
    from cluster.phases import EvaluationConfig
    from cluster.system import Acting


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Outcomes of one policy on the same tasks. wall_s: of the arm with tools."""

    learned: tuple[Outcome, ...]
    without_tools: tuple[Outcome, ...]
    wall_s: float


async def measure(system: Acting, settings: EvaluationConfig, *, strips: int = 0) -> Measured:
    """Both arms on `settings.num_tasks` tasks of the split, greedily. The first `strips` outcomes keep their steps."""
    count = settings.num_tasks
    tasks = await system.source.call(TaskSource.tasks, settings.split, 0, count, settings.shift)
    system.progress.start("evaluating", 2 * count)
    began = time.monotonic()
    learned = await answer(system, tasks, "learned", concurrency=settings.concurrency, strips=strips)
    wall_s = time.monotonic() - began
    plain = await answer(system, tasks, "no_tool", concurrency=settings.concurrency, done=count)
    system.progress.update(2 * count, accuracy=mean([o.score for o in learned]), without=mean([o.score for o in plain]))
    system.progress.finish()
    return Measured(learned=learned, without_tools=plain, wall_s=wall_s)


async def answer(
    system: Acting,
    tasks: Sequence[Task],
    arm: Literal["learned", "no_tool"],
    *,
    concurrency: int,
    strips: int = 0,
    done: int = 0,
) -> tuple[Outcome, ...]:
    """One outcome a task, in their order; a task whose actor died is put to another one."""
    room = asyncio.Semaphore(concurrency)
    finished = done

    async def one(number: int, task: Task) -> Outcome:
        nonlocal finished
        async with room:
            for attempt in range(MAX_TRIES):
                try:
                    outcome = await system.pick_actor().call(Actor.evaluate, task, arm=arm, strip=number < strips)
                    break
                except ActorDied:
                    if attempt == MAX_TRIES - 1:
                        raise
                    await system.heal()
            finished += 1
            system.progress.update(finished)
            return outcome

    return tuple(await asyncio.gather(*(one(number, task) for number, task in enumerate(tasks))))


def phase_row(name: str, measured: Measured, *, seed: int, token_kl: float | None) -> PhaseSummary:
    """The measured columns of a phase's row."""
    outcomes = measured.learned
    families = sorted({outcome.family for outcome in outcomes})
    return PhaseSummary(
        name=name,
        accuracy=mean([outcome.score for outcome in outcomes]),
        accuracy_without_tools=mean([outcome.score for outcome in measured.without_tools]),
        valid_chain_rate=mean([outcome.valid for outcome in outcomes]),
        mean_chain_length=mean([len(outcome.tools) for outcome in outcomes]),
        rapr=mean([any(outcome.tools) for outcome in outcomes]),
        racpr=mean([outcome.chained and len({tool for tool in outcome.tools if tool}) >= 2 for outcome in outcomes]),
        token_kl=token_kl,
        num_tasks=len(outcomes),
        seed=seed,
        rollout_tokens_per_s=sum(outcome.num_tokens for outcome in outcomes) / measured.wall_s,
        tools_share=share([o.tools_s for o in outcomes], outcomes),
        generation_share=share([o.generate_s for o in outcomes], outcomes),
        accuracy_by_family={f: mean([o.score for o in outcomes if o.family == f]) for f in families},
    )


def share(seconds: Sequence[float], outcomes: Sequence[Outcome]) -> float:
    """Part of the rollouts' own time; waiting for each other counts where it happened."""
    whole = sum(outcome.tools_s + outcome.generate_s for outcome in outcomes)
    return sum(seconds) / whole if whole else 0.0


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
