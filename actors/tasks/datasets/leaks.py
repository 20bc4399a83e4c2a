"""What two sets share: pictures, pixel for pixel or as near-duplicates, and questions.

A picture seen in training makes its test question easier whatever the question is, so a shared picture is a leak. A
shared question alone is none (sets are made from templates), but the same question about the same picture is the whole
task again. All counts are exact; only the named examples are limited.

Equal pixels are found by hash in linear time. Near-duplicates compare every picture of one set with every one of the
other, in blocks: one XOR and one population count of 64 bits rule out all but 3 in 100 pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from heapq import nsmallest

import numpy as np
from numpy.typing import NDArray

from actors.tasks.datasets.prints import NUM_BITS, Prints

DISTANCE = 24
"""Bits of 256 by which near-duplicates differ at most; where it comes from is told in docs/datasets.md."""
COLOUR = 32
"""Of 255: the most that a colour of the grid differs between near-duplicates, after the best common gain."""
MOST_NAMED = 20
_ROWS, _COLUMNS = 128, 8192
"""A block of pairs is 8 MiB, so that it stays in the cache."""
_PAIRS = 4096
"""Whose colours are compared at once, 6 MiB each side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """An item of each set that share a picture. distance: in bits, 0 to 256; −1 where the pixels are the same."""

    first: str
    second: str
    distance: int
    same_question: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaks:
    """What `second` has from `first`.

    items, pictures: how many each has, pictures that are the same counted once. exact, near: items of `second` that
    show a picture of `first`, the same pixels, or only alike. tasks: those of them with its question too. questions:
    items of `second` whose words `first` has. exact_pairs, near_pairs: of pictures. pairs: examples, the most alike
    first. distance: None where only equal pixels were looked for.
    """

    first: str
    second: str
    items: tuple[int, int]
    pictures: tuple[int, int]
    distance: int | None
    exact: int
    near: int
    tasks: int
    questions: int
    exact_pairs: int
    near_pairs: int
    pairs: tuple[Pair, ...]

    @property
    def clean(self) -> bool:
        """No picture is shared."""
        return not self.exact_pairs and not self.near_pairs


def find_leaks(
    first: Prints,
    second: Prints,
    *,
    distance: int | None = DISTANCE,
    compared: Callable[[int], None] = lambda count: None,
) -> Leaks:
    """What the sets share. distance: of near-duplicates in bits; None looks for equal pixels only.

    compared: told how many pictures of `first` were compared. Raises ValueError for a distance that no hash has.
    """
    if distance is not None and not 0 <= distance < NUM_BITS:
        raise ValueError(f"distance must be at least 0 and less than {NUM_BITS} bits, got {distance}")
    found = _Found(first, second)
    numbers = {exact: number for number, exact in enumerate(first.exact)}
    for other, exact in enumerate(second.exact):
        if exact in numbers:
            found.add(numbers[exact], other, -1)
    if distance is not None:
        for one, other, bits in near_duplicates(first, second, distance, compared):
            if first.exact[one] != second.exact[other]:
                found.add(one, other, bits)
    asked = set(first.questions)
    return Leaks(
        first=first.name,
        second=second.name,
        items=(len(first.ids), len(second.ids)),
        pictures=(len(first.exact), len(second.exact)),
        distance=distance,
        exact=len(found.exact),
        near=len(found.near - found.exact),
        tasks=len(found.tasks),
        questions=sum(question in asked for question in second.questions),
        exact_pairs=found.exact_pairs,
        near_pairs=found.near_pairs,
        pairs=found.examples(),
    )


class _Found:
    """Pairs of pictures as they are found, and the items of `second` that they concern."""

    def __init__(self, first: Prints, second: Prints) -> None:
        self._first, self._second = first, second
        self.exact: set[int] = set()
        self.near: set[int] = set()
        self.tasks: set[int] = set()
        self.exact_pairs = self.near_pairs = 0
        self._examples: list[Pair] = []

    def add(self, one: int, other: int, distance: int) -> None:
        """Pictures number `one` and `other` are `distance` bits apart, or the same (−1)."""
        same = distance < 0
        self.exact_pairs += same
        self.near_pairs += not same
        left, right = self._first.items[one], self._second.items[other]
        (self.exact if same else self.near).update(right)
        asked = {self._first.questions[i]: i for i in left}
        again = [j for j in right if self._second.questions[j] in asked]
        self.tasks.update(again)
        j = again[0] if again else right[0]
        i = asked.get(self._second.questions[j], left[0])
        self._examples.append(
            Pair(first=self._first.ids[i], second=self._second.ids[j], distance=distance, same_question=bool(again))
        )
        if len(self._examples) >= 100 * MOST_NAMED:
            self._examples = list(self.examples())

    def examples(self) -> tuple[Pair, ...]:
        """The most alike, none twice."""
        once = dict.fromkeys(self._examples)
        return tuple(nsmallest(MOST_NAMED, once, key=lambda p: (p.distance, not p.same_question, p.first, p.second)))


def near_duplicates(
    first: Prints, second: Prints, distance: int, compared: Callable[[int], None] = lambda count: None
) -> Iterator[tuple[int, int, int]]:
    """Pictures of `first`, of `second`, and the bits between them, at most `distance`, where the colours agree too."""
    for top in range(0, len(first.exact), _ROWS):
        block = first.perceptual[top : top + _ROWS]
        for left in range(0, len(second.exact), _COLUMNS):
            others = second.perceptual[left : left + _COLUMNS]
            # The distance in one word is at most that in all.
            one, other = np.nonzero(np.bitwise_count(block[:, :1] ^ others[None, :, 0]) <= distance)
            bits = np.bitwise_count(block[one] ^ others[other]).sum(axis=1, dtype=np.int64)
            kept = bits <= distance
            one, other, bits = one[kept] + top, other[kept] + left, bits[kept]
            for at in range(0, len(one), _PAIRS):
                some = slice(at, at + _PAIRS)
                alike = colour_distance(first.colours[one[some]], second.colours[other[some]]) <= COLOUR
                pairs = (one[some][alike], other[some][alike], bits[some][alike])
                yield from zip(*(column.tolist() for column in pairs), strict=True)
        compared(min(top + _ROWS, len(first.exact)))


def colour_distance(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.float64]:
    """max |g·a − b| of each row, g = a·b / a·a its best gain, so that a brighter copy is near.

    Shapes (rows, 192) → (rows,).
    """
    a, b = first.astype(np.float64), second.astype(np.float64)
    gain = (a * b).sum(axis=1) / np.maximum((a * a).sum(axis=1), 1.0)
    distance: NDArray[np.float64] = np.abs(gain[:, None] * a - b).max(axis=1, initial=0.0)
    return distance
