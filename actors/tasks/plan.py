"""A plan: the calls that solve a task, known from the scene's truth. Traces execute it with the real tools.

What a later call needs from an earlier observation (where the tracked thing ended, which frame the event was in) is
copied from what the tool really returned, so a trace never acts on something that the policy could not have known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from common.types import Task, ToolCall


@dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    """A value of the observation of step `step` (from 0), along `path` through its JSON: keys, and indices of lists."""

    step: int
    path: tuple[str | int, ...]

    def of(self, observations: Sequence[dict[str, Any]]) -> Any:
        """The value. Raises LookupError where the observation holds none: an error, or a shorter list."""
        value: Any = observations[self.step]
        for key in self.path:
            try:
                value = value[key]
            except TypeError:
                raise LookupError(f"step {self.step} returned nothing at {self.path}") from None
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What an auxiliary head should say where a call or an answer is written whose own text does not hold it.

    values: a box's x0, y0, x1, y1 or a point's x, y relative to the picture; a span's start and stop relative to the
    clip's length; all in [0, 1].
    """

    kind: Literal["box", "point", "span"]
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        count = {"box": 4, "point": 2, "span": 2}[self.kind]
        if len(self.values) != count or not all(0 <= value <= 1 for value in self.values):
            raise ValueError(f"a {self.kind} target has {count} values in [0, 1], got {self.values}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One call, with the thought written before it ("" for none).

    copies: arguments whose values come from earlier observations; what `call` says of them only holds their place.
    imitated: whether the policy
    should write this itself; the wrong part of a trap is there to be answered, not to be learned. about: what the call
    looks at, in words of the question ("the red plate"), for a thought to name. targets: beside the boxes and points
    among the call's own arguments.
    """

    thought: str
    call: ToolCall
    copies: dict[str, Copied] = field(default_factory=dict)
    imitated: bool = True
    about: str = ""
    targets: tuple[Target, ...] = ()

    def filled(self, observations: Sequence[dict[str, Any]]) -> ToolCall:
        """The call with what it copies. Raises LookupError where an earlier step did not return it."""
        if not self.copies:
            return self.call
        copied = {name: source.of(observations) for name, source in self.copies.items()}
        return ToolCall(name=self.call.name, arguments={**self.call.arguments, **copied})


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The calls for a task, and where its answer is written down from.

    level: of the curriculum. kind: golden (the shortest chain), or what became of it: trap, correction, near_miss,
    negative. answer: copied from an observation; None where the truth itself is written. thought: written before the
    answer. targets: of the answer. decoys: boxes on the grid that look like the right one, for traps.
    """

    task: Task
    steps: tuple[Step, ...]
    level: int
    kind: str = "golden"
    answer: Copied | None = None
    thought: str = ""
    targets: tuple[Target, ...] = ()
    decoys: tuple[tuple[int, int, int, int], ...] = ()
