"""What a replay must do, in few lines: every group of a phase is kept for ever, and everything is counted anew."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from itertools import combinations

from replay.records import Begin


@dataclass(slots=True)
class Group:
    """usable: id → (oldest version, score). vote: None while there is none, "" an abstention; "none" where none is
    taken. ended: why, by whoever ended it, or "".
    """

    size: int
    vote: str | None
    usable: dict[str, tuple[int, float]] = field(default_factory=dict)
    num_quarantined: int = 0
    ended: str = ""

    @property
    def num_missing(self) -> int:
        return self.size - len(self.usable) - self.num_quarantined

    @property
    def ready(self) -> bool:
        return not self.num_missing and self.vote is not None


class Model:
    """One phase. groups: in the order of admission. draws: step → groups, of the surviving line. published: version →
    the learner's step then.
    """

    def __init__(self, phase: Begin, *, drop: bool) -> None:
        assert phase.drawing is not None
        self.phase, self.drawing, self.drop = phase, phase.drawing, drop and not phase.votes
        self.groups, self.draws = dict[str, Group](), dict[int, list[str]]()
        self.step, self.published = phase.step, {phase.version: phase.step}

    def times(self, name: str) -> int:
        return sum(name in names for names in self.draws.values())

    def fate(self, name: str) -> str:
        """ "live" while it may be drawn (again); "drawn" when it was, whatever ended it; or why it never will be."""
        group, times = self.groups[name], self.times(name)
        if times == self.drawing.max_reuse or (times and group.ended):
            return "drawn"
        if group.ended or not group.ready:
            return group.ended or "live"
        same = len({score for _, score in group.usable.values()}) == 1
        why = {"quarantined": len(group.usable) < 2, "abstained": not group.vote, "zero_variance": self.drop and same}
        return next((reason for reason, holds in why.items() if holds), "live")

    def live(self) -> list[str]:
        return [name for name in self.groups if self.fate(name) == "live"]

    def fates(self) -> Counter[str]:
        """Usable rollouts by the fate of their groups."""
        return Counter(self.fate(name) for name, group in self.groups.items() for _ in group.usable)

    def may_admit(self) -> bool:
        """At most so many groups that no finished step has learned from and that were not given back."""
        learned = {name for step, names in self.draws.items() if step < self.step for name in names}
        under_way = {name for name in self.groups if self.fate(name) in ("live", "drawn")} - learned
        count, lag, drawing = self.phase.groups_per_step, self.phase.max_policy_lag, self.drawing
        most = max(drawing.min_groups, count, (lag + 1) * math.ceil(count / drawing.samples_per_insert))
        return len(under_way) < most + drawing.error_budget

    def age(self, name: str, step: int) -> float:
        """Learner steps since its oldest version was published; infinite for one of an earlier phase."""
        oldest = min(version for version, _ in self.groups[name].usable.values())
        return step - max((at for version, at in self.published.items() if version <= oldest), default=-math.inf)

    def expire(self, step: int) -> None:
        """What is too old when a draw for `step` is asked for never comes back."""
        for name in self.live():
            if self.groups[name].ready and self.age(name, step) > self.phase.max_policy_lag:
                self.groups[name].ended = "expired"

    def legal_draws(self) -> list[list[str]]:
        """All that the next draw may be; none while it must wait."""
        count, drawing, live = self.phase.groups_per_step, self.drawing, self.live()
        pool = [name for name in live if self.groups[name].ready]
        first = [name for name in live[:count] if name in pool]
        may = {"fifo": pool[:count], "in_order": first, "windowed": pool[-drawing.window :]}.get(drawing.selector, pool)
        draws = [list(draw) for draw in combinations(may, count) if len(pool) >= drawing.min_groups]
        if drawing.selector != "mixture":
            return draws
        old, new = [name for name in pool if self.times(name)], [name for name in pool if not self.times(name)]
        num_old = min(count - math.ceil(drawing.fresh * count), len(old))
        return [draw for draw in draws if {*new[: count - num_old]} <= {*draw} and len({*old} & {*draw}) == num_old]

    def rewind(self, step: int, version: int, *, orphans: bool) -> None:
        """Draws from `step` on never happened; versions published since count as published at it."""
        for name in [name for at, names in self.draws.items() if at >= step for name in names]:
            self.groups[name].ended = ""
        self.draws = {at: names for at, names in self.draws.items() if at < step}
        self.step, published = step, self.published | {version: step}
        self.published = {held: min(at, step) for held, at in published.items()}
        for name in self.live():
            if orphans and not self.groups[name].ready:
                self.groups[name].ended = "orphaned"
