"""Scenes with dense targets, for the warm-up of the base model's vision tower."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from actors.tasks.config import WorldConfig
from actors.tasks.scene import COLOURS
from actors.tasks.world.desk import NOTE
from actors.tasks.world.drawn import written_box
from actors.tasks.world.world import World
from common.media import FolderMediaStore

FRAMES = 8
"""Frames that a view can be marked as; a still picture's class is FRAMES."""
WORDS = (*COLOURS, NOTE)
"""The colours of things, in the order of `presence`."""
_CROWDS = ((1, 1), (1, 2), (2, 4), (2, 4))
"""Numbers of things, dealt in turn: easy pictures beside hard ones."""


def detection_scenes(
    config: WorldConfig,
    start: int,
    count: int,
    *,
    cells: int,
    view: Callable[[NDArray[np.uint8], int | None], NDArray[np.uint8]],
    store: FolderMediaStore,
) -> bytes:
    """Pictures `start` … of the world's tasks as safetensors: views (n, side, side, 3) uint8; presence (n, cells²,
    words) uint8, which colours of things have their centre in a cell; boxes (n, cells², 4) int64, the written box of
    one of them in grid steps, or 1000 // grid_step + 1 for none. Of a clip one of the shown frames is taken; every
    second still is marked as a frame, so that stills and frames look alike.
    """
    from safetensors.numpy import save

    world = World(config, store)
    none = 1000 // config.grid_step + 1
    views = []
    presence = np.zeros((count, cells * cells, len(WORDS)), np.uint8)
    frames = np.zeros(count, np.int64)
    boxes = np.full((count, cells * cells, 4), none, np.int64)
    for row in range(count):
        number = start + row
        _, drawn = world.draw("pretrain", number, num_plates=_CROWDS[number % len(_CROWDS)])
        at = drawn.shown[number % len(drawn.shown)]
        picture = drawn.pictures[at]
        frames[row] = at % FRAMES if drawn.times_s else FRAMES if number % 2 else number // 8 % FRAMES
        views.append(view(picture, None if frames[row] == FRAMES else int(frames[row])))
        side = len(picture)
        for named in drawn.named:
            if named.frame == at:
                x0, y0, x1, y1 = named.box
                cell = (y0 + y1) * cells // (2 * side) * cells + (x0 + x1) * cells // (2 * side)
                presence[row, cell, WORDS.index(named.colour)] = 1
                written = written_box(named.box, config, side=side)
                boxes[row, cell] = [value // config.grid_step for value in written]
    packed: bytes = save({"views": np.stack(views), "presence": presence, "boxes": boxes, "frames": frames})
    return packed
