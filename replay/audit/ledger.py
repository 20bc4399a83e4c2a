"""The audit's own account of a log: which rollouts it holds and what became of each.

It follows every rollout by itself, where replay/state.py keeps counters: the two are compared, so a mistake in either
shows. A rollout is counted as drawn because a surviving draw names its record, not because its group was drawn.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from common.columns import RolloutKeys
from replay.audit.findings import Balance
from replay.records import Admit, Advance, Begin, Drawn, Erased, Expire, Record, Release, Rewind, Settle, Spend

Fate: TypeAlias = tuple[Literal["live", "spent", "expired", "quarantined", "erased"], str]
"""What became of a rollout, and why it was spent."""

LIVE: Fate = ("live", "")
DRAWN: Fate = ("spent", "drawn")
QUARANTINED: Fate = ("quarantined", "")
ERASED: Fate = ("erased", "")


@dataclass(slots=True, kw_only=True)
class Member:
    """A rollout of a group. num_draws: surviving draws that name it. closed: its fate where it was given up."""

    rollout_id: str
    sequence: int
    oldest_version: int | None
    usable: bool
    num_draws: int = 0
    closed: Fate | None = None

    def fate(self, max_reuse: int) -> Fate:
        if not self.usable:
            return QUARANTINED
        return self.closed or (DRAWN if self.num_draws >= max_reuse else LIVE)


@dataclass(slots=True, kw_only=True)
class Group:
    """number: of admission. size: rollouts that make it whole; 0 before the first. num_draws: surviving ones.

    given_up: why it was ended before it was ever drawn. retired: it was ended after a draw, so it may not be drawn
    again and counts as drawn.
    """

    number: int
    size: int = 0
    members: list[Member] = field(default_factory=list)
    voted: bool = False
    abstained: bool = False
    given_up: str = ""
    retired: bool = False
    num_draws: int = 0

    @property
    def complete(self) -> bool:
        return 0 < self.size == len(self.members)

    @property
    def usable(self) -> list[Member]:
        return [member for member in self.members if member.usable]


@dataclass(slots=True)
class Ledger:
    """The account up to the last record taken. groups: of this phase, by id. draws: surviving ones by step.

    published: policy version → the step it counts as published at. past: rollouts whose fate no record can change.
    erased: the records of those that tombstones stand in for.
    """

    phase: Begin | None = None
    groups: dict[str, Group] = field(default_factory=dict)
    draws: dict[int, Drawn] = field(default_factory=dict)
    published: dict[int, int] = field(default_factory=dict)
    past: Counter[Fate] = field(default_factory=Counter)
    erased: set[int] = field(default_factory=set)
    num_draws: int = 0

    @property
    def max_reuse(self) -> int:
        """How often a group of this phase may be drawn."""
        drawing = None if self.phase is None else self.phase.drawing
        return 1 if drawing is None else drawing.max_reuse

    def is_open(self, group: Group) -> bool:
        """It may still be drawn."""
        return not group.given_up and not group.retired and group.num_draws < self.max_reuse

    def arrive(self, keys: RolloutKeys, sequence: int) -> None:
        """A rollout was kept as record `sequence`."""
        group = self.groups.get(keys.group_id)
        if group is None or not self.is_open(group):
            self.past[QUARANTINED if keys.quarantined else ("spent", "late")] += 1
            return
        group.size = keys.group_size
        group.members.append(
            Member(
                rollout_id=keys.rollout_id,
                sequence=sequence,
                oldest_version=keys.oldest_version,
                usable=not keys.quarantined,
            )
        )

    def erase(self, sequence: int) -> None:
        """A tombstone stands in for the rollout that was record `sequence`."""
        self.past[ERASED] += 1
        self.erased.add(sequence)

    def lose(self, num_rollouts: int) -> None:
        """Rollouts whose records are damaged: quarantined."""
        self.past[QUARANTINED] += num_rollouts

    def take(self, record: Record) -> None:
        match record:
            case Begin():
                self._begin(record)
            case Admit():
                self.groups.setdefault(record.group_id, Group(number=record.number))
            case Settle(consensus=vote) if vote.group_id in self.groups:
                group = self.groups[vote.group_id]
                group.voted, group.abstained = True, vote.answer is None
            case Spend():
                self._give_up(record.group_id, ("spent", record.reason))
            case Expire():
                self._give_up(record.group_id, ("expired", ""))
            case Drawn():
                self.num_draws += 1
                self._drawn(record, 1)
                self.draws[record.step] = record
            case Advance():
                self.published[record.version] = record.step
            case Rewind():
                self._rewind(record)
            case Release():  # its draws are never taken back
                self.draws = {step: draw for step, draw in self.draws.items() if step >= record.step}
            case Erased():
                self._erased(record)

    def balance(self, inserted: int) -> Balance:
        """inserted: rollouts, counted by the kinds of the frames."""
        fates = self.past + Counter(
            member.fate(self.max_reuse) for group in self.groups.values() for member in group.members
        )
        return Balance(
            inserted=inserted,
            live=fates[LIVE],
            spent={reason: fates[what, reason] for what, reason in sorted(fates) if what == "spent"},
            expired=fates["expired", ""],
            quarantined=fates[QUARANTINED],
            erased=fates["erased", ""],
        )

    def lag(self, oldest_version: int, step: int) -> int | None:
        """Learner steps from the newest step at which a version not above `oldest_version` was published to `step`;
        None where the phase published none.
        """
        steps = [at for version, at in self.published.items() if version <= oldest_version]
        return step - max(steps) if steps else None

    def _begin(self, record: Begin) -> None:
        for group in self.groups.values():
            for member in group.members:
                fate = member.fate(self.max_reuse)
                over = DRAWN if member.num_draws else ("spent", "phase_over")
                self.past[over if fate == LIVE else fate] += 1
        self.phase = record
        self.groups, self.draws = {}, {}
        self.published = {record.version: record.step}

    def _give_up(self, group_id: str, fate: Fate) -> None:
        group = self.groups.get(group_id)
        if group is None or not self.is_open(group):
            return
        group.retired = group.num_draws > 0
        if not group.retired:
            group.given_up = fate[1] or fate[0]
        for member in group.members:
            member.closed = DRAWN if member.num_draws else fate

    def _drawn(self, record: Drawn, change: int) -> None:
        named = set(record.sequences)
        for group in (self.groups[name] for name in record.group_ids if name in self.groups):
            if group.given_up:
                continue
            group.num_draws += change
            if change < 0 and group.retired:
                group.retired = False
                for member in group.members:
                    member.closed = None
            for member in group.members:
                member.num_draws += change * (member.sequence in named)

    def _erased(self, record: Erased) -> None:
        """Groups go on without what was erased; one of which nothing usable is left is over."""
        for group in (self.groups[name] for name in record.group_ids if name in self.groups):
            group.size = len(group.members)
            if not group.usable and not group.given_up:
                group.given_up = "erased"

    def _rewind(self, record: Rewind) -> None:
        for step in [step for step in self.draws if step >= record.step]:
            self._drawn(self.draws.pop(step), -1)
        self.published = {version: min(at, record.step) for version, at in self.published.items()}
        self.published[record.version] = min(self.published.get(record.version, record.step), record.step)
        votes = self.phase is not None and self.phase.votes
        for group_id, group in self.groups.items():
            if record.orphans and self.is_open(group) and (not group.complete or (votes and not group.voted)):
                self._give_up(group_id, ("spent", "orphaned"))
