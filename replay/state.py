"""What the replay knows: a fold of its log, nothing else.

`apply` takes one record and decides nothing, so the state after a restart is the state before it: the live buffer calls
it with every record that it writes, and opening calls it with every record that it reads. Decisions (which groups are
drawn, dropped, expired) are taken in replay/buffer and arrive here as records.

Law: inserted = live + spent + expired + quarantined, in rollouts.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from common.schema import RolloutKeys
from common.types import Consensus
from replay.limiter import Limiter
from replay.records import Admit, Advance, Begin, Drawn, Expire, Record, Rewind, Settle, Spend

DRAWN = "drawn"


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A rollout of a group. sequence: its record in the log."""

    rollout_id: str
    sequence: int
    oldest_version: int | None
    score: float | None
    quarantined: bool


@dataclass(slots=True, kw_only=True)
class Group:
    """number: order of admission in the phase. size: how many rollouts it waits for; 0 before the first came."""

    number: int
    group_id: str
    size: int = 0
    members: list[Member] = field(default_factory=list)
    consensus: Consensus | None = None

    @property
    def complete(self) -> bool:
        return 0 < self.size == len(self.members)

    @property
    def usable(self) -> list[Member]:
        """The rollouts to learn from, in the order of their ids (so that arrival times change nothing)."""
        return sorted((m for m in self.members if not m.quarantined), key=lambda m: (len(m.rollout_id), m.rollout_id))


@dataclass(slots=True)
class Seen:
    """Sequence numbers seen of one producer's epoch: all below `below`, and `above`. Small when numbers run from 0."""

    below: int = 0
    above: set[int] = field(default_factory=set)

    def __contains__(self, sequence: int) -> bool:
        return sequence < self.below or sequence in self.above

    def add(self, sequence: int) -> None:
        self.above.add(sequence)
        while self.below in self.above:
            self.above.remove(self.below)
            self.below += 1


@dataclass(slots=True)
class State:
    """phase: the record that began it, or None. step: the learner's. versions: version → the step it was published at.

    groups: undrawn ones, in the order of their numbers. closed: the others of this phase → why. draws and drawn: the
    record and the groups of every drawn step of this phase, so that a draw can be repeated or taken back.
    inserted, spent (by reason), expired, quarantined: rollouts.
    """

    phase: Begin | None = None
    step: int = 0
    admitted: int = 0
    returned: int = 0
    versions: dict[int, int] = field(default_factory=dict)
    groups: dict[str, Group] = field(default_factory=dict)
    closed: dict[str, str] = field(default_factory=dict)
    draws: dict[int, Drawn] = field(default_factory=dict)
    drawn: dict[int, list[Group]] = field(default_factory=dict)
    seen: dict[tuple[str, int], Seen] = field(default_factory=dict)
    inserted: int = 0
    spent: Counter[str] = field(default_factory=Counter)
    expired: int = 0
    quarantined: int = 0
    num_draws: int = 0
    max_policy_lag_seen: int = 0

    @property
    def live(self) -> int:
        return sum(len(group.usable) for group in self.groups.values())

    @property
    def next_step(self) -> int:
        """The step that the next draw is for."""
        assert self.phase is not None
        return max(self.draws) + 1 if self.draws else self.phase.step

    def limiter(self) -> Limiter:
        assert self.phase is not None
        return Limiter(groups_per_step=self.phase.groups_per_step, max_policy_lag=self.phase.max_policy_lag)

    def may_admit(self) -> bool:
        assert self.phase is not None
        done = self.step - self.phase.step
        return self.limiter().may_start(self.admitted, step=done, returned=self.returned)

    def lag(self, group: Group, step: int) -> int | None:
        """Learner steps from the group's oldest version to `step`; None when that version is older than the phase."""
        oldest = min(m.oldest_version for m in group.usable if m.oldest_version is not None)
        published = [at for version, at in self.versions.items() if version <= oldest]
        return step - max(published) if published else None

    def lose(self, num_rollouts: int) -> None:
        """Rollouts that the log once held and no longer does."""
        self.inserted += num_rollouts
        self.quarantined += num_rollouts

    def is_duplicate(self, keys: RolloutKeys) -> bool:
        return keys.sequence in self.seen.get((keys.producer, keys.epoch), ())

    def add(self, keys: RolloutKeys, sequence: int) -> None:
        """A rollout arrived as record `sequence`. One for a group that is closed is spent at once."""
        self.seen.setdefault((keys.producer, keys.epoch), Seen()).add(keys.sequence)
        self.inserted += 1
        self.quarantined += keys.quarantined
        group = self.groups.get(keys.group_id)
        if group is None:
            self.spent["late"] += not keys.quarantined
            return
        group.size = keys.group_size
        group.members.append(
            Member(
                rollout_id=keys.rollout_id,
                sequence=sequence,
                oldest_version=keys.oldest_version,
                score=keys.score,
                quarantined=keys.quarantined,
            )
        )

    def apply(self, record: Record) -> None:
        """Take one record. Records about groups that are not there (their admission was lost) change nothing."""
        match record:
            case Begin():
                self._begin(record)
            case Admit():
                self.groups[record.group_id] = Group(number=record.number, group_id=record.group_id)
                self.admitted = record.number + 1
            case Settle():
                group = self.groups.get(record.consensus.group_id)
                if group is not None:
                    group.consensus = record.consensus
            case Spend():
                self.spent[record.reason] += self._close(record.group_id, record.reason)
            case Expire():
                self.expired += self._close(record.group_id, "expired")
            case Drawn():
                self._draw(record)
            case Advance():
                self.step = record.step
                self.versions[record.version] = record.step
            case Rewind():
                self._rewind(record)

    def _begin(self, record: Begin) -> None:
        for group in self.groups.values():
            self.spent["phase_over"] += len(group.usable)
        self.phase = record
        self.step = record.step
        self.admitted = self.returned = 0
        self.versions = {record.version: record.step}
        for held in (self.groups, self.closed, self.draws, self.drawn):
            held.clear()

    def _close(self, group_id: str, reason: str) -> int:
        """Remove a group that was not drawn and return its credit. Returns how many rollouts it held."""
        group = self.groups.pop(group_id, None)
        if group is None:
            return 0
        self.closed[group_id] = reason
        self.returned += 1
        return len(group.usable)

    def _draw(self, record: Drawn) -> None:
        groups = [self.groups.pop(name) for name in record.group_ids if name in self.groups]
        self.draws[record.step] = record
        self.drawn[record.step] = groups
        self.closed.update((group.group_id, DRAWN) for group in groups)
        self.spent[DRAWN] += sum(len(group.usable) for group in groups)
        self.num_draws += 1
        self.max_policy_lag_seen = max(self.max_policy_lag_seen, record.lag)

    def _rewind(self, record: Rewind) -> None:
        """Draws from `record.step` on never happened; versions published after it count as published at it, because the
        lines part there.
        """
        for step in [step for step in self.draws if step >= record.step]:
            del self.draws[step]
            for group in self.drawn.pop(step):
                del self.closed[group.group_id]
                self.groups[group.group_id] = group
                self.spent[DRAWN] -= len(group.usable)
        self.groups = dict(sorted(self.groups.items(), key=lambda item: item[1].number))
        self.step = record.step
        self.versions = {version: min(at, record.step) for version, at in self.versions.items()}
        self.versions[record.version] = min(self.versions.get(record.version, record.step), record.step)
        if record.orphans:
            assert self.phase is not None
            for group in list(self.groups.values()):
                if not group.complete or (self.phase.votes and group.consensus is None):
                    self.spent["orphaned"] += self._close(group.group_id, "orphaned")
