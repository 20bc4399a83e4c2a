"""What the replay knows: a fold of its log, nothing else.

`apply` takes one record and decides nothing, so the state after a restart is the state before it: the live buffer calls
it with every record that it writes, and opening calls it with every record that it reads. Decisions (which groups are
drawn, dropped, expired) are taken in replay/buffer and arrive here as records.

Law: inserted = live + spent + expired + quarantined + erased, in rollouts.

What is kept, and what bounds it: groups under way (the limiter: at most B that were never drawn, and those drawn less
than max_reuse times that are within the lag); the last draws, their groups, and the names of the groups that closed
since (ReplayConfig.keep_draws, or `Release`; at most MAX_CLOSED names, however long nothing is drawn); versions within
the lag of those; a few numbers a producer (replay/seen); and counters.

Groups, draws and what is known of a producer are values, replaced and never changed. So `copy` is cheap, and a thread
can pack the copy while records go on arriving.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from itertools import islice, takewhile

import msgspec

from common.columns import RolloutKeys
from common.types import Consensus
from replay.config import Drawing
from replay.limiter import Limiter
from replay.records import Admit, Advance, Begin, Drawn, Erase, Erased, Expire, Record, Release, Rewind, Settle, Spend
from replay.seen import Producers

FOLD_VERSION = 3
"""Raised with every change to what `State` holds or how it folds; a snapshot of another one is not used."""
DRAWN = "drawn"
MAX_CLOSED = 1 << 16
"""Names of groups that are over; beyond, the first that closed is forgotten."""
PACKED_AT_ONCE = 32
"""Values in a piece of a packed state: making one takes less than a millisecond."""
MAX_REASONS = 64
"""Reasons that spent rollouts are counted by; what comes after as many is counted as "other"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A rollout of a group. sequence: its record in the log."""

    rollout_id: str
    sequence: int
    oldest_version: int | None
    score: float | None
    quarantined: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """number: order of admission in the phase. size: how many rollouts it waits for; 0 before the first came.

    draws: the steps that it was drawn for.
    """

    number: int
    group_id: str
    size: int = 0
    members: tuple[Member, ...] = ()
    consensus: Consensus | None = None
    draws: tuple[int, ...] = ()

    @property
    def complete(self) -> bool:
        return 0 < self.size == len(self.members)

    @property
    def usable(self) -> list[Member]:
        """The rollouts to learn from, in the order of their ids (so that arrival times change nothing)."""
        return sorted((m for m in self.members if not m.quarantined), key=lambda m: (len(m.rollout_id), m.rollout_id))


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """Why a group is over, and the step whose draw came next when it ended."""

    reason: str
    step: int


@dataclass(slots=True)
class State:
    """phase: the record that began it, or None. step: the learner's. versions: version → the step it was published at.

    groups: those that may still be drawn, in the order of their numbers. closed: the others of this phase that are
    remembered. draws: the record of every drawn step since `floor`, so that a draw can be repeated or taken back; used:
    their groups that may not be drawn again. num_drawn: groups drawn at least once in this phase. fresh: step that the
    learner has not done → how many of its groups were drawn for the first time, also when the draw is forgotten.
    forgotten: groups of names of their own that are not remembered. last_experience: record of the last one, −1 for
    none. erasing: an erasure that was begun and not finished. inserted, spent (by reason), expired, quarantined,
    erased: rollouts.
    """

    phase: Begin | None = None
    step: int = 0
    floor: int = 0
    admitted: int = 0
    returned: int = 0
    num_drawn: int = 0
    forgotten: int = 0
    versions: dict[int, int] = field(default_factory=dict)
    groups: dict[str, Group] = field(default_factory=dict)
    closed: dict[str, Closed] = field(default_factory=dict)
    draws: dict[int, Drawn] = field(default_factory=dict)
    fresh: dict[int, int] = field(default_factory=dict)
    used: dict[str, Group] = field(default_factory=dict)
    producers: Producers = field(default_factory=Producers)
    last_experience: int = -1
    inserted: int = 0
    spent: dict[str, int] = field(default_factory=dict)
    expired: int = 0
    quarantined: int = 0
    erased: int = 0
    erasing: Erase | None = None
    num_draws: int = 0
    max_policy_lag_seen: int = 0

    def pack(self) -> bytes:
        return b"".join(self.pieces())

    def pieces(self) -> Iterator[bytes]:
        """`pack`, some values at a time, so that a thread which packs can let others run in between."""
        for place, item in enumerate(fields(self)):
            value = getattr(self, item.name)
            yield b'%c"%s":' % (b",{"[not place], item.name.encode())
            if not isinstance(value, dict):
                yield msgspec.json.encode(value)
                continue
            rest, comma = iter(value.items()), b"{"
            while some := dict(islice(rest, PACKED_AT_ONCE)):
                yield comma + msgspec.json.encode(some)[1:-1]
                comma = b","
            yield b"}" if value else b"{}"
        yield b"}"

    def copy(self) -> State:
        """This state, as no later record changes it."""
        copied = State()
        for item in fields(self):
            value = getattr(self, item.name)
            setattr(copied, item.name, value.copy() if isinstance(value, dict | Producers) else value)
        return copied

    @classmethod
    def unpack(cls, data: bytes) -> State:
        return msgspec.json.decode(data, type=cls)

    @property
    def live(self) -> int:
        return sum(len(group.usable) for group in self.groups.values())

    @property
    def next_step(self) -> int:
        """The step that the next draw is for."""
        return max(self.draws) + 1 if self.draws else self.floor

    def limiter(self) -> Limiter:
        assert self.phase is not None
        return Limiter(
            groups_per_step=self.phase.groups_per_step,
            max_policy_lag=self.phase.max_policy_lag,
            drawing=self.phase.drawing or Drawing(),
        )

    def may_admit(self) -> bool:
        """The limiter's inequality, now. A draw counts when the learner is done with it."""
        ahead = sum(fresh for step, fresh in self.fresh.items() if step >= self.step)
        return self.limiter().may_start(self.admitted, drawn=self.num_drawn - ahead, returned=self.returned)

    def drawn_groups(self, step: int) -> list[Group]:
        """The groups of the draw for `step` that are remembered, in its order."""
        found = (self.used.get(name) or self.groups.get(name) for name in self.draws[step].group_ids)
        return [group for group in found if group is not None]

    def lag(self, group: Group, step: int) -> int | None:
        """Learner steps from the group's oldest version to `step`; None when that version is older than the phase, or
        than the lag of every draw that is remembered.
        """
        oldest = min(m.oldest_version for m in group.usable if m.oldest_version is not None)
        published = [at for version, at in self.versions.items() if version <= oldest]
        return step - max(published) if published else None

    def why_over(self, group_id: str) -> str:
        """Why a group of this phase is over; "" when it is live or was never admitted. One that is not remembered is
        "forgotten": by its number, or, of a name of its own, when there are such groups at all.
        """
        assert self.phase is not None
        if group_id in self.groups:
            return ""
        if group_id in self.closed:
            return self.closed[group_id].reason
        number = default_number(self.phase.phase, group_id)
        return "forgotten" if (self.forgotten > 0 if number is None else number < self.admitted) else ""

    def lose(self, num_rollouts: int) -> None:
        """Rollouts that the log once held and no longer does."""
        self.inserted += num_rollouts
        self.quarantined += num_rollouts

    def is_duplicate(self, keys: RolloutKeys) -> bool:
        return self.producers.holds(keys.producer, keys.epoch, keys.sequence)

    def add(self, keys: RolloutKeys, sequence: int) -> None:
        """A rollout arrived as record `sequence`. One for a group that is closed is spent at once."""
        self.producers.add(keys.producer, keys.epoch, keys.sequence)
        self.inserted += 1
        self.quarantined += keys.quarantined
        group = self.groups.get(keys.group_id)
        if group is None:
            self._spend("late", int(not keys.quarantined))
            return
        member = Member(
            rollout_id=keys.rollout_id,
            sequence=sequence,
            oldest_version=keys.oldest_version,
            score=keys.score,
            quarantined=keys.quarantined,
        )
        self.groups[keys.group_id] = replace(group, size=keys.group_size, members=(*group.members, member))

    def apply(self, record: Record) -> None:
        """Take one record. Any other may be missing from a damaged log; records about groups that are not there change
        nothing.
        """
        match record:
            case Begin():
                self._begin(record)
            case Admit():
                self.groups[record.group_id] = Group(number=record.number, group_id=record.group_id)
                self.admitted = record.number + 1
            case Settle():
                group = self.groups.get(record.consensus.group_id)
                if group is not None:
                    self.groups[group.group_id] = replace(group, consensus=record.consensus)
            case Spend():
                self._close(record.group_id, record.reason)
            case Expire():
                self._close(record.group_id, "expired")
            case Drawn():
                self._draw(record)
            case Advance():
                self.step = record.step
                self.versions[record.version] = record.step
                self.fresh = {step: fresh for step, fresh in self.fresh.items() if step >= record.step}
            case Rewind():
                self._rewind(record)
            case Release():
                self._release(record.step)
            case Erase():
                self.erasing = record
            case Erased():
                self._erased(record)

    def _begin(self, record: Begin) -> None:
        for group in self.groups.values():
            self._spend(DRAWN if group.draws else "phase_over", len(group.usable))
        self.phase = record
        self.step = self.floor = record.step
        self.admitted = self.returned = self.num_drawn = self.forgotten = 0
        self.versions = {record.version: record.step}
        for held in (self.groups, self.closed, self.draws, self.fresh, self.used):
            held.clear()

    def _spend(self, reason: str, num_rollouts: int) -> None:
        known = reason in self.spent or len(self.spent) < MAX_REASONS
        name = reason if known else "other"
        self.spent[name] = self.spent.get(name, 0) + num_rollouts

    def _close(self, group_id: str, reason: str) -> None:
        """Remove a group that is not used up. One that was never drawn returns its credit; one that was has been
        learned from, whatever ends it.
        """
        group = self.groups.pop(group_id, None)
        if group is None:
            return
        if group.draws:
            reason = DRAWN
            self.used[group_id] = group
        else:
            self.returned += 1
        self._shut(group_id, Closed(reason=reason, step=self.next_step))
        if reason == "expired":
            self.expired += len(group.usable)
        else:
            self._spend(reason, len(group.usable))

    def _shut(self, group_id: str, closed: Closed) -> None:
        self.closed[group_id] = closed
        if len(self.closed) > MAX_CLOSED:
            self._forget(next(iter(self.closed)))

    def _forget(self, group_id: str) -> None:
        del self.closed[group_id]
        self.forgotten += default_number("" if self.phase is None else self.phase.phase, group_id) is None

    def _draw(self, record: Drawn) -> None:
        drawing = None if self.phase is None else self.phase.drawing
        max_reuse = 1 if drawing is None else drawing.max_reuse
        groups = [self.groups[name] for name in record.group_ids if name in self.groups]
        fresh = sum(not group.draws for group in groups)
        self.num_drawn += fresh
        self.draws[record.step], self.fresh[record.step] = record, fresh
        for group in groups:
            drawn = replace(group, draws=(*group.draws, record.step))
            if len(drawn.draws) < max_reuse:
                self.groups[group.group_id] = drawn
                continue
            del self.groups[group.group_id]
            self.used[group.group_id] = drawn
            self._shut(group.group_id, Closed(reason=DRAWN, step=record.step))
            self._spend(DRAWN, len(group.usable))
        self.num_draws += 1
        self.max_policy_lag_seen = max(self.max_policy_lag_seen, record.lag)

    def _rewind(self, record: Rewind) -> None:
        """Draws from `record.step` on never happened; versions published after it count as published at it, because the
        lines part there.
        """
        votes = self.phase is not None and self.phase.votes
        for step in [step for step in self.draws if step >= record.step]:
            for group in self.drawn_groups(step):
                self._take_back(group, step)
            del self.draws[step]
        self.fresh = {}
        self.groups = dict(sorted(self.groups.items(), key=lambda item: item[1].number))
        self.step = record.step
        self.versions = {version: min(at, record.step) for version, at in self.versions.items()}
        self.versions[record.version] = min(self.versions.get(record.version, record.step), record.step)
        if record.orphans:
            for group in list(self.groups.values()):
                if not group.complete or (votes and group.consensus is None):
                    self._close(group.group_id, "orphaned")

    def _take_back(self, group: Group, step: int) -> None:
        if step not in group.draws:
            return
        left = replace(group, draws=tuple(drawn for drawn in group.draws if drawn != step))
        self.num_drawn -= not left.draws
        if self.used.pop(group.group_id, None) is not None:
            self.closed.pop(group.group_id, None)
            self.spent[DRAWN] -= len(group.usable)
        self.groups[group.group_id] = left

    def _release(self, floor: int) -> None:
        """Forget draws before step `floor`, what was over by then, and versions that are too old for any later draw.

        Groups are looked at in the order in which they ended, up to the first that is kept.
        """
        lag = 0 if self.phase is None else self.phase.max_policy_lag
        self.floor = max(self.floor, floor)
        for step in [step for step in self.draws if step < self.floor]:
            del self.draws[step]
        for name in list(takewhile(lambda name: self.used[name].draws[-1] < self.floor, self.used)):
            del self.used[name]
        for name in list(takewhile(lambda name: self.closed[name].step < self.floor, self.closed)):
            self._forget(name)
        oldest, last = self.floor - lag, max(self.versions, default=0)
        self.versions = {version: at for version, at in self.versions.items() if at >= oldest or version == last}

    def _erased(self, record: Erased) -> None:
        """The fold has not seen the erased rollouts: tombstones are passed over. Draws and groups go on without."""
        self.erasing = None
        self.inserted += record.num_rollouts
        self.erased += record.num_rollouts
        gone = set(record.sequences)
        for step, draw in self.draws.items():
            kept = [pair for pair in zip(draw.rollout_ids, draw.sequences, strict=True) if pair[1] not in gone]
            names, sequences = tuple(name for name, _ in kept), tuple(sequence for _, sequence in kept)
            self.draws[step] = replace(draw, rollout_ids=names, sequences=sequences)
        for held in (self.groups, self.used):
            for name in record.group_ids:
                group = held.get(name)
                if group is not None:
                    held[name] = replace(group, size=len(group.members))
                    if not group.usable:
                        del held[name]


def default_name(phase: str, number: int) -> str:
    return f"{phase}/{number}"


def default_number(phase: str, group_id: str) -> int | None:
    """The number in a group's default name; None for a name of its own."""
    head, _, tail = group_id.rpartition("/")
    return int(tail) if head == phase and tail.isascii() and tail.isdigit() and tail == str(int(tail)) else None
