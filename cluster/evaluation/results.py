"""The result of an evaluation as one value: JSON for programs, tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from actors.actor import Outcome
from actors.arms import Arm
from cluster.evaluation.arms import Measured
from cluster.evaluation.metrics import Effect, Figures, by_family, effect, figures

if TYPE_CHECKING:
    from rich.console import RenderableType

NUM_SHOWN = 3
"""Answers of each family that are kept to be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """One arm: over all tasks, and in each family."""

    overall: Figures
    families: Mapping[str, Figures]


@dataclass(frozen=True, slots=True, kw_only=True)
class Effects:
    """What the learned arm gains and harms against another one."""

    overall: Effect
    families: Mapping[str, Effect]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The arms of one policy on the same tasks. effects: the other arm → what learned does against it."""

    arms: Mapping[str, Scores]
    effects: Mapping[str, Effects]

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Comparison:
        """Read back from JSON values."""
        import msgspec

        return msgspec.convert(values, cls)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A task to be read: what was asked, what is right, and what each arm said."""

    task_id: str
    family: str
    question: str
    truth: str
    answers: Mapping[str, str | None]
    right: Mapping[str, bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """eval.json. tasks: which they are, in words. version: of the policy. wall_s: of everything, starting included;
    measuring_s: of the rollouts of all arms together, in which num_tokens were sampled.
    """

    name: str
    command: str
    tasks: str
    num_tasks: int
    seed: int
    version: int
    comparison: Comparison
    shown: tuple[Shown, ...]
    versions: Mapping[str, str]
    config: Mapping[str, Any]
    back_ends: Mapping[str, str]
    machine: str
    measuring_s: float
    wall_s: float
    num_tokens: int
    tool_cpu_ms_per_rollout: float | None = None
    page: str = field(default="")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def table(self) -> RenderableType:
        from cluster.evaluation.tables import table

        return table(self)


def compare(measured: Measured, *, seed: int = 0) -> Comparison:
    """Every figure of every arm, and what the learned arm does against each other one."""
    planned = measured.planned
    families = {arm: by_family(outcomes) for arm, outcomes in measured.arms.items()}
    arms: dict[str, Scores] = {
        arm: Scores(
            overall=figures(outcomes, planned=planned, seed=seed),
            families={name: figures(some, planned=planned, seed=seed) for name, some in families[arm].items()},
        )
        for arm, outcomes in measured.arms.items()
    }
    effects: dict[str, Effects] = {
        base: Effects(
            overall=effect(measured.learned, outcomes, seed=seed),
            families={
                name: effect(families["learned"][name], some, seed=seed) for name, some in families[base].items()
            },
        )
        for base, outcomes in measured.arms.items()
        if base != "learned"
    }
    return Comparison(arms=arms, effects=effects)


def to_be_read(measured: Measured) -> tuple[Shown, ...]:
    """The first tasks of each family with what each arm said."""
    chosen = [outcome for some in by_family(measured.learned).values() for outcome in some[:NUM_SHOWN]]
    return tuple(_shown(outcome, measured.arms) for outcome in chosen)


def _shown(outcome: Outcome, arms: Mapping[Arm, Sequence[Outcome]]) -> Shown:
    same = {arm: next(o for o in outcomes if o.task_id == outcome.task_id) for arm, outcomes in arms.items()}
    return Shown(
        task_id=outcome.task_id,
        family=outcome.family,
        question=outcome.question,
        truth=outcome.truth,
        answers={arm: o.answer for arm, o in same.items()},
        right={arm: o.score >= 0.5 for arm, o in same.items()},
    )


def item_lines(measured: Measured) -> list[dict[str, Any]]:
    """One line an outcome, for whoever wants to pair tasks across policies."""
    return [
        {
            "task_id": o.task_id,
            "arm": arm,
            "family": o.family,
            "kind": o.kind,
            "score": o.score,
            "question": o.question,
            "answer": o.answer,
            "truth": o.truth,
            "stop_reason": o.stop_reason,
            "tools": o.tools,
            "num_errors": o.num_errors,
            "chain": o.chain,
            "num_tokens": o.num_tokens,
        }
        for arm, outcomes in measured.arms.items()
        for o in outcomes
    ]
