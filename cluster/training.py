"""The phases of a run, in order, each once: base → SFT → CC-RFT → Pixel TTRL.

state.json says which phases are done, with their rows, and which checkpoint to continue from; so a run that was
stopped or killed goes on where it was, and one that is finished only says again what it found.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from actors.actor import Actor, Outcome
from actors.tasks.source import TaskSource
from cluster.evaluation.arms import answer, held_out, mean, measure
from cluster.evaluation.phase import phase_row
from cluster.kept_traces import share_of_files
from cluster.loop import Chunk, imitate, reinforce
from cluster.phases import RlPhase, SftPhase
from cluster.runtime import Ref
from cluster.selection import Hands, Selection
from cluster.summary import PhaseSummary
from cluster.system import System, load_state, next_version
from learner.learner import Learner
from replay.buffer import ReplayBuffer

PhaseName = Literal["base", "sft", "rft", "ttrl"]
ORDER: tuple[PhaseName, ...] = ("base", "sft", "rft", "ttrl")
TITLES = {"base": "base", "sft": "SFT", "rft": "CC-RFT", "ttrl": "Pixel TTRL"}
SAVE_S = 6.0
"""How long saving may take when a person stops a run."""
TRACED_SPLIT, INDEXED_SPLIT, NUM_INDEXED = "train", "index", 64
"""Traces and rollouts learn from one split; past experiences for the vote come from another."""
BEST = "best"
"""Folder, within the run's, of the best weights of a phase that chooses them."""


@dataclass(slots=True, kw_only=True)
class Trained:
    """What training came to: a row a phase, and the last evaluation's outcomes where one was made now."""

    rows: list[PhaseSummary] = field(default_factory=list)
    outcomes: tuple[Outcome, ...] = ()


async def train(system: System, wanted: Sequence[PhaseName]) -> Trained:
    """Run the wanted phases that are not done yet and evaluate each."""
    state = load_state(system.run.path)
    rows = {row["name"]: PhaseSummary(**row) for row in state.get("rows", [])}
    reached = await _restore(system, state)
    trained = Trained()
    try:
        for name in wanted:
            if name in rows or not (name == "base" or num_steps(system, name)):
                continue
            wall_s = await _perform(system, name, reached if state.get("phase") == name else 0)
            rows[name], trained.outcomes = await _row(system, name, wall_s)
            done = [asdict(rows[key]) for key in ORDER if key in rows]
            await system.checkpoint(name, num_steps(system, name), rows=done)
            shutil.rmtree(system.run.path / BEST, ignore_errors=True)
            system.reached = None
    except asyncio.CancelledError:
        if system.reached is not None:  # stopped by a person: keep what was learned since the last checkpoint
            await asyncio.wait_for(system.checkpoint(*system.reached), SAVE_S)
        raise
    trained.rows = [rows[key] for key in ORDER if key in rows]
    return trained


async def _restore(system: System, state: dict[str, Any]) -> int:
    """Put the learner where the run's state says, or at its beginning. Returns the step it stands at."""
    if "checkpoint" not in state:
        await system.learner.call_all(Learner.begin, "sft")
        return 0
    folder = system.run.path / "checkpoints" / state["checkpoint"]
    steps = await system.learner.call_all(Learner.restore, folder, next_version(system.run.path))
    await system.broadcast()
    system.progress.note(f"continuing after step {steps[0]} of {TITLES[state['phase']]}")
    return steps[0]


async def _perform(system: System, name: PhaseName, first_step: int) -> float:
    """Train one phase from `first_step`. Returns its seconds."""
    system.begin_stage(TITLES[name], num_steps(system, name))
    if name == "base":
        await system.broadcast()
    elif name == "sft":
        await _sft(system, first_step)
    else:
        await _rl(system, getattr(system.config.phases, name), first_step)
    system.progress.finish()
    return time.monotonic() - system.tally.began


async def _under_shift(system: System, phase: RlPhase) -> float:
    """Accuracy with tools on held-out tasks under the shift that `phase` adapts to."""
    settings = system.config.evaluation
    tasks = await system.source.call(TaskSource.tasks, settings.split, 0, settings.num_tasks, phase.shift)
    system.progress.start(f"evaluating under {phase.shift}", len(tasks))
    accuracy = mean([outcome.score for outcome in await answer(system, tasks)])
    system.progress.update(len(tasks), learned=accuracy)
    system.progress.finish()
    return accuracy


def num_steps(system: System, name: PhaseName) -> int:
    """Learner steps of a phase; 0 for the base, which is only measured."""
    phases = system.config.phases
    return {"base": 0, "sft": phases.sft.num_steps, "rft": phases.rft.num_steps, "ttrl": phases.ttrl.num_steps}[name]


async def _sft(system: System, first_step: int) -> None:
    """Imitate from `first_step`, then hand the actors what was learned."""
    phase = system.config.phases.sft
    if not first_step:
        await system.learner.call_all(Learner.begin, "sft")

    def make(chunk: Chunk) -> Ref[bytes]:
        if chunk.kept:
            return system.source.send(TaskSource.kept, chunk.start, chunk.count, level=chunk.level)
        plans = system.source.send(
            TaskSource.plans, TRACED_SPLIT, chunk.start, chunk.count, num_plates=chunk.num_plates, level=chunk.level
        )
        return system.pick_actor().send(Actor.trace, plans)

    selection = _selection(system, phase)

    async def after_step(step: int, metrics: dict[str, float]) -> None:
        metrics |= await selection.look(step)
        await system.after_step("sft", step, metrics, checkpoint=step % phase.checkpoint_every == 0)

    await selection.look(first_step)  # a run may have been stopped between a step and its validation
    share = share_of_files(system.config)
    await imitate(phase, learner=system.learner, make=make, after_step=after_step, first_step=first_step, share=share)
    if why := await selection.choose():
        system.progress.note(f"SFT ends with the weights {why}")
    await system.broadcast()


def _selection(system: System, phase: SftPhase) -> Selection:
    """Validation with tools by the system's actors; the record is `sft_validation` in state.json."""

    async def validate(step: int) -> float:
        system.progress.start("SFT: validating with tools", phase.validate_tasks)
        await system.broadcast()
        tasks = await system.source.call(TaskSource.tasks, phase.validate_split, 0, phase.validate_tasks, "")
        accuracy = mean([outcome.score for outcome in await answer(system, tasks)])
        system.progress.update(len(tasks), accuracy=accuracy)
        system.progress.start(TITLES["sft"], phase.num_steps)
        system.progress.update(step)
        return accuracy

    async def go_back(folder: Path) -> None:
        await system.learner.call_all(Learner.restore, folder, next_version(system.run.path))

    hands = Hands(
        validate=validate,
        keep=lambda folder: system.learner.call_all(Learner.save, folder),
        go_back=go_back,
        record=lambda values: system.save_state(sft_validation=values),
    )
    recorded = load_state(system.run.path).get("sft_validation", {})
    return Selection(phase, hands, folder=system.run.path / BEST, recorded=recorded)


async def _rl(system: System, phase: RlPhase, first_step: int) -> None:
    """Act and learn from `first_step`; past experiences are there before anyone votes."""
    if not first_step:
        await system.learner.call_all(Learner.begin, phase.name)
        await system.broadcast()
        if phase.votes:
            await remember(system)
        if phase.shift:
            system.save_state(shifted_before=await _under_shift(system, phase))
        if phase.votes or phase.shift:
            system.progress.start(TITLES[phase.name], phase.num_steps)
    await system.replay.call(
        ReplayBuffer.begin,
        phase.name,
        groups_per_step=phase.groups_per_step,
        max_policy_lag=phase.max_policy_lag,
        votes=phase.votes,
        step=first_step,
        version=system.version,
    )
    if first_step:
        await system.replay.call(ReplayBuffer.rewind, first_step, version=system.version)
    await reinforce(system, phase, first_step=first_step)


async def remember(system: System) -> None:
    """Fill the neighbour index with what the policy itself does on tasks of a split of their own; no truth is used."""
    tasks = await system.source.call(TaskSource.tasks, INDEXED_SPLIT, 0, NUM_INDEXED)
    system.progress.start("remembering", len(tasks))
    outcomes = await answer(system, tasks)
    for task, outcome in zip(tasks, outcomes, strict=True):
        await system.replay.call(
            ReplayBuffer.remember,
            system.pick_actor().send(Actor.embed, task.query),
            query_id=task.query.query_id,
            family=task.family,
            chain=outcome.tools,
            answer=outcome.answer,
            confidence=float(outcome.valid),
            version=system.version,
        )


async def _row(system: System, name: PhaseName, wall_s: float) -> tuple[PhaseSummary, tuple[Outcome, ...]]:
    """Evaluate the policy at the end of a phase and say how the phase ran."""
    settings, tally = system.config.evaluation, system.tally
    tasks = await held_out(system, settings)
    measured = await measure(system, tasks, settings.phase_arms, strips=settings.strips)
    row = await asyncio.to_thread(phase_row, name, measured, seed=system.config.seed, token_kl=tally.token_kl)
    if name == "base":
        return replace(row, token_kl=0.0), measured.learned
    stats = await system.replay.call(ReplayBuffer.stats)
    acted = name in ("rft", "ttrl")
    if acted and (phase := getattr(system.config.phases, name)).shift:
        before = load_state(system.run.path).get("shifted_before")
        after = await _under_shift(system, phase)
        row = replace(row, shift=phase.shift, shifted_accuracy_before=before, shifted_accuracy=after)
    return replace(
        row,
        rollout_tokens_per_s=tally.num_sampled / wall_s if acted else row.rollout_tokens_per_s,
        learner_tokens_per_s=tally.num_tokens / tally.learn_s if tally.learn_s else None,
        policy_lag=stats.phase_policy_lag if acted else None,
        learning_share=tally.learn_s / wall_s,
        wall_s=wall_s,
    ), measured.learned
