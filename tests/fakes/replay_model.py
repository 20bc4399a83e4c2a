"""What a replay must do, in few lines: every group of a phase is kept for ever, and everything is counted anew."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from replay.config import Drawing


@dataclass(slots=True)
class Group:
    """rollouts: id → (oldest version, score), None for a quarantined one. vote: "" an abstention. over: why, or ""."""

    number: int
    size: int
    rollouts: dict[str, tuple[int, float] | None] = field(default_factory=dict)
    vote: str | None = None
    over: str = ""

    @property
    def usable(self) -> dict[str, tuple[int, float]]:
        held = {name: rollout for name, rollout in self.rollouts.items() if rollout is not None}
        return dict(sorted(held.items(), key=lambda item: (len(item[0]), item[0])))


class Model:
    """One phase. published: version → the step it was published at. draws: step → groups, of the surviving line.

    past: usable rollouts of earlier phases and for groups that were over, by what became of them.
    """

    def __init__(self, *, groups_per_step: int, lag: int, drawing: Drawing, votes: bool, drop: bool, keep: int) -> None:
        self.groups_per_step, self.lag, self.drawing = groups_per_step, lag, drawing
        self.votes, self.drop, self.keep = votes, drop, keep
        self.past, self.groups, self.draws = Counter[str](), dict[str, Group](), dict[int, list[str]]()
        self.num_inserted = self.num_quarantined = 0
        self.begin(0, 0)

    def begin(self, step: int, version: int) -> None:
        self.past = self.counts(over="phase_over")
        self.groups, self.draws, self.published = {}, {}, {version: step}
        self.step = self.floor = step

    def times(self, name: str) -> int:
        return sum(name in names for names in self.draws.values())

    def live(self) -> dict[str, Group]:
        return {n: g for n, g in self.groups.items() if not g.over and self.times(n) < self.drawing.max_reuse}

    def counts(self, over: str = "live") -> Counter[str]:
        """Usable rollouts by what became of them. over: of those that may still be drawn and never were."""
        found, live = Counter(self.past), self.live()
        for name, group in self.groups.items():
            drawn = self.times(name) > 0 and (name not in live or over != "live")
            found["drawn" if drawn else group.over or over] += len(group.usable)
        return found

    @property
    def next_step(self) -> int:
        return max(self.draws) + 1 if self.draws else self.floor

    def may_admit(self) -> bool:
        learned = {name for step, names in self.draws.items() if step < self.step for name in names}
        returned = sum(bool(group.over) and not self.times(name) for name, group in self.groups.items())
        fresh = -(-self.groups_per_step // self.drawing.samples_per_insert)
        ahead = max(self.drawing.min_groups, self.groups_per_step, (self.lag + 1) * fresh) + self.drawing.error_budget
        return len(self.groups) < len(learned) + returned + ahead

    def ready(self, group: Group) -> bool:
        return 0 < group.size == len(group.rollouts) and (not self.votes or group.vote is not None)

    def judge(self, group: Group) -> None:
        if group.over or not self.ready(group):
            return
        scores = {score for _, score in group.usable.values()}
        if len(group.usable) < min(2, group.size):
            group.over = "quarantined"
        elif self.votes:
            group.over = "" if group.vote else "abstained"
        elif self.drop and len(scores) == 1:
            group.over = "zero_variance"

    def age(self, group: Group, step: int) -> int:
        oldest = min(version for version, _ in group.usable.values())
        return step - max(at for version, at in self.published.items() if version <= oldest)

    def pool(self, step: int) -> list[str]:
        """The groups that a draw for `step` may take; what is too old expires."""
        ready = {name: group for name, group in self.live().items() if self.ready(group)}
        for group in ready.values():
            if self.age(group, step) > self.lag:
                group.over = "expired"
        return [name for name, group in ready.items() if not group.over]

    def choices(self, step: int) -> tuple[list[str], int, int]:
        """(the groups to take from, how many of them, how many of these the first that were never drawn); none to take
        from while a draw waits.
        """
        pool, count = self.pool(step), self.groups_per_step
        first = list(self.live())[:count]
        enough = len(pool) >= max(count, self.drawing.min_groups)
        match self.drawing.selector:
            case "fifo":
                pool = pool[:count]
            case "in_order":
                enough, pool = enough and pool[:count] == first, first
            case "windowed":
                pool = pool[-self.drawing.window :]
            case "mixture":
                old = [name for name in pool if self.times(name)]
                num_old = min(count - -(-count * self.drawing.fresh // 1), len(old))
                fresh = [name for name in pool if not self.times(name)][: int(count - num_old)]
                return (fresh + old if enough and len(fresh) + num_old == count else []), count, len(fresh)
        return (pool if enough else []), count, 0

    def drawn(self, step: int, names: list[str]) -> None:
        self.draws[step] = names
        self.floor = max(self.floor, self.next_step - self.keep)

    def rewind(self, step: int, version: int, orphans: bool) -> None:
        for at in [at for at in self.draws if at >= step]:
            for name in self.draws.pop(at):
                self.groups[name].over = ""
        self.step = step
        self.published = {held: min(at, step) for held, at in (self.published | {version: step}).items()}
        for group in self.live().values() if orphans else ():
            group.over = "" if self.ready(group) else "orphaned"
