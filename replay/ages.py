"""How old the groups are that may be drawn, kept as the state goes on, so that a draw need not look at each of them."""

from __future__ import annotations

from collections.abc import Iterable

from replay.records import Begin, Drawn, Expire, Record, Rewind, Settle, Spend
from replay.rules import ready
from replay.state import State


class Ages:
    """The ready groups by the oldest version that any token of theirs was sampled from. Tell it of every rollout and
    every record that the state has followed. stale: until `renew`, what they are is not known.
    """

    def __init__(self) -> None:
        self._groups: dict[int, dict[str, None]] = {}
        self._oldest: dict[str, int] = {}
        self.stale = True

    def note(self, state: State, group_ids: Iterable[str]) -> None:
        """These groups changed, or are over."""
        for group_id in group_ids if not self.stale else ():
            self._leave_out(group_id)
            group = state.groups.get(group_id)
            if group is not None and ready(state, group):
                oldest = min((m.oldest_version for m in group.usable if m.oldest_version is not None), default=-1)
                self._oldest[group_id] = oldest
                self._groups.setdefault(oldest, {})[group_id] = None

    def follow(self, state: State, record: Record) -> None:
        match record:
            case Begin() | Rewind():
                self.stale = True
            case Settle():
                self.note(state, [record.consensus.group_id])
            case Spend() | Expire():
                self.note(state, [record.group_id])
            case Drawn():
                self.note(state, record.group_ids)

    def renew(self, state: State) -> tuple[str, ...]:
        """The groups that must be judged again, all of them: the first time, and after what changed them at once."""
        if not self.stale:
            return ()
        self._groups, self._oldest, self.stale = {}, {}, False
        self.note(state, state.groups)
        return tuple(state.groups)

    def too_old(self, state: State, step: int) -> list[Expire]:
        """The ready groups that are older than the bound at learner step `step`, in the order of their numbers."""
        assert state.phase is not None
        found = []
        for group_ids in self._groups.values():
            lag = state.lag(state.groups[next(iter(group_ids))], step)
            if lag is None or lag > state.phase.max_policy_lag:
                found += [Expire(group_id=group_id, step=step, lag=lag) for group_id in group_ids]
        return sorted(found, key=lambda expire: state.groups[expire.group_id].number)

    def _leave_out(self, group_id: str) -> None:
        oldest = self._oldest.pop(group_id, None)
        if oldest is not None:
            del self._groups[oldest][group_id]
            if not self._groups[oldest]:
                del self._groups[oldest]
