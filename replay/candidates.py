"""What the next draw may take: the state's live groups by number and by age, kept up to date as the state goes on, so
that a draw need not look at each of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from common.columns import RolloutKeys
from replay.config import Drawing
from replay.pool import Pool, Shares
from replay.records import Admit, Advance, Drawn, Expire, Record, Release, Settle, Spend
from replay.rules import drawing_of, ready
from replay.selectors import selector_of, share_of
from replay.state import Group, State


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """Where a live group is: in which part of the pool and with what share, and by its oldest version (None while it
    is waiting, −1 where no token of it was sampled).
    """

    number: int
    part: Shares
    share: int
    oldest: int | None


class Candidates:
    """The live groups of `state`, which changes through here only, so that neither can go on without the other.

    stale: at the beginning, and after a record that may change all groups at once; until `renew`, nothing can be
    chosen. configured: how phases draw whose records do not say it.
    """

    def __init__(self, state: State, *, configured: Drawing) -> None:
        self._state, self._configured = state, configured
        self._clear()
        self.stale = True

    def _clear(self) -> None:
        self.pool = Pool()
        self._seats: dict[str, Seat] = {}
        self._names: dict[int, str] = {}
        self._ages: dict[int, dict[str, None]] = {}

    def add(self, keys: RolloutKeys, sequence: int) -> None:
        """A rollout arrived as record `sequence`."""
        self._state.add(keys, sequence)
        self._follow([keys.group_id])

    def apply(self, record: Record) -> None:
        self._state.apply(record)
        match record:
            case Admit() | Spend() | Expire():
                self._follow([record.group_id])
            case Settle():
                self._follow([record.consensus.group_id])
            case Drawn():
                self._follow(record.group_ids)
            case Advance() | Release():
                pass
            case _:
                self.stale = True

    def renew(self) -> tuple[str, ...]:
        """The groups that must be judged again, all of them, where this was stale."""
        if not self.stale:
            return ()
        self._clear()
        self.stale = False
        self._follow(self._state.groups)
        return tuple(self._state.groups)

    def too_old(self, step: int) -> list[Expire]:
        """The ready groups that are older than the bound at learner step `step`, in the order of their numbers."""
        assert self._state.phase is not None and not self.stale
        found = []
        for group_ids in self._ages.values():
            lag = self._state.lag(self._state.groups[next(iter(group_ids))], step)
            if lag is None or lag > self._state.phase.max_policy_lag:
                found += [Expire(group_id=group_id, step=step, lag=lag) for group_id in group_ids]
        return sorted(found, key=lambda expire: self._seats[expire.group_id].number)

    def choose(self, step: int) -> list[Group] | None:
        """The groups that the draw for `step` takes of those that are here, or None while there are not enough."""
        phase = self._state.phase
        assert phase is not None and not self.stale
        drawing = drawing_of(phase, self._configured)
        if self.pool.num_ready < drawing.min_groups:
            return None
        numbers = selector_of(drawing, phase.phase).select(self.pool, count=phase.groups_per_step, step=step)
        return None if numbers is None else [self._state.groups[self._names[number]] for number in numbers]

    def _follow(self, group_ids: Iterable[str]) -> None:
        """These groups may have changed, or be over."""
        for group_id in () if self.stale else group_ids:
            group, old = self._state.groups.get(group_id), self._seats.get(group_id)
            new = None if group is None else self._seat(group)
            if new == old:
                continue
            if old is not None:
                self._leave(group_id, old)
            if new is not None:
                self._take(group_id, new)

    def _seat(self, group: Group) -> Seat:
        assert self._state.phase is not None
        if not ready(self._state, group):
            return Seat(number=group.number, part=self.pool.waiting, share=1, oldest=None)
        share = share_of(group, drawing_of(self._state.phase, self._configured))
        oldest = min((m.oldest_version for m in group.usable if m.oldest_version is not None), default=-1)
        part = self.pool.drawn if group.draws else self.pool.fresh
        return Seat(number=group.number, part=part, share=share, oldest=oldest)

    def _take(self, group_id: str, seat: Seat) -> None:
        self._seats[group_id] = seat
        self._names[seat.number] = group_id
        seat.part.put(seat.number, seat.share)
        if seat.oldest is not None:
            self._ages.setdefault(seat.oldest, {})[group_id] = None

    def _leave(self, group_id: str, seat: Seat) -> None:
        del self._seats[group_id], self._names[seat.number]
        seat.part.put(seat.number, 0)
        if seat.oldest is not None:
            del self._ages[seat.oldest][group_id]
            if not self._ages[seat.oldest]:
                del self._ages[seat.oldest]
