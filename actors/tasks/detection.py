"""Scenes with dense targets, for the warm-up of the base model's vision tower."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from actors.tasks.config import WorldConfig
from actors.tasks.scene import COLOURS, draw_scene
from actors.tasks.world import written_box
from common.seeds import stream

FRAMES = 8
"""Frames that a view can be marked as; every second scene is a still picture, whose class is FRAMES."""
_PLATES = ((1, 1), (1, 2), (2, 4), (2, 4))
"""Numbers of plates, dealt in turn: easy pictures beside hard ones."""


def detection_scenes(
    config: WorldConfig,
    start: int,
    count: int,
    *,
    cells: int,
    view: Callable[[NDArray[np.uint8], int | None], NDArray[np.uint8]],
) -> bytes:
    """Scenes `start` … as safetensors: views (n, side, side, 3) uint8; presence (n, cells², colours) uint8, which
    colours of plate have
    their centre in a cell; boxes (n, cells², 4) int64, that plate's written box in grid steps, or 1000 // grid_step +
    1 for none.
    """
    from safetensors.numpy import save

    none = 1000 // config.grid_step + 1
    names = list(COLOURS)
    views = []
    presence = np.zeros((count, cells * cells, len(names)), np.uint8)
    frames = np.zeros(count, np.int64)
    boxes = np.full((count, cells * cells, 4), none, np.int64)
    for row in range(count):
        random = stream(config.seed, "detection", start + row)
        low, high = _PLATES[(start + row) % len(_PLATES)]
        scene = draw_scene(random, num_plates=int(random.integers(low, high + 1)), side=config.side)
        frames[row] = FRAMES if (start + row) % 2 else (start + row) // 8 % FRAMES
        views.append(view(scene.pixels, None if frames[row] == FRAMES else int(frames[row])))
        for plate in scene.plates:
            x0, y0, x1, y1 = plate.box
            cell = (y0 + y1) * cells // (2 * config.side) * cells + (x0 + x1) * cells // (2 * config.side)
            presence[row, cell, names.index(plate.colour)] = 1
            boxes[row, cell] = [value // config.grid_step for value in written_box(plate, config)]
    packed: bytes = save({"views": np.stack(views), "presence": presence, "boxes": boxes, "frames": frames})
    return packed
