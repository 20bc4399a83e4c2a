"""Selectors: which groups the next draw takes.

Whole groups, each at most once a draw. `groups` come in the order of their numbers; `ready` says which may be taken now
(all there, voted on, young enough). A choice depends on the groups, the seed, the phase and the step alone, so whoever
reads the log up to a draw can take the decision again.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from common.seeds import stream
from replay.config import Drawing
from replay.state import Group

MIN_PRIORITY = 0.01
"""Of a group whose siblings agree: a fiftieth of what siblings of scores 0 and 1 have, so it is rare, not never."""


class Selector(Protocol):
    def select(
        self, groups: Iterable[Group], ready: Callable[[Group], bool], *, count: int, step: int
    ) -> list[Group] | None:
        """`count` groups, or None while there are not enough."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fifo:
    """First in, first out by number of admission.

    in_order: take the lowest numbers and wait while one of them is not ready (what is drawn then depends on no timing);
    otherwise take the lowest numbers among those that are ready.
    """

    in_order: bool = False

    def select(
        self, groups: Iterable[Group], ready: Callable[[Group], bool], *, count: int, step: int = 0
    ) -> list[Group] | None:
        taken: list[Group] = []
        for group in groups:
            if len(taken) == count:
                break
            if ready(group):
                taken.append(group)
            elif self.in_order:
                return None
        return taken if len(taken) == count else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Uniform:
    """Every set of `count` ready groups is as likely as any other. window: of the newest so many only; 0 for all."""

    seed: int
    phase: str
    window: int = 0

    def select(
        self, groups: Iterable[Group], ready: Callable[[Group], bool], *, count: int, step: int
    ) -> list[Group] | None:
        pool = [group for group in groups if ready(group)][-self.window :]
        if len(pool) < count:
            return None
        places = stream(self.seed, "draw", self.phase, step).choice(len(pool), count, replace=False)
        return [pool[place] for place in sorted(places)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prioritised:
    """One after another, each with a probability in proportion to `priority`^exponent among those that are left.

    Drawn at once as the largest of log w + Gumbel noise, which has the same distribution (arXiv:1903.06059).
    """

    seed: int
    phase: str
    exponent: float

    def select(
        self, groups: Iterable[Group], ready: Callable[[Group], bool], *, count: int, step: int
    ) -> list[Group] | None:
        pool = [group for group in groups if ready(group)]
        if len(pool) < count:
            return None
        noise = stream(self.seed, "draw", self.phase, step).gumbel(size=len(pool))
        keys = noise + self.exponent * np.log([priority(group) for group in pool])
        return [pool[place] for place in sorted(np.argsort(-keys, kind="stable")[:count])]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """⌈fresh · count⌉ groups that were never drawn, the lowest numbers first, and the others uniformly from those that
    were; where those are too few, more fresh ones.
    """

    seed: int
    phase: str
    fresh: float

    def select(
        self, groups: Iterable[Group], ready: Callable[[Group], bool], *, count: int, step: int
    ) -> list[Group] | None:
        pool = [group for group in groups if ready(group)]
        new, old = [group for group in pool if not group.draws], [group for group in pool if group.draws]
        num_old = min(count - math.ceil(self.fresh * count), len(old))
        if len(new) < count - num_old:
            return None
        places = stream(self.seed, "draw", self.phase, step).choice(len(old), num_old, replace=False) if num_old else ()
        return sorted(new[: count - num_old] + [old[place] for place in places], key=lambda group: group.number)


def selector_of(drawing: Drawing, phase: str) -> Selector:
    seed = drawing.seed
    match drawing.selector:
        case "fifo":
            return Fifo()
        case "in_order":
            return Fifo(in_order=True)
        case "uniform":
            return Uniform(seed=seed, phase=phase)
        case "windowed":
            return Uniform(seed=seed, phase=phase, window=drawing.window)
        case "prioritised":
            return Prioritised(seed=seed, phase=phase, exponent=drawing.exponent)
        case "mixture":
            return Mixture(seed=seed, phase=phase, fresh=drawing.fresh)


def priority(group: Group) -> float:
    """How much its siblings differ, which is what advantages are made of: the standard deviation of their scores, or of
    agreeing with the vote where there are no scores; at least MIN_PRIORITY.
    """
    scores = [member.score for member in group.usable if member.score is not None]
    if not scores and group.consensus is not None:
        scores = [float(agrees) for agrees in group.consensus.agrees.values()]
    return max(statistics.pstdev(scores), MIN_PRIORITY) if scores else MIN_PRIORITY
