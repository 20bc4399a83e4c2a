"""A tracker without weights: the shape of a thing is laid where its colours are, and told from what covers it.

From the first frame's mask come the thing's shape and its colours. In each further frame every pixel gets the log of
how much rather it is of the thing's colours than of the rest of the frame; the shape, moved, turned and scaled a
little from where it was expected, is laid where it holds most of those pixels and its rim fewest. The pixels inside it
that are the thing's are what is seen of it. The shape is learned anew only in frames that show it whole, so a
passing thing cuts the mask but not the shape; with too little seen the thing is hidden, its path is drawn on, and it is
searched ever farther around until colours and shape are found again. Nothing is random.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from actors.tools.backends.masks import extent
from actors.tools.backends.noise import MAX_NOISE, noise
from actors.tools.ports import Frames, Prompt, Segmenter, Sighting
from common.types import Box

SIDE = 320
"""Pixels of the longer side at which frames are compared."""
BINS = 24
"""Of each of CIELAB's axes in a colour histogram."""
SURE = 3.0
"""Log-likelihood ratios are cut to ± this, so that no pixel outvotes its neighbours."""
UNKNOWN = 10
"""How much rather a colour that neither the thing nor the rest has shown is the rest's."""
RIM = 5
"""Pixels around the shape that should not be the thing's."""
MIN_SEEN = 0.08
"""Share of the shape that must be seen, or the thing is hidden."""
WHOLE = 0.95
"""Share from which a frame shows the thing whole."""
GROWS, SHRINKS = 0.5, 0.1
"""How much of a frame's shape is taken over where it is larger, and where it is smaller."""
TURNS = (0.0, -5.0, 5.0)
"""Degrees that a shape may turn between two frames."""
SCALES = (1.0, 0.97, 1.03)
MIN_TO_TURN = 0.7
"""Share of the shape that must be of the thing's colours before it may turn and scale."""
MAX_CROWD = 0.12
"""Share of the shape's rim that may be of the thing's colours before another thing of them is thought to touch it."""
SAME_FIT = 0.85
"""Share of the first frame's fit from which what was found is surely the thing that was lost."""

Bitmap = NDArray[np.bool_]
Plane = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pose:
    """Where the shape lies: its centre in pixels, turned by degrees and scaled, both since it was learned."""

    x: float
    y: float
    turn: float = 0.0
    scale: float = 1.0


@dataclass(slots=True, kw_only=True)
class _Memory:
    """What is known of the thing; of one size however long the clip is.

    shape: patch with the whole thing in its middle. colours, ground: histograms of the thing and of the rest.
    fit: what the shape reached in the first frame. speed: px a frame. hidden: frames since it was last seen. noisy:
    the frames are. sure: it was seen whole since it was last lost; until then another place may fit it better.
    """

    shape: Plane
    colours: Plane
    ground: Plane
    pose: _Pose
    fit: float = 1.0
    speed: NDArray[np.float64] = field(default_factory=lambda: np.zeros(2))
    hidden: int = 0
    noisy: bool = False
    sure: bool = True


class ClassicalTracker:
    """A `Tracker` without weights. segmenter: finds what a box or points mark in the first frame."""

    def __init__(self, segmenter: Segmenter) -> None:
        self._segmenter = segmenter

    def track(self, frames: Frames, seed: Prompt) -> Iterator[Sighting]:
        """One sighting a frame, with a mask where the thing is visible."""
        first = frames[0]
        mask = self._segmenter.segment(first, seed).mask if seed.mask is None else seed.mask
        yield Sighting(box=extent(mask), visible=True, mask=mask)
        scale = min(1.0, SIDE / max(first.shape[:2]))
        noisy = noise(first) > MAX_NOISE
        memory = _learned(_bins(first, scale, noisy), _small(mask, scale), noisy)
        for index in range(1, len(frames)):
            pixels = frames[index]
            seen, box = _follow(memory, _bins(pixels, scale, noisy))
            if seen is None:
                yield Sighting(box=_clipped(box, scale, pixels.shape), visible=False)
                continue
            whole = _large(seen, pixels.shape)
            yield Sighting(box=extent(whole), visible=True, mask=whole)


def _learned(bins: NDArray[np.intp], mask: Bitmap, noisy: bool) -> _Memory:
    """What the first frame tells."""
    x0, y0, x1, y1 = extent(mask)
    pose = _Pose(x=(x0 + x1) / 2, y=(y0 + y1) / 2)
    memory = _Memory(
        shape=_taken_up(mask, 2 * max(x1 - x0, y1 - y0) + 2 * RIM, pose),
        colours=_histogram(bins[mask]),
        ground=_histogram(bins[~mask]),
        pose=pose,
        noisy=noisy,
    )
    memory.fit = max(0.2, _fits(memory, _evidence(_likelihood(memory, bins)), pose, reach=0)[0])
    return memory


def _follow(memory: _Memory, bins: NDArray[np.intp]) -> tuple[Bitmap | None, Box]:
    """What is seen of the thing in the next frame, or None, and the box of its shape. Changes `memory`."""
    likelihood = _likelihood(memory, bins)
    expected = replace(memory.pose, x=memory.pose.x + memory.speed[0], y=memory.pose.y + memory.speed[1])
    side = max(memory.shape.shape) / 2
    reach = round(min(max(bins.shape), 6 + 0.25 * side + float(np.abs(memory.speed).max()) + 6 * memory.hidden))
    evidence = _evidence(likelihood)
    fit, pose = _fits(memory, evidence, expected, reach)
    inner, rim = _presence(memory, evidence, pose)
    crowded = memory.sure and not memory.hidden and rim > MAX_CROWD
    if inner > MIN_TO_TURN:  # what is half covered fits a smaller shape as well
        turned_fit, turned = _turned(memory, evidence, fit, pose)
        if turned_fit > (1.04 if crowded else 1.0) * fit:
            fit, pose = turned_fit, turned
    if not memory.sure and fit < SAME_FIT * memory.fit:
        elsewhere, there = _anywhere(memory, evidence, pose)
        if elsewhere > fit + 0.1 * memory.fit:
            fit, pose = elsewhere, there
            memory.speed = np.zeros(2)
            memory.pose = pose
    shape = _laid(memory.shape, pose, likelihood.shape)
    seen = _seen(likelihood, shape, memory.noisy)
    if crowded:
        seen &= shape > 0.5
    share = float(seen.sum()) / max(1.0, float((shape > 0.5).sum()))
    if share < MIN_SEEN:
        memory.hidden += 1
        memory.sure = False
        memory.pose = _within(expected, bins.shape)
        memory.speed = memory.speed * 0.97
        return None, extent(_laid(memory.shape, memory.pose, bins.shape) > 0.5)
    moved = np.array([pose.x - memory.pose.x, pose.y - memory.pose.y])
    trust = 0.5 if share > 0.5 else 0.2
    memory.speed = memory.speed if memory.hidden else (1 - trust) * memory.speed + trust * moved
    memory.pose = pose
    memory.hidden = 0
    memory.sure = memory.sure or fit > SAME_FIT * memory.fit
    if share > WHOLE and fit > SAME_FIT * memory.fit and not crowded:
        _relearn(memory, bins, likelihood, seen)
    return seen, extent(shape > 0.5)


def _relearn(memory: _Memory, bins: NDArray[np.intp], likelihood: Plane, seen: Bitmap) -> None:
    """Take over a little of the shape and the colours of a frame that shows the thing whole.

    The shape grows faster than it shrinks: what comes out from behind something belongs to the thing, what goes may
    only be covered.
    """
    now = _taken_up(seen, memory.shape.shape[0], memory.pose)
    share = np.where(now > memory.shape, np.float32(GROWS), np.float32(SHRINKS))
    memory.shape = memory.shape + share * (now - memory.shape)
    memory.shape[memory.shape < 0.02] = 0
    memory.colours = 0.95 * memory.colours + 0.05 * _histogram(bins[seen & (likelihood > 0.3)])
    memory.ground = 0.8 * memory.ground + 0.2 * _histogram(bins[~seen])


def _turned(memory: _Memory, evidence: Plane, fit: float, pose: _Pose) -> tuple[float, _Pose]:
    """The fit and the pose in which the shape fits best, turned and scaled a little from `pose`."""
    for _ in range(2):
        before = pose
        for turn in TURNS:
            for scale in SCALES:
                if (turn, scale) == (0.0, 1.0):
                    continue
                tried = replace(before, turn=before.turn + turn, scale=min(3.0, max(0.33, before.scale * scale)))
                other, there = _fits(memory, evidence, tried, 2)
                if other > fit * 1.01:  # turning and scaling must earn their place, or rounding makes the shape creep
                    fit, pose = other, there
        if pose == before:
            break
    return fit, pose


def _presence(memory: _Memory, evidence: Plane, pose: _Pose) -> tuple[float, float]:
    """How much of the shape's inside and of its rim is of the thing's colours, each in [0, 1]."""
    import cv2

    laid = _laid(memory.shape, pose, evidence.shape)
    rim = cv2.dilate(laid, np.ones((2 * RIM + 1, 2 * RIM + 1))) - laid
    own = np.maximum(evidence, 0)
    inner, outer = (float((part * own).sum() / max(1.0, float(part.sum()))) for part in (laid, rim))
    return inner, outer


def _anywhere(memory: _Memory, evidence: Plane, pose: _Pose) -> tuple[float, _Pose]:
    """The best fit in the whole frame, as the shape was last turned and scaled, and its pose."""
    height, width = evidence.shape
    middle = replace(pose, x=width / 2, y=height / 2)
    _, there = _fits(memory, evidence, middle, max(height, width) // 2, near=0.0)
    return _fits(memory, evidence, there, 2)


def _fits(memory: _Memory, likelihood: Plane, pose: _Pose, reach: int, near: float = 0.3) -> tuple[float, _Pose]:
    """The best fit within `reach` px: the mean likelihood inside the shape less half of that of its rim, near the
    expected place rather than far from it.
    """
    import cv2

    kernel, middle = _kernel(memory.shape, pose)
    height, width = likelihood.shape
    half = kernel.shape[0] // 2
    left, top = round(pose.x) - half - reach, round(pose.y) - half - reach
    size = kernel.shape[0] + 2 * reach
    # Outside the frame there is nothing of the thing, and nothing that speaks against it.
    padded = np.zeros((size, size), np.float32)
    x0, y0, x1, y1 = max(0, left), max(0, top), min(width, left + size), min(height, top + size)
    if x0 < x1 and y0 < y1:
        padded[y0 - top : y1 - top, x0 - left : x1 - left] = likelihood[y0:y1, x0:x1]
    fits = cv2.matchTemplate(padded, kernel, cv2.TM_CCORR)
    if reach and near:
        y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
        fits = fits - near * ((x * x + y * y) / (reach * reach)).astype(np.float32)
    _, best, _, (column, row) = cv2.minMaxLoc(fits)
    return float(best), replace(pose, x=left + column + half + middle[0], y=top + row + half + middle[1])


def _kernel(shape: Plane, pose: _Pose) -> tuple[Plane, tuple[float, float]]:
    """The shape in a pose as weights: they sum to 1 inside, to −½ on the rim. And the pose's part of a pixel."""
    import cv2

    x0, y0, x1, y1 = extent(shape > 0.05)
    middle = shape.shape[0] / 2
    radius = np.hypot(max(x1 - middle, middle - x0), max(y1 - middle, middle - y0))
    half = int(np.ceil(radius * pose.scale)) + RIM + 1
    part = pose.x - round(pose.x), pose.y - round(pose.y)
    centred = replace(pose, x=half + 0.5 + part[0], y=half + 0.5 + part[1])
    laid = _laid(shape, centred, (2 * half + 1, 2 * half + 1))
    rim = cv2.dilate(laid, np.ones((2 * RIM + 1, 2 * RIM + 1))) - laid
    return laid / max(1.0, float(laid.sum())) - 0.5 * rim / max(1.0, float(rim.sum())), part


def _laid(shape: Plane, pose: _Pose, size: tuple[int, ...]) -> Plane:
    """The shape in a pose on a plane of `size`."""
    import cv2

    middle = (shape.shape[1] / 2, shape.shape[0] / 2)
    warp = cv2.getRotationMatrix2D(middle, pose.turn, pose.scale)
    warp[:, 2] += pose.x - middle[0], pose.y - middle[1]
    laid: Plane = cv2.warpAffine(shape, warp, (size[1], size[0]), flags=cv2.INTER_LINEAR)
    return laid


def _taken_up(mask: Bitmap, side: int, pose: _Pose) -> Plane:
    """What `_laid` undone makes of a mask: a patch of `side` px with the pose's centre in its middle."""
    import cv2

    warp = cv2.getRotationMatrix2D((side / 2, side / 2), pose.turn, pose.scale)
    warp[:, 2] += pose.x - side / 2, pose.y - side / 2
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    patch: Plane = cv2.warpAffine(mask.astype(np.float32), warp, (side, side), flags=flags)
    return patch


def _seen(likelihood: Plane, shape: Plane, noisy: bool) -> Bitmap:
    """The pixels in and closely around the shape that are the thing's."""
    import cv2

    smooth = cv2.GaussianBlur(likelihood, (0, 0), 1.0) if noisy else likelihood
    prior = 0.8 * (cv2.GaussianBlur(shape, (0, 0), 2.0) - 0.4)
    seen = ((smooth + prior > 0) & (cv2.dilate(shape, np.ones((7, 7))) > 0.5)).astype(np.uint8)
    if noisy:
        seen = cv2.morphologyEx(seen, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    _, labels, stats, _ = cv2.connectedComponentsWithStats(seen, connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    if not len(areas):
        return np.zeros(seen.shape, bool)
    kept = [index + 1 for index in range(len(areas)) if areas[index] >= max(6, 0.08 * areas.max())]
    chosen: Bitmap = np.isin(labels, kept)
    return chosen


def _likelihood(memory: _Memory, bins: NDArray[np.intp]) -> Plane:
    """How much rather each pixel is the thing's: the log of the ratio of the two histograms, cut to ± SURE, / SURE."""
    ratio = np.log((memory.colours + 1e-5) / (memory.ground + UNKNOWN * 1e-5))
    table = np.clip(ratio, -SURE, SURE) / SURE
    found: Plane = table.astype(np.float32)[bins]
    return found


def _evidence(likelihood: Plane) -> Plane:
    """What speaks for a pose. A pixel of other colours inside the shape says little: something may cover it there."""
    return np.where(likelihood > 0, likelihood, 0.25 * likelihood)


def _histogram(bins: NDArray[np.intp]) -> Plane:
    """Shares of colours, spread to neighbouring bins so that a little noise or shading is no new colour."""
    from scipy.ndimage import gaussian_filter

    counts = np.bincount(bins.ravel(), minlength=BINS**3).reshape(BINS, BINS, BINS).astype(np.float32)
    spread: Plane = gaussian_filter(counts, (1.2, 0.8, 0.8), mode="constant").ravel()
    return spread / max(1e-9, float(spread.sum()))


def _bins(pixels: NDArray[np.uint8], scale: float, noisy: bool) -> NDArray[np.intp]:
    """The histogram bin of each pixel of the smaller frame, smoothed where it is noisy."""
    import cv2

    height, width = pixels.shape[:2]
    size = max(1, round(width * scale)), max(1, round(height * scale))
    image = np.ascontiguousarray(pixels) if scale == 1 else cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    if noisy and min(size) > 3:
        image = cv2.medianBlur(image, 3)
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(np.int32)
    # 8-bit CIELAB; a and b seldom leave the middle half of their range, which gets finer bins.
    light = lab[..., 0] * BINS // 256
    across, down = (np.clip((lab[..., axis] - 128) * BINS // 192 + BINS // 2, 0, BINS - 1) for axis in (1, 2))
    found: NDArray[np.intp] = (light * BINS + across) * BINS + down
    return found


def _small(mask: Bitmap, scale: float) -> Bitmap:
    import cv2

    size = max(1, round(mask.shape[1] * scale)), max(1, round(mask.shape[0] * scale))
    small: Bitmap = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA) >= 0.5
    if not small.any():  # thinner than a pixel
        small = np.asarray(cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0)
    return small


def _large(mask: Bitmap, shape: tuple[int, ...]) -> Bitmap:
    import cv2

    if mask.shape == shape[:2]:
        return mask
    large: Bitmap = cv2.resize(mask.astype(np.float32), (shape[1], shape[0])) > 0.5
    return large


def _within(pose: _Pose, shape: tuple[int, ...]) -> _Pose:
    """A pose whose centre is in the frame."""
    return replace(pose, x=min(max(0.0, pose.x), shape[1] - 1.0), y=min(max(0.0, pose.y), shape[0] - 1.0))


def _clipped(box: Box, scale: float, shape: tuple[int, ...]) -> Box:
    """A box of a smaller frame as one of at least a pixel in the whole frame."""
    x0, y0 = min(shape[1] - 1, round(box[0] / scale)), min(shape[0] - 1, round(box[1] / scale))
    x1, y1 = min(shape[1], round(box[2] / scale)), min(shape[0], round(box[3] / scale))
    return x0, y0, max(x0 + 1, x1), max(y0 + 1, y1)
