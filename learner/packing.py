"""Several rows in one line, so that no compute goes into padding.

Rows are placed longest first, each into the first line with room (first-fit decreasing); a line is as long as the
longest row. Attention stays within a row: transformers keeps tokens apart whose text positions do not follow one
another (masking_utils.find_packed_sequence_indices), and M-RoPE positions are a row's own in any case. Sums over a
line's tokens are those over its rows, so losses and gradients are the same up to rounding (a test holds this for
Qwen2.5-VL and Qwen3-VL).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a row begins: a line, and a token of it."""

    line: int
    start: int


def places(lengths: Sequence[int]) -> list[Place]:
    """One place a row, lines as long as the longest row."""
    found, _ = _fill(lengths, _falling(lengths, range(len(lengths))), max_lines=len(lengths))
    return [found[index] for index in range(len(lengths))]


def packed_batches(lengths: Sequence[int], members: Sequence[int], *, budget: int) -> list[list[int]]:
    """Split `members` (indices into `lengths`) into batches whose lines hold at most `budget` tokens, padding
    included; a longer row goes alone. `places` puts each batch into the lines that were counted here."""
    batches: list[list[int]] = []
    waiting = _falling(lengths, members)
    while waiting:
        placed, waiting = _fill(lengths, waiting, max_lines=max(1, budget // lengths[waiting[0]]))
        batches.append(list(placed))
    return batches


def _falling(lengths: Sequence[int], members: Sequence[int]) -> list[int]:
    return sorted(members, key=lambda index: (-lengths[index], index))


def _fill(lengths: Sequence[int], falling: Sequence[int], *, max_lines: int) -> tuple[dict[int, Place], list[int]]:
    """Places of the rows that fit into `max_lines` lines of the first row's length, and the rows that do not. A row's
    place depends on placed rows alone, so filling again with these gives the same places."""
    placed: dict[int, Place] = {}
    left: list[int] = []
    ends: list[int] = []
    for index in falling:
        line = next((i for i, end in enumerate(ends) if end + lengths[index] <= lengths[falling[0]]), len(ends))
        if line == max_lines:
            left.append(index)
            continue
        if line == len(ends):
            ends.append(0)
        placed[index] = Place(line=line, start=ends[line])
        ends[line] += lengths[index]
    return placed, left
