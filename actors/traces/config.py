"""What is synthesised and how it is weighed. Light: imports no library."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

Thoughts: TypeAlias = Literal["none", "plan", "varied"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Emphasis:
    """Weights of imitated tokens: of tool names, of arguments."""

    w_op: float = 2.0
    w_arg: float = 2.0

    def __post_init__(self) -> None:
        if self.w_op <= 0 or self.w_arg <= 0:
            raise ValueError(f"w_op and w_arg must be positive, got {self.w_op} and {self.w_arg}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceMix:
    """Which variants of golden plans are synthesised (actors/traces/variants.py).

    golden, trap, correction, near_miss: shares of the plans that call tools, together 1; a plan that a variant cannot
    be made of stays golden. negative: share of the plans that need no tool that is kept; the others are left out.
    """

    golden: float = 0.85
    trap: float = 0.05
    correction: float = 0.05
    near_miss: float = 0.05
    negative: float = 1.0

    def __post_init__(self) -> None:
        for name in ("golden", "trap", "correction", "near_miss", "negative"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        total = self.golden + self.trap + self.correction + self.near_miss
        if not math.isclose(total, 1, abs_tol=1e-6):
            raise ValueError(f"golden, trap, correction and near_miss must add up to 1, got {total:g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceConfig:
    """How plans become traces.

    mix: see TraceMix. thoughts: before a call, "none"; "plan", those that the plan has; "varied", where it has none a
    short one of several (actors/traces/thoughts.py). reenact: every call is executed a second time without the cache,
    and a trace whose observations then differ is dropped. seed: of the variants and thoughts; a run gives its own.
    files: folders of traces that `pixelis data import` wrote; share: of every level's traces, in (0, 1], so many come
    from there instead (without files, none do).
    """

    mix: TraceMix = field(default_factory=TraceMix)
    thoughts: Thoughts = "plan"
    reenact: bool = False
    seed: int = 0
    files: tuple[Path, ...] = ()
    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share must be in (0, 1], got {self.share}; to use no files, name none")
        if self.thoughts not in ("none", "plan", "varied"):
            raise ValueError(f'thoughts must be "none", "plan" or "varied", got {self.thoughts!r}')
