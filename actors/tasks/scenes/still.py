"""Stills: a target among other things, partly covered by an occluder at the share that the difficulty says.

The occluder lies in front, then the target, then all others, so the target is covered by its occluder alone. Things of
the target's colour keep away from it; the others are seen for the most part, and wholly where nothing is covered.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from actors.tasks.scene import COLOURS
from actors.tasks.scenes.ground import add_noise, draw_ground
from actors.tasks.scenes.paint import colour_names, lay, painted, shaded, stands_out
from actors.tasks.scenes.shapes import SHAPES, silhouette, tight_box
from actors.tasks.scenes.truth import Difficulty, Shape, Still, Thing
from common.types import Box

GAP = 6
"""Pixels between the boxes of things that must not touch."""
MIN_SEEN = 0.6
"""Share of every other thing that is seen where things may cover one another."""
_MARGIN = 4
_TRIES = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class _Placed:
    """A silhouette whose first pixel lies at (x, y)."""

    shape: Shape
    colour: str
    x: int
    y: int
    silhouette: NDArray[np.bool_]

    @property
    def box(self) -> Box:
        return self.x, self.y, self.x + self.silhouette.shape[1], self.y + self.silhouette.shape[0]


def draw_still(random: np.random.Generator, difficulty: Difficulty, *, side: int = 448) -> Still:
    """A square picture of `side` pixels. Raises ValueError for a side under 160."""
    if side < 160:
        raise ValueError(f"side must be at least 160, got {side}")
    ground = draw_ground(random, difficulty.ground, side)
    while True:
        placed = _arrange(random, difficulty, ground)
        if placed is not None:
            return _finish(random, difficulty, ground, *placed)


def _arrange(
    random: np.random.Generator, difficulty: Difficulty, ground: NDArray[np.uint8]
) -> tuple[list[_Placed], int] | None:
    """Things from front to back and the index of the target; None when they do not fit this time."""
    side = len(ground)
    own, *others = colour_names(random)
    count = int(random.integers(difficulty.num_things[0], difficulty.num_things[1] + 1))
    taken = np.zeros((side, side), bool)
    target = _anywhere(random, ground, _cast(random, _shape(random), own, side * 0.15, side * 0.24))
    if target is None:
        return None
    front: list[_Placed] = []
    if difficulty.occlusion[1] > 0:
        occluder = _cover(random, target, others.pop(), difficulty.occlusion, side)
        if occluder is None:
            return None
        front.append(occluder)
    front.append(target)
    for placed in front:
        _take(taken, placed)
    overlapping = difficulty.occlusion[1] > 0
    while len(front) < count:
        hue = own if len(front) - 1 - overlapping < difficulty.same_hue_distractors else others.pop()
        same = hue == own
        shape = target.shape if same and difficulty.look_alikes else _shape(random, but=target.shape if same else None)
        for _ in range(_TRIES):
            thing = _anywhere(random, ground, _cast(random, shape, hue, side * 0.1, side * 0.2))
            kin = [other for other in front if other.colour == hue] if overlapping else front
            if thing and all(_apart(thing.box, other.box) for other in kin) and _seen(taken, thing) >= MIN_SEEN:
                _take(taken, thing)
                front.append(thing)
                break
        else:
            return None
    return front, int(overlapping)


def _shape(random: np.random.Generator, but: Shape | None = None) -> Shape:
    known = [shape for shape in SHAPES if shape != but]
    return known[int(random.integers(len(known)))]


def _cast(random: np.random.Generator, shape: Shape, colour: str, low: float, high: float) -> _Placed:
    """A thing of a size from `low` to `high` pixels, slightly turned, not placed yet."""
    cut = silhouette(shape, float(random.uniform(low, high)), float(random.uniform(-25, 25)))
    return _Placed(shape=shape, colour=colour, x=0, y=0, silhouette=cut)


def _move(thing: _Placed, x: int, y: int) -> _Placed:
    return _Placed(shape=thing.shape, colour=thing.colour, x=x, y=y, silhouette=thing.silhouette)


def _anywhere(random: np.random.Generator, ground: NDArray[np.uint8], thing: _Placed) -> _Placed | None:
    """The thing at a place where its colour stands out, or None when none of a few places does."""
    height, width = thing.silhouette.shape
    side = len(ground)
    for _ in range(4):
        x, y = (int(random.integers(_MARGIN, side - length - _MARGIN + 1)) for length in (width, height))
        if stands_out(ground, (x, y, x + width, y + height), COLOURS[thing.colour]):
            return _move(thing, x, y)
    return None


def _cover(
    random: np.random.Generator, target: _Placed, colour: str, share: tuple[float, float], side: int
) -> _Placed | None:
    """An occluder pushed over the target from a random side until it covers a share within the range."""
    low, high = share
    aim = float(random.uniform(low + (high - low) / 8, high - (high - low) / 8))
    for _ in range(6):
        thing = _cast(random, _shape(random, but="ring"), colour, side * 0.15, side * 0.22)
        angle = float(random.uniform(0, 2 * math.pi))
        near, far = 0.0, float(sum(target.silhouette.shape + thing.silhouette.shape))
        for _ in range(9):
            middle = (near + far) / 2
            moved = _beside(target, thing, middle, angle)
            covered = _covered(target, moved)
            if low <= covered <= high and abs(covered - aim) < 0.02:
                break
            near, far = (middle, far) if covered > aim else (near, middle)
        x0, y0, x1, y1 = moved.box
        inside = min(x0, y0) >= _MARGIN and max(x1, y1) <= side - _MARGIN
        if inside and low <= covered <= high:
            return moved
    return None


def _beside(target: _Placed, thing: _Placed, distance: float, angle: float) -> _Placed:
    """`thing` with its centre `distance` pixels from the target's."""
    (th, tw), (h, w) = target.silhouette.shape, thing.silhouette.shape
    x = target.x + (tw - w) / 2 + distance * math.cos(angle)
    y = target.y + (th - h) / 2 + distance * math.sin(angle)
    return _move(thing, round(x), round(y))


def _covered(target: _Placed, front: _Placed) -> float:
    """Share of the target that `front` hides."""
    x0, y0 = max(target.x, front.x), max(target.y, front.y)
    x1, y1 = min(target.box[2], front.box[2]), min(target.box[3], front.box[3])
    if x0 >= x1 or y0 >= y1:
        return 0.0
    mine = target.silhouette[y0 - target.y : y1 - target.y, x0 - target.x : x1 - target.x]
    over = front.silhouette[y0 - front.y : y1 - front.y, x0 - front.x : x1 - front.x]
    return int((mine & over).sum()) / int(target.silhouette.sum())


def _apart(a: Box, b: Box) -> bool:
    return a[2] + GAP <= b[0] or b[2] + GAP <= a[0] or a[3] + GAP <= b[1] or b[3] + GAP <= a[1]


def _take(taken: NDArray[np.bool_], thing: _Placed) -> None:
    x0, y0, x1, y1 = thing.box
    taken[y0:y1, x0:x1] |= thing.silhouette


def _seen(taken: NDArray[np.bool_], thing: _Placed) -> float:
    x0, y0, x1, y1 = thing.box
    return 1 - int((taken[y0:y1, x0:x1] & thing.silhouette).sum()) / int(thing.silhouette.sum())


def _finish(
    random: np.random.Generator, difficulty: Difficulty, ground: NDArray[np.uint8], placed: list[_Placed], target: int
) -> Still:
    """Paint the things through a z-buffer and read the truth off it. Numbers are shuffled: they say nothing."""
    labels = np.zeros(ground.shape[:2], np.uint8)
    numbers = [int(number) + 1 for number in random.permutation(len(placed))]
    patches = [painted(COLOURS[it.colour], shaded(random, it.silhouette, difficulty.shading)) for it in placed]
    pixels = ground
    layers = zip(numbers, [(it.x, it.y) for it in placed], [it.silhouette for it in placed], patches, strict=True)
    lay(pixels, labels, layers)
    by_number = [it for _, it in sorted(zip(numbers, placed, strict=True), key=lambda pair: pair[0])]
    return Still(
        pixels=add_noise(random, pixels, difficulty.noise),
        labels=labels,
        ink=np.zeros_like(labels),
        things=tuple(_truth(number, it, labels) for number, it in enumerate(by_number, start=1)),
        silhouettes=tuple(it.silhouette for it in by_number),
        strings=(),
        target=numbers[target],
        difficulty=difficulty.name,
    )


def _truth(number: int, placed: _Placed, labels: NDArray[np.uint8]) -> Thing:
    x0, y0, x1, y1 = placed.box
    seen = labels[y0:y1, x0:x1] == number
    left, top, right, bottom = tight_box(seen)
    return Thing(
        number=number,
        shape=placed.shape,
        colour=placed.colour,
        rgb=COLOURS[placed.colour],
        box=(x0 + left, y0 + top, x0 + right, y0 + bottom),
        area=int(seen.sum()),
        amodal_box=placed.box,
        amodal_area=int(placed.silhouette.sum()),
    )
