"""How things of a clip move: plans of places, existence and colours, frame by frame.

Travellers (the target and those that look like it) come to the middle, where the occluder stands if there is one, and
go on or turn around; half of them turn around, and the row in which they go on is drawn anew, so neither extrapolation
nor height tells who is who afterwards. Each of the others has a corner of its own and one act, which makes an event.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

ActKind: TypeAlias = Literal["turns", "stops", "enters", "leaves", "appears", "disappears", "crosses"]
ACTS: tuple[ActKind, ...] = ("turns", "stops", "enters", "leaves", "appears", "disappears", "crosses")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """centres: of a thing in every frame, pixels. exists: half-open frames. turned: half-open frames in its other
    colour, empty when it keeps its own.
    """

    centres: tuple[tuple[int, int], ...]
    exists: tuple[int, int]
    turned: tuple[int, int] = (0, 0)


def along(knots: list[tuple[int, float, float]], num_frames: int) -> tuple[tuple[int, int], ...]:
    """Centres on straight lines through knots (frame, x, y); a thing rests before the first and after the last."""
    places: list[tuple[int, int]] = []
    for frame in range(num_frames):
        before = max((knot for knot in knots if knot[0] <= frame), default=knots[0], key=lambda knot: knot[0])
        after = min((knot for knot in knots if knot[0] > frame), default=knots[-1], key=lambda knot: knot[0])
        lasts = after[0] - before[0]
        share = (frame - before[0]) / lasts if lasts > 0 else 0.0
        places.append(
            (round(before[1] + share * (after[1] - before[1])), round(before[2] + share * (after[2] - before[2])))
        )
    return tuple(places)


def travel(
    random: np.random.Generator, *, num_travellers: int, meet_in_one_row: bool, side: int, num_frames: int
) -> tuple[list[Plan], list[bool], int, list[float]]:
    """A plan for each traveller, whether it turns around, the x of the middle, where they meet, and the rows' y."""
    middle = side // 2 + int(random.integers(-side // 40, side // 40 + 1))
    meeting = int(random.integers(round(num_frames * 0.42), round(num_frames * 0.52) + 1))
    spacing = min(0.26, 0.38 / max(1, num_travellers - 1)) * side
    rows = [side / 2 + (row - (num_travellers - 1) / 2) * spacing for row in range(num_travellers)]
    first, last = (random.permutation(num_travellers) for _ in range(2))
    turning = [index < num_travellers / 2 for index in range(num_travellers)]
    if num_travellers % 2 and random.integers(2):
        turning = [not turns for turns in turning]
    turning = [turning[int(index)] for index in random.permutation(num_travellers)]
    plans = []
    for index in range(num_travellers):
        from_left = bool(random.integers(2))
        to_left = from_left == turning[index]
        start, stop = (side * float(random.uniform(0.15, 0.2)) for _ in range(2))
        knots = [
            (0, start if from_left else side - start, rows[int(first[index])]),
            (meeting, float(middle), side / 2 if meet_in_one_row else rows[index]),
            (num_frames - 1, stop if to_left else side - stop, rows[int(last[index])]),
        ]
        plans.append(Plan(centres=along(knots, num_frames), exists=(0, num_frames)))
    return plans, turning, middle, rows


def perform(
    random: np.random.Generator, act: ActKind, *, corner: tuple[float, float], line_x: int, side: int, num_frames: int
) -> Plan:
    """The plan of a thing that does `act` around `corner`, the centre of a part of the picture that is its own."""
    x, y = corner
    reach = side * 0.1
    way = 1 if random.integers(2) else -1
    begin = int(random.integers(num_frames // 6, num_frames // 3 + 1))
    lasts = int(random.integers(max(3, num_frames // 6), num_frames // 3 + 1))
    stays, turned, exists = [(0, x, y)], (0, 0), (0, num_frames)
    outward = -1 if x < side / 2 else 1
    outside = -side * 0.12 if outward < 0 else side * 1.12
    if act == "turns":
        turned = (begin + 1, begin + 1 + lasts)
    elif act == "stops":
        stays = [(0, x - way * reach, y), (begin, x, y), (begin + lasts, x, y), (num_frames - 1, x + way * reach, y)]
    elif act == "enters":
        stays = [(begin, outside, y), (begin + max(5, num_frames // 3), x, y)]
    elif act == "leaves":
        stays = [(begin, x, y), (begin + max(5, num_frames // 3), outside, y)]
    elif act == "appears":
        exists = (begin + lasts // 2, num_frames)
    elif act == "disappears":
        exists = (0, num_frames - begin)
    else:
        far = side * 0.12
        stays = [(begin, line_x - way * far, y), (begin + max(6, num_frames // 3), line_x + way * far, y)]
    return Plan(centres=along(stays, num_frames), exists=exists, turned=turned)
