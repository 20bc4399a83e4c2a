"""What a family draws: pictures, a question with its truth, the calls that answer it, and the names of what is seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from actors.tasks.config import WorldConfig
from actors.tasks.plan import Copied, Step
from actors.tasks.shifts import Shift
from common.geometry import GRID, pixels_to_grid
from common.types import Box

Pixels: TypeAlias = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A thing as a question names it. words: "red", or "upper red" where two are red. frame: the index of the picture
    that shows it. box: pixels, of what is seen. inside: a point of it on the grid, where one is asked for."""

    words: str
    frame: int
    box: Box
    inside: tuple[int, int] | None = None

    @property
    def colour(self) -> str:
        return self.words.split()[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A task before its pictures are stored.

    pictures: RGB, one, or a clip's frames with their seconds in `times_s`. shown: indices of those the model sees.
    steps: the shortest chain; copied: where its answer is read from, None where the truth itself is written. named:
    what could be asked about in the shown pictures.
    """

    pictures: tuple[Pixels, ...]
    times_s: tuple[float, ...] = ()
    shown: tuple[int, ...] = (0,)
    question: str
    answer: str
    kind: Literal["exact", "near"] = "exact"
    steps: tuple[Step, ...] = ()
    copied: Copied | None = None
    named: tuple[Named, ...] = ()


Family: TypeAlias = Callable[[np.random.Generator, WorldConfig, tuple[int, int], Shift | None], Drawn | None]
"""Draws one task with so many things (fewest, most); None where what was drawn cannot be asked without ambiguity."""


def written_box(box: Box, config: WorldConfig, *, side: int | None = None) -> tuple[int, int, int, int]:
    """A box with its margin, rounded outward to the grid: what a planned call asks for. side: of its picture."""
    side = side or config.side
    margin = config.margin * side / config.side
    x0, y0, x1, y1 = box
    wide = (round(x0 - margin), round(y0 - margin), round(x1 + margin), round(y1 + margin))
    return pixels_to_grid(wide, side, side, step=config.grid_step)


def nearest_box(box: Box, side: int, config: WorldConfig) -> tuple[int, int, int, int]:
    """A box rounded to the nearest lines of the grid: what a planned track starts from. side: of its picture."""
    step = config.grid_step
    x0, y0, x1, y1 = (step * round(value * GRID / side / step) for value in box)
    return x0, y0, x1, y1


def looked_for(name: str) -> str:
    """The thought before a call that says where a thing is: its name, as captions write it before a place.

    The question names it too, several turns earlier; written again beside the place it is far easier to bind.
    """
    return f" {name}"
