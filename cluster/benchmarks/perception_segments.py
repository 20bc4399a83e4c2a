"""How well SEG and TRK do on scenes whose truth is known: overlap of masks and boxes, HOTA, milliseconds a call.

A prompt is what a careful user gives: a box that is a few pixels off, a point well inside the thing, a point off it.
The truth draws the prompt and judges the answer; the back ends see pixels and prompt only.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from actors.tasks.scenes.moving import draw_moving
from actors.tasks.scenes.still import draw_still
from actors.tasks.scenes.truth import LEVELS, Moving
from actors.tools.backends.masks import extent, grown, mask_iou
from actors.tools.ports import Point, Prompt, Segmenter, Sighting, Tracker
from cluster.benchmarks.hota import hota
from common.geometry import iou
from common.seeds import stream
from common.types import Box

JITTER = 3
"""Pixels by which a side of a prompt's box is off at most."""
PROMPTS = ("box", "box_point", "points", "point")
MIN_VISIBLE = 0.05
"""Share of a thing that a person still notices: with less of it seen, neither answer about a frame is wrong."""

Bitmap = NDArray[np.bool_]


def measure_segments(segmenter: Segmenter, *, num: int, level: str, seed: int = 0) -> dict[str, float]:
    """Mean IoU of the target's mask over `num` stills of a level, by kind of prompt, and milliseconds a call.

    box: around what is seen of the target. box_point: with a point on it. points: a point on it and one on each of the
    two nearest other things or the ground. point: a point alone.
    """
    found: dict[str, list[float]] = {kind: [] for kind in PROMPTS}
    spent_s = 0.0
    for index in range(num):
        random = stream(seed, "segments", level, index)
        still = draw_still(random, LEVELS[level])
        truth = still.mask(still.target)
        for kind, prompt in _prompts(random, truth).items():
            began = time.process_time()
            region = segmenter.segment(still.pixels, prompt)
            spent_s += time.process_time() - began
            found[kind].append(mask_iou(region.mask, truth))
    means = {f"{kind}_iou": float(np.mean(values)) for kind, values in found.items()}
    return {**means, "worst_box_iou": min(found["box"]), "call_ms": 1000 * spent_s / (num * len(PROMPTS))}


def measure_tracks(tracker: Tracker, *, num: int, level: str, seed: int = 0) -> dict[str, float]:
    """Means over `num` clips of a level, followed from a box in the first frame, and milliseconds a frame.

    box_iou, mask_iou: over the frames in which the target is seen; a frame in which it is reported hidden counts 0.
    hota: of the boxes, the target alone as truth, of the visible frames. visible: share of frames in which visible and
    hidden are told right, those aside in which hardly anything is seen.
    """
    rows = []
    spent_s = 0.0
    for index in range(num):
        random = stream(seed, "tracks", level, index)
        moving = draw_moving(random, LEVELS[level])
        seed_box = _jittered(random, extent(moving.labels[0] == moving.target), moving.labels[0].shape)
        began = time.process_time()
        sightings = list(tracker.track(moving.frames, Prompt(box=seed_box)))
        spent_s += (time.process_time() - began) / len(moving.frames)
        rows.append(judge_track(moving, sightings))
    means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    return {**means, "worst_box_iou": min(row["box_iou"] for row in rows), "frame_ms": 1000 * spent_s / num}


def judge_track(moving: Moving, sightings: list[Sighting]) -> dict[str, float]:
    """box_iou, mask_iou, hota and visible of one clip; see `measure_tracks`."""
    track = next(track for track in moving.tracks if track.thing == moving.target)
    boxes, masks, told = [], [], []
    for index, sighting in enumerate(sightings):
        box, share = track.boxes[index], track.visible[index]
        if box is None or share >= MIN_VISIBLE:
            told.append(sighting.visible == (box is not None))
        if box is None or share < MIN_VISIBLE:
            continue
        boxes.append(iou(sighting.box, box) if sighting.visible else 0.0)
        truth = moving.labels[index] == moving.target
        masks.append(0.0 if sighting.mask is None else mask_iou(sighting.mask, truth))
    true_boxes: list[dict[int, Box]] = [{} if box is None else {moving.target: box} for box in track.boxes]
    found_boxes: list[dict[int, Box]] = [{1: sighting.box} if sighting.visible else {} for sighting in sightings]
    return {
        "box_iou": float(np.mean(boxes)),
        "mask_iou": float(np.mean(masks)),
        "hota": hota(true_boxes, found_boxes).hota,
        "visible": float(np.mean(told)),
    }


def measure_real_masks(segmenter: Segmenter, folder: Path) -> dict[str, float]:
    """Mean IoU on the masks in `folder`/masks, from exact boxes, with the pictures of the same name in
    `folder`/images; one value a mask beside it.
    """
    from PIL import Image

    found: dict[str, float] = {}
    for path in sorted((folder / "masks").glob("*.png")):
        truth = np.asarray(Image.open(path)) > 0
        pixels = np.asarray(Image.open(folder / "images" / f"{path.stem}.jpg").convert("RGB"))
        height, width = (min(sides) for sides in zip(truth.shape, pixels.shape[:2], strict=True))
        region = segmenter.segment(pixels[:height, :width], Prompt(box=extent(truth[:height, :width])))
        found[path.stem] = mask_iou(region.mask, truth[:height, :width])
    return {"mean_iou": float(np.mean(list(found.values()))), **found}


def _prompts(random: np.random.Generator, truth: Bitmap) -> dict[str, Prompt]:
    """Every kind of PROMPTS for a mask."""
    box = _jittered(random, extent(truth), truth.shape)
    point = _inside(random, truth)
    around = _around(random, truth, 2)
    return {
        "box": Prompt(box=box),
        "box_point": Prompt(box=box, points=(point,)),
        "points": Prompt(points=(point,), negative=around),
        "point": Prompt(points=(point,)),
    }


def _jittered(random: np.random.Generator, box: Box, shape: tuple[int, ...]) -> Box:
    """A box whose sides are up to JITTER px off."""
    moved = [int(side) for side in np.array(box) + random.integers(-JITTER, JITTER, 4, endpoint=True)]
    return grown((moved[0], moved[1], max(moved[0] + 2, moved[2]), max(moved[1] + 2, moved[3])), 0, shape)


def _inside(random: np.random.Generator, truth: Bitmap) -> Point:
    """A point of a mask at least half as deep in it as its deepest."""
    import cv2

    depth = cv2.distanceTransform(np.pad(truth, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    rows, columns = np.nonzero(depth >= 0.5 * depth.max())
    chosen = int(random.integers(len(rows)))
    return int(columns[chosen]), int(rows[chosen])


def _around(random: np.random.Generator, truth: Bitmap, num: int) -> tuple[Point, ...]:
    """Points 6 to 20 px off a mask."""
    import cv2

    away = cv2.distanceTransform((~truth).astype(np.uint8), cv2.DIST_L2, 5)
    rows, columns = np.nonzero((away >= 6) & (away <= 20))
    chosen = random.integers(len(rows), size=num)
    return tuple((int(columns[index]), int(rows[index])) for index in chosen)
