"""Which rollouts a producer has sent already, in little memory however many there were."""

from __future__ import annotations

from bisect import bisect_right, insort
from dataclasses import dataclass, field

MAX_GAPS = 1024
"""Numbers of one producer may be missing in at most so many places; beyond, the oldest place counts as filled."""
MAX_EPOCHS = 64
"""Of one producer; what still comes from an older one is a ghost and counts as a copy."""


@dataclass(slots=True)
class Seen:
    """Sequence numbers seen of one producer's epoch: all below `below`, and ranges [start, stop) above it, ascending
    and apart.
    """

    below: int = 0
    above: list[tuple[int, int]] = field(default_factory=list)

    def __contains__(self, sequence: int) -> bool:
        if sequence < self.below:
            return True
        place = bisect_right(self.above, (sequence, 1 << 64)) - 1
        return place >= 0 and sequence < self.above[place][1]

    def add(self, sequence: int) -> None:
        if sequence in self:
            return
        place = bisect_right(self.above, (sequence, 1 << 64))
        start, stop = sequence, sequence + 1
        if place < len(self.above) and self.above[place][0] == stop:
            stop = self.above.pop(place)[1]
        if place > 0 and self.above[place - 1][1] == start:
            start = self.above.pop(place - 1)[0]
        insort(self.above, (start, stop))
        if self.above[0][0] <= self.below or len(self.above) > MAX_GAPS:
            self.below = self.above.pop(0)[1]


@dataclass(slots=True)
class Producers:
    """producer → epoch → what was seen."""

    seen: dict[str, dict[int, Seen]] = field(default_factory=dict)

    def holds(self, producer: str, epoch: int, sequence: int) -> bool:
        epochs = self.seen.get(producer, {})
        if epoch not in epochs:
            return len(epochs) == MAX_EPOCHS and epoch < min(epochs)
        return sequence in epochs[epoch]

    def add(self, producer: str, epoch: int, sequence: int) -> None:
        epochs = self.seen.setdefault(producer, {})
        epochs.setdefault(epoch, Seen()).add(sequence)
        if len(epochs) > MAX_EPOCHS:
            del epochs[min(epochs)]
