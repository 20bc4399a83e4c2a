"""Which rollouts a producer has sent already, in little memory however many there were."""

from __future__ import annotations

from bisect import bisect_right, insort
from dataclasses import dataclass, field

MAX_GAPS = 1024
"""Numbers of one producer may be missing in at most so many places; beyond, the oldest place counts as filled."""
MAX_EPOCHS = 64
"""Of one producer; what still comes from an older one is a ghost and counts as a copy."""
MAX_PRODUCERS = 4096
"""Beyond, the one that was silent for longest is forgotten; what it sent may be sent again."""


@dataclass(frozen=True, slots=True)
class Seen:
    """Sequence numbers seen of one producer's epoch: all below `below`, and ranges [start, stop) above it, ascending
    and apart.
    """

    below: int = 0
    above: tuple[tuple[int, int], ...] = ()

    def __contains__(self, sequence: int) -> bool:
        if sequence < self.below:
            return True
        place = bisect_right(self.above, (sequence, 1 << 64)) - 1
        return place >= 0 and sequence < self.above[place][1]

    def plus(self, sequence: int) -> Seen:
        """With `sequence` seen, too."""
        if sequence in self:
            return self
        if sequence == self.below and not self.above:
            return Seen(sequence + 1)
        above = list(self.above)
        place = bisect_right(above, (sequence, 1 << 64))
        start, stop = sequence, sequence + 1
        if place < len(above) and above[place][0] == stop:
            stop = above.pop(place)[1]
        if place > 0 and above[place - 1][1] == start:
            start = above.pop(place - 1)[0]
        insort(above, (start, stop))
        below = above.pop(0)[1] if above[0][0] <= self.below or len(above) > MAX_GAPS else self.below
        return Seen(below, tuple(above))


@dataclass(slots=True)
class Producers:
    """producer → epoch → what was seen; producers in the order in which they were last heard of."""

    seen: dict[str, dict[int, Seen]] = field(default_factory=dict)

    def holds(self, producer: str, epoch: int, sequence: int) -> bool:
        epochs = self.seen.get(producer, {})
        if epoch not in epochs:
            return len(epochs) == MAX_EPOCHS and epoch < min(epochs)
        return sequence in epochs[epoch]

    def add(self, producer: str, epoch: int, sequence: int) -> None:
        epochs = self.seen.pop(producer, {})
        epochs[epoch] = epochs.get(epoch, Seen()).plus(sequence)
        if len(epochs) > MAX_EPOCHS:
            del epochs[min(epochs)]
        self.seen[producer] = epochs
        if len(self.seen) > MAX_PRODUCERS:
            del self.seen[next(iter(self.seen))]

    def copy(self) -> Producers:
        return Producers({producer: dict(epochs) for producer, epochs in self.seen.items()})
