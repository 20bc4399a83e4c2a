"""Selectors: which groups the next draw takes.

Whole groups, each at most once a draw, from a pool of the groups that are live (replay/pool) and by number. A choice
depends on the pool, the seed, the phase and the step alone, so whoever reads the log up to a draw can take the decision
again. It looks at the groups that it takes, not at the others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from common.seeds import stream
from replay.config import Drawing
from replay.pool import Pool, Shares, owner
from replay.state import Group

MIN_PRIORITY = 0.01
"""Of a group whose siblings agree: a fiftieth of what siblings of scores 0 and 1 have, so it is rare, not never."""
FRACTION = 53
"""Bits of a random place, and of a share: as many as a float has."""
MOST_DOUBLINGS = 1100
"""By which a share may exceed the least one; no priority that is a float does at an exponent of 1."""


class Selector(Protocol):
    def select(self, pool: Pool, *, count: int, step: int) -> list[int] | None:
        """The numbers of `count` groups, ascending, or None while there are not enough."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fifo:
    """First in, first out by number of admission.

    in_order: take the lowest numbers and wait while one of them is not ready (what is drawn then depends on no timing);
    otherwise take the lowest numbers among those that are ready.
    """

    in_order: bool = False

    def select(self, pool: Pool, *, count: int, step: int = 0) -> list[int] | None:
        if pool.num_ready < count:
            return None
        taken = [pool.ready_at(place) for place in range(count)]
        return None if self.in_order and pool.waiting and owner(0, pool.waiting) < taken[-1] else taken


@dataclass(frozen=True, slots=True, kw_only=True)
class Uniform:
    """Every set of `count` ready groups is as likely as any other. window: of the newest so many only; 0 for all."""

    seed: int
    phase: str
    window: int = 0

    def select(self, pool: Pool, *, count: int, step: int) -> list[int] | None:
        among = min(self.window or pool.num_ready, pool.num_ready)
        if among < count:
            return None
        places = stream(self.seed, "draw", self.phase, step).choice(among, count, replace=False)
        return [pool.ready_at(pool.num_ready - among + int(place)) for place in sorted(places)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prioritised:
    """One after another, each with a probability in proportion to its share among those that are left."""

    seed: int
    phase: str

    def select(self, pool: Pool, *, count: int, step: int) -> list[int] | None:
        if pool.num_ready < count:
            return None
        taken = Shares()
        for chance in stream(self.seed, "draw", self.phase, step).random(count):
            place = int(chance * 2**FRACTION) * (pool.total + taken.total) >> FRACTION
            number = owner(place, pool.fresh, pool.drawn, taken)
            taken.put(number, -pool.share(number))
        return sorted(taken.sums[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """⌈fresh · count⌉ groups that were never drawn, the lowest numbers first, and the others uniformly from those that
    were; where those are too few, more fresh ones.
    """

    seed: int
    phase: str
    fresh: float

    def select(self, pool: Pool, *, count: int, step: int) -> list[int] | None:
        num_old = min(count - math.ceil(self.fresh * count), len(pool.drawn))
        if len(pool.fresh) < count - num_old:
            return None
        among = len(pool.drawn)
        places = stream(self.seed, "draw", self.phase, step).choice(among, num_old, replace=False) if num_old else ()
        new = [owner(place, pool.fresh) for place in range(count - num_old)]
        return sorted(new + [owner(int(place), pool.drawn) for place in places])


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
            return Prioritised(seed=seed, phase=phase)
        case "mixture":
            return Mixture(seed=seed, phase=phase, fresh=drawing.fresh)


def share_of(group: Group, drawing: Drawing) -> int:
    """The share of a ready group in the pool: in proportion to `priority`^exponent where that matters, else 1."""
    if drawing.selector != "prioritised":
        return 1
    doublings = min(drawing.exponent * math.log2(priority(group) / MIN_PRIORITY), MOST_DOUBLINGS)
    whole = math.floor(doublings)
    return round(2 ** (doublings - whole + FRACTION)) << whole


def priority(group: Group) -> float:
    """How much its siblings differ, which is what advantages are made of: the standard deviation of their scores, or of
    agreeing with the vote where there are no scores; MIN_PRIORITY where that is less, or no finite number.
    """
    scores = [member.score for member in group.usable if member.score is not None]
    if not scores and group.consensus is not None:
        scores = [float(agrees) for agrees in group.consensus.agrees.values()]
    if not scores:
        return MIN_PRIORITY
    mean = sum(scores) / len(scores)  # statistics.pstdev takes forty times as long, for every group at opening
    spread = math.dist(scores, [mean] * len(scores)) / math.sqrt(len(scores))
    return spread if MIN_PRIORITY < spread < math.inf else MIN_PRIORITY
