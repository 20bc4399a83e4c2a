"""The live groups as a draw looks at them: how many there are and which is the k-th, without going through them.

Groups are known by their numbers. Each has a share, a positive integer; laid end to end in the order of numbers, the
shares make a line, and a place on the line belongs to one group. With shares of 1 the place k is the k-th group; with
others, a uniform place takes groups in proportion to their shares. Integers add up exactly, so the line depends on the
groups alone and never on the order in which they came and went.
"""

from __future__ import annotations

from dataclasses import dataclass, field

BITS, LEVELS = 3, 14
"""A sum over 2^BITS sums of the level below, on so many levels: enough for 2^42 groups admitted in a phase."""


class Shares:
    """Integers of one sign by number, and their sums over 8, 64, … neighbouring numbers.

    `put` and `owner` take time in the logarithm of the greatest number that ever was, whatever is kept.
    """

    __slots__ = ("sums", "total")

    def __init__(self) -> None:
        self.sums: list[dict[int, int]] = [{} for _ in range(LEVELS)]
        self.total = 0

    def __len__(self) -> int:
        return len(self.sums[0])

    def put(self, number: int, share: int) -> None:
        """Give `number` this share in the place of the one it had; 0 takes it out."""
        assert 0 <= number < 1 << BITS * LEVELS
        more = share - self.sums[0].get(number, 0)
        self.total += more
        for sums in self.sums:
            total = sums.get(number, 0) + more
            if total:
                sums[number] = total
            else:
                sums.pop(number, None)
            number >>= BITS


def owner(place: int, *lines: Shares) -> int:
    """The number that `place` belongs to, in [0, sum of the totals), where a number's share is the sum over `lines`."""
    assert 0 <= place < sum(line.total for line in lines)
    number = 0
    for level in reversed(range(LEVELS)):
        number <<= BITS
        sums = [line.sums[level].get for line in lines if line]
        while True:
            share = 0
            for get in sums:
                share += get(number, 0)
            if place < share:
                break
            place -= share
            number += 1
    return number


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Every live group is in one of these. waiting: not ready, each with a share of 1. fresh: ready and never drawn.
    drawn: ready and drawn before.
    """

    waiting: Shares = field(default_factory=Shares)
    fresh: Shares = field(default_factory=Shares)
    drawn: Shares = field(default_factory=Shares)

    @property
    def num_ready(self) -> int:
        return len(self.fresh) + len(self.drawn)

    @property
    def total(self) -> int:
        """Of the shares of the ready groups."""
        return self.fresh.total + self.drawn.total

    def ready_at(self, place: int) -> int:
        """The ready group whose share covers `place`, in [0, total); of shares of 1, the ready group `place`."""
        return owner(place, self.fresh, self.drawn)

    def share(self, number: int) -> int:
        """Of a ready group."""
        return self.fresh.sums[0].get(number, 0) + self.drawn.sums[0].get(number, 0)
