"""What a run, a question or a comparison came to: one value for programs (JSON), one table for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseSummary:
    """A row: the policy at the end of a phase, evaluated on held-out tasks, and how the phase ran.

    accuracy, accuracy_without_tools: mean score. valid_chain_rate: share of rollouts whose every call worked. rapr,
    racpr: share with at least one visual call, with two or more distinct chained tools. token_kl: to the anchor, nats
    a token. policy_lag: the largest learned from. *_share: of the phase's wall time; acting and learning overlap, so
    they may add up to more than 1. A phase that did not train has no learner figures. shift: what a phase adapted
    to; shifted_accuracy_before, shifted_accuracy: on tasks under it, before and after, with tools. comparison: every
    figure of every arm that was measured (cluster/evaluation/results.Comparison), as JSON values.
    """

    name: str
    accuracy: float
    accuracy_without_tools: float
    valid_chain_rate: float
    mean_chain_length: float
    rapr: float
    racpr: float
    token_kl: float | None
    num_tasks: int
    seed: int
    rollout_tokens_per_s: float | None = None
    learner_tokens_per_s: float | None = None
    policy_lag: int | None = None
    tools_share: float | None = None
    generation_share: float | None = None
    learning_share: float | None = None
    wall_s: float = 0.0
    accuracy_by_family: Mapping[str, float] = field(default_factory=dict)
    comparison: Mapping[str, Any] = field(default_factory=dict)
    shift: str = ""
    shifted_accuracy_before: float | None = None
    shifted_accuracy: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AnsweredCall:
    """A call as a person reads it. text: what came back; error: its code, if it failed."""

    name: str
    arguments: Mapping[str, Any]
    text: str
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A real picture, what was asked, and what the agent did and said. truth: where it is known."""

    picture: str
    question: str
    answer: str | None
    calls: tuple[AnsweredCall, ...] = ()
    truth: str | None = None
    right: bool | None = None
    wall_s: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def table(self) -> RenderableType:
        """The calls, then the answer."""
        from rich.console import Group
        from rich.text import Text

        lines = [Text(f"{self.picture}: {self.question}", style="bold")]
        for call in self.calls:
            arguments = json.dumps(dict(call.arguments), ensure_ascii=False)
            lines.append(
                Text.assemble("  ", (call.name, "cyan"), f" {arguments} → ", (call.text, "red" if call.error else ""))
            )
        lines.append(Text.assemble("  answer: ", (self.answer if self.answer is not None else "none", "bold")))
        if self.truth is not None:
            mark = ("right", "green") if self.right else ("wrong", "red")
            lines.append(Text.assemble(f"  known answer: {self.truth} (", mark, ")"))
        return Group(*lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """summary.json of a run.

    back_ends: a tool → what it ran on. answers: to real pictures. rollout_tokens_per_s, learner_tokens_per_s: over the
    training phases. peak_memory_gib: of all processes together, None where it was not watched.
    """

    name: str
    command: str
    phases: tuple[PhaseSummary, ...]
    versions: Mapping[str, str]
    config: Mapping[str, Any]
    back_ends: Mapping[str, str]
    machine: str
    wall_s: float
    rollout_tokens_per_s: float | None = None
    learner_tokens_per_s: float | None = None
    max_policy_lag_seen: int | None = None
    tool_cpu_ms_per_rollout: float | None = None
    peak_memory_gib: float | None = None
    answers: tuple[Answer, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def table(self) -> RenderableType:
        """The table of phases, then a line of figures."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(title=f"{self.name} ({self.command})", title_justify="left", header_style="bold")
        for number, column in enumerate(COLUMNS):
            table.add_column(column, justify="left" if number == 0 else "right")
        for phase in self.phases:
            table.add_row(*cells(asdict(phase)))
        adapted = [
            Text(
                f"{p.name} under {p.shift}: {100 * p.shifted_accuracy_before:.1f} % → {100 * p.shifted_accuracy:.1f} %"
            )
            for p in self.phases
            if p.shifted_accuracy_before is not None and p.shifted_accuracy is not None
        ]
        lag = "" if self.max_policy_lag_seen is None else f" · largest policy lag {self.max_policy_lag_seen}"
        memory = "" if self.peak_memory_gib is None else f" · peak memory {self.peak_memory_gib:.1f} GiB"
        footer = Text(f"{clock(self.wall_s)}{lag}{memory} · {self.machine}", style="dim")
        return Group(table, *adapted, *(answer.table() for answer in self.answers), footer)


COLUMNS = (
    "phase",
    "with tools",
    "without",
    "valid chains",
    "chain",
    "RaPR",
    "RaCPR",
    "KL nats",
    "rollout tok/s",
    "learner tok/s",
    "lag",
    "tools",
    "generation",
    "learning",
    "time",
)


def cells(phase: Mapping[str, Any]) -> Sequence[str]:
    """A phase of summary.json as text, in the order of COLUMNS."""

    def share(name: str) -> str:
        value = phase.get(name)
        return "–" if value is None else f"{100 * value:.1f} %"

    def number(name: str, digits: int) -> str:
        value = phase.get(name)
        return "–" if value is None else f"{value:,.{digits}f}"

    return (
        str(phase["name"]),
        share("accuracy"),
        share("accuracy_without_tools"),
        share("valid_chain_rate"),
        number("mean_chain_length", 2),
        share("rapr"),
        share("racpr"),
        number("token_kl", 3),
        number("rollout_tokens_per_s", 0),
        number("learner_tokens_per_s", 0),
        number("policy_lag", 0),
        share("tools_share"),
        share("generation_share"),
        share("learning_share"),
        clock(phase.get("wall_s")),
    )


def clock(seconds: float | None) -> str:
    """62.4 → "1:02"."""
    if seconds is None:
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
