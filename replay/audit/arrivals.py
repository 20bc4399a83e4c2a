"""Rollouts arrive once, and groups are admitted once, in order."""

from __future__ import annotations

from common.columns import RolloutKeys
from replay.audit.findings import Findings
from replay.audit.ledger import Ledger
from replay.reading import Place
from replay.records import Admit, Begin


class Arrivals:
    """Watches rollouts and admissions. Remembers every (producer, epoch, sequence) of the log."""

    def __init__(self, found: Findings) -> None:
        self._found = found
        self._seen: dict[tuple[str, int], set[int]] = {}
        self._next_number = 0

    def rollout(self, keys: RolloutKeys, place: Place, ledger: Ledger) -> None:
        """`keys` arrives as the record at `place`; `ledger` does not know it yet."""
        name = f"rollout {keys.rollout_id}"
        numbers = self._seen.setdefault((keys.producer, keys.epoch), set())
        if keys.sequence in numbers:
            who = f"producer {keys.producer}, epoch {keys.epoch}, sequence {keys.sequence}"
            self._found.add("duplicate", f"{name}: a second one of {who}", place)
        numbers.add(keys.sequence)
        group = ledger.groups.get(keys.group_id)
        if group is None or not ledger.is_open(group):
            return
        if any(member.rollout_id == keys.rollout_id for member in group.members):
            self._found.add("duplicate", f"{name}: a second one in group {keys.group_id}", place)
        elif group.complete or group.size not in (0, keys.group_size):
            self._found.add(
                "group",
                f"{name} says group {keys.group_id} has {keys.group_size} rollouts; it has {len(group.members)} of "
                f"{group.size}",
                place,
            )

    def begin(self, record: Begin) -> None:
        self._next_number = 0

    def admit(self, record: Admit, place: Place, ledger: Ledger) -> None:
        if record.group_id in ledger.groups:
            self._found.add("duplicate", f"group {record.group_id} was admitted twice in one phase", place)
        if record.number > self._next_number:
            missing = f"{self._next_number} to {record.number - 1}"
            self._found.add("gap", f"group {record.group_id} has number {record.number}: {missing} are missing", place)
        elif record.number < self._next_number:
            self._found.add("duplicate", f"group {record.group_id}: number {record.number} was given before", place)
        self._next_number = max(self._next_number, record.number + 1)

    def end(self, num_erased: int) -> None:
        """Numbers that a producer gave and that never came: sampled and lost on the way, or never acknowledged."""
        missing = sum(max(numbers) - min(numbers) + 1 - len(numbers) for numbers in self._seen.values())
        missing -= num_erased
        if missing > 0:
            self._found.note(
                f"{missing} numbers between a producer's first and last rollout are not here: sampled in vain, or lost "
                "before they were acknowledged"
            )
