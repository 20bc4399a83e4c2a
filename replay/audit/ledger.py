"""The audit's own account of a log: which rollouts it holds and what became of each.

It follows every rollout by itself, where replay/state.py keeps counters: the two are compared, so a mistake in either
shows. A rollout is counted as drawn because a surviving draw names its record, not because its group was drawn.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from common.schema import RolloutKeys
from replay.audit.findings import Balance
from replay.records import Admit, Advance, Begin, Drawn, Expire, Record, Rewind, Settle, Spend

Fate: TypeAlias = tuple[Literal["live", "spent", "expired", "quarantined", "erased"], str]
"""What became of a rollout, and why it was spent."""

LIVE: Fate = ("live", "")
DRAWN: Fate = ("spent", "drawn")
QUARANTINED: Fate = ("quarantined", "")


@dataclass(slots=True, kw_only=True)
class Member:
    """A rollout of a group. num_draws: surviving draws that name it. closed: its fate where it was given up."""

    rollout_id: str
    sequence: int
    oldest_version: int | None
    usable: bool
    num_draws: int = 0
    closed: Fate | None = None

    @property
    def fate(self) -> Fate:
        if not self.usable:
            return QUARANTINED
        return self.closed or (DRAWN if self.num_draws else LIVE)


@dataclass(slots=True, kw_only=True)
class Group:
    """number: of admission. size: rollouts that make it whole; 0 before the first. num_draws: surviving ones."""

    number: int
    size: int = 0
    members: list[Member] = field(default_factory=list)
    voted: bool = False
    abstained: bool = False
    given_up: str = ""
    num_draws: int = 0

    @property
    def is_open(self) -> bool:
        """Neither drawn nor given up: rollouts may still join it."""
        return not self.given_up and not self.num_draws

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
    """

    phase: Begin | None = None
    groups: dict[str, Group] = field(default_factory=dict)
    draws: dict[int, Drawn] = field(default_factory=dict)
    published: dict[int, int] = field(default_factory=dict)
    past: Counter[Fate] = field(default_factory=Counter)
    num_draws: int = 0

    def arrive(self, keys: RolloutKeys, sequence: int) -> None:
        """A rollout was kept as record `sequence`."""
        group = self.groups.get(keys.group_id)
        if group is None or not group.is_open:
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

    def balance(self, inserted: int) -> Balance:
        """inserted: rollouts, counted by the kinds of the frames."""
        fates = self.past + Counter(member.fate for group in self.groups.values() for member in group.members)
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
                self.past[("spent", "phase_over") if member.fate == LIVE else member.fate] += 1
        self.phase = record
        self.groups, self.draws = {}, {}
        self.published = {record.version: record.step}

    def _give_up(self, group_id: str, fate: Fate) -> None:
        group = self.groups.get(group_id)
        if group is not None and group.is_open:
            group.given_up = fate[1] or fate[0]
            for member in group.members:
                member.closed = fate

    def _drawn(self, record: Drawn, change: int) -> None:
        named = set(record.sequences)
        for group in (self.groups[name] for name in record.group_ids if name in self.groups):
            group.num_draws += change
            for member in group.members:
                member.num_draws += change * (member.sequence in named)

    def _rewind(self, record: Rewind) -> None:
        for step in [step for step in self.draws if step >= record.step]:
            self._drawn(self.draws.pop(step), -1)
        self.published = {version: min(at, record.step) for version, at in self.published.items()}
        self.published[record.version] = min(self.published.get(record.version, record.step), record.step)
        votes = self.phase is not None and self.phase.votes
        for group_id, group in self.groups.items():
            if record.orphans and group.is_open and (not group.complete or (votes and not group.voted)):
                self._give_up(group_id, ("spent", "orphaned"))
