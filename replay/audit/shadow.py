"""The fold that a next opening would make, run beside the audit's own account and compared with it at the end."""

from __future__ import annotations

from common.columns import RolloutKeys
from replay.audit.findings import Balance, Findings
from replay.reading import Place
from replay.records import Experience, Record
from replay.state import State


class Shadow:
    """A State that follows the log, until a record breaks it."""

    def __init__(self, found: Findings) -> None:
        self._found = found
        self._state: State | None = State()

    @property
    def state(self) -> State | None:
        return self._state

    def arrive(self, keys: RolloutKeys, place: Place) -> None:
        if self._state is not None:
            self._state.add(keys, place.sequence)

    def take(self, record: Record, place: Place) -> None:
        if self._state is None:
            return
        if isinstance(record, Experience):
            self._state.last_experience = place.sequence
            return
        try:
            self._state.apply(record)
        except (AssertionError, LookupError, ValueError) as error:
            self._found.add("count", f"this log cannot be opened: its fold ends here ({error!r})", place)
            self._state = None

    def lose(self, num_rollouts: int) -> None:
        if self._state is not None:
            self._state.lose(num_rollouts)

    def compare(self, balance: Balance, *, num_going: int) -> None:
        """Report every number that the fold has otherwise. num_going: rollouts that an unfinished erasure has erased
        already; the fold counts them when it is finished.
        """
        if self._state is None:
            return
        state = self._state
        folded = {
            "inserted": state.inserted + num_going,
            "live": state.live,
            "expired": state.expired,
            "quarantined": state.quarantined,
            "erased": state.erased + num_going,
        } | {f"spent as {reason}": count for reason, count in state.spent.items()}
        counted = {
            "inserted": balance.inserted,
            "live": balance.live,
            "expired": balance.expired,
            "quarantined": balance.quarantined,
            "erased": balance.erased,
        } | {f"spent as {reason}": count for reason, count in balance.spent.items()}
        for name in sorted(folded.keys() | counted.keys()):
            if folded.get(name, 0) != counted.get(name, 0):
                what = f"{name}: {counted.get(name, 0)} by the records, {folded.get(name, 0)} by the fold"
                self._found.add("count", what)
