"""A plan: the calls that solve a task, known from the scene's truth. Traces execute it with the real tools."""

from __future__ import annotations

from dataclasses import dataclass

from common.types import Task, ToolCall


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One call, with the thought written before it ("" for none)."""

    thought: str
    call: ToolCall


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The shortest chain for a task. level: of the curriculum. kind: golden here; traps and corrections are other
    plans.
    """

    task: Task
    steps: tuple[Step, ...]
    level: int
    kind: str = "golden"
