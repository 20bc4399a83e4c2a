"""A segmenter without weights: GrabCut, and the colours and edges that tell one thing from what lies over it.

What the box holds is separated from what lies around it by GrabCut (Rother et al. 2004): colour mixtures of both, cut
where they meet. What is left may still hold a second thing that covers the first: a region of another colour that
reaches the outline and meets the first along a crisp edge. It is taken out, unless the colours vary so much that the
thing is rather of several colours. Points without a box first grow to the region that their colour fills most stably.

A region is seen at most `SIDE` px long and all randomness is seeded, so the same call gives the same mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from actors.tools.backends.masks import box_mask, extent, grown, mask_iou
from actors.tools.backends.noise import MAX_NOISE, noise
from actors.tools.colours import lab
from actors.tools.ports import Point, Prompt, Region
from common.geometry import iou
from common.types import Box

SIDE = 224
"""Pixels of the longer side at which a region is separated: enough for outlines, and GrabCut's time grows with it."""
WHOLE_SIDE = 448
"""Pixels of the longer side at which points grow."""
MARGIN = 0.35
"""Of the box's longer side: what is looked at around it."""
LAB_WEIGHTS = np.array([0.6, 1.0, 1.0], np.float32)
"""Lightness counts less than hue and saturation: shading changes it within one thing."""
SAME_COLOUR = 14.0
"""Weighted CIELAB distance under which two colours are one; a just noticeable difference is about 2."""
TOLERANCES = (5.0, 7.0, 9.0, 12.0, 15.0, 19.0, 24.0, 30.0, 37.0)
"""CIELAB distances to a point's colour at which its region is tried."""
MIN_COVER, MIN_HOLE = 0.02, 0.08
"""Of the main colour's area: a smaller region is grain; one that does not reach the outline must be larger, or it is a
print or a glint."""
MAX_SHARE = 0.6
"""Of the picture: a larger region at a point is the ground."""
SURE_BACKGROUND, SURE_THING, MAYBE_BACKGROUND, MAYBE_THING = range(4)
"""GrabCut's labels."""

Bitmap = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class _View:
    """The part of a picture that is looked at, smaller. window: of the picture, in its pixels. scale: view / picture.

    pixels: RGB, smoothed; colours: its CIELAB.
    """

    window: Box
    scale: float
    pixels: NDArray[np.uint8]
    colours: NDArray[np.float32]

    def box(self, box: Box) -> Box:
        """A box of the picture in the view's pixels, at least one pixel large."""
        x0, y0 = int((box[0] - self.window[0]) * self.scale), int((box[1] - self.window[1]) * self.scale)
        x1, y1 = round((box[2] - self.window[0]) * self.scale), round((box[3] - self.window[1]) * self.scale)
        return x0, y0, max(x0 + 1, x1), max(y0 + 1, y1)

    def points(self, points: tuple[Point, ...]) -> list[Point]:
        """Those of the picture's points that lie in the view."""
        height, width = self.pixels.shape[:2]
        moved = [(int((x - self.window[0]) * self.scale), int((y - self.window[1]) * self.scale)) for x, y in points]
        return [(x, y) for x, y in moved if 0 <= x < width and 0 <= y < height]

    def back(self, mask: Bitmap, shape: tuple[int, ...]) -> Bitmap:
        """The view's mask as one of the whole picture."""
        import cv2

        x0, y0, x1, y1 = self.window
        whole = np.zeros(shape[:2], bool)
        whole[y0:y1, x0:x1] = cv2.resize(mask.astype(np.float32), (x1 - x0, y1 - y0)) > 0.5
        return whole


class ClassicalSegmenter:
    """A `Segmenter` without weights."""

    def segment(self, pixels: NDArray[np.uint8], prompt: Prompt) -> Region:
        """The mask (height, width), never empty. score: the share of its outline that lies on an edge."""
        if prompt.box is not None:
            view = _look(pixels, grown(prompt.box, _margin(prompt.box), pixels.shape), SIDE)
            box = view.box(prompt.box)
            mask = _in_box(view, box, view.points(prompt.points), view.points(prompt.negative))
        else:
            view, mask = _at_points(pixels, prompt)
        return Region(mask=_never_empty(view.back(mask, pixels.shape), prompt), score=_on_edges(mask, _change(view)))

    def segment_many(self, pictures: Sequence[NDArray[np.uint8]], prompts: Sequence[Prompt]) -> list[Region]:
        """`segment` of each."""
        return [self.segment(pixels, prompt) for pixels, prompt in zip(pictures, prompts, strict=True)]


def _look(pixels: NDArray[np.uint8], window: Box, side: int) -> _View:
    """A window of the picture, at most `side` px long, without its fine grain."""
    import cv2

    x0, y0, x1, y1 = window
    scale = min(1.0, side / max(x1 - x0, y1 - y0))
    size = max(1, round((x1 - x0) * scale)), max(1, round((y1 - y0) * scale))
    small = cv2.resize(np.ascontiguousarray(pixels[y0:y1, x0:x1]), size, interpolation=cv2.INTER_AREA)
    smooth = cv2.medianBlur(small, 5) if min(size) > 5 and noise(small) > MAX_NOISE else small
    return _View(window=window, scale=scale, pixels=smooth, colours=lab(smooth))


def _margin(box: Box) -> int:
    return max(8, round(MARGIN * max(box[2] - box[0], box[3] - box[1])))


def _in_box(view: _View, box: Box, points: list[Point], negative: list[Point]) -> Bitmap:
    """The thing that a box of the view holds."""
    shape = view.pixels.shape
    core = box_mask(shape, box)
    # A box drawn by hand or by a model is some pixels off: what lies just outside it may still belong to the thing.
    slack = grown(box, max(2, round(0.03 * max(box[2] - box[0], box[3] - box[1]))), shape)
    inside = box_mask(shape, slack)
    if inside.all():
        inside[[0, -1], :] = inside[:, [0, -1]] = False
    if not (core & inside).any():  # a corner of a picture of a few pixels
        return core
    labels = np.where(core & inside, MAYBE_THING, np.where(inside, MAYBE_BACKGROUND, SURE_BACKGROUND)).astype(np.uint8)
    _mark(labels, view, points, negative)
    thing = _cut(view, labels, 4) & inside
    if iou(extent(thing), box) < 0.6:  # the box was drawn around more
        thing = core & inside
    covers, main = _covers(view, thing, box, points)
    if covers.any():
        labels = np.where(inside, MAYBE_BACKGROUND, SURE_BACKGROUND).astype(np.uint8)
        labels[thing & ~covers] = MAYBE_THING
        labels[_eroded(main)] = SURE_THING
        labels[covers] = SURE_BACKGROUND
        _mark(labels, view, points, negative)
        thing = _cut(view, labels, 2) & inside
    return _pieces(thing, points)


def _mark(labels: NDArray[np.uint8], view: _View, points: list[Point], negative: list[Point]) -> None:
    """Points as labels: on the thing a small disc; off it the disc's connected colour too, which is another thing's."""
    import cv2

    for x, y in negative:
        labels[_same_region(view, (x, y), SAME_COLOUR)] = SURE_BACKGROUND
        cv2.circle(labels, (x, y), 2, SURE_BACKGROUND, -1)
    for x, y in points:
        cv2.circle(labels, (x, y), 2, SURE_THING, -1)


def _cut(view: _View, labels: NDArray[np.uint8], num_iterations: int) -> Bitmap:
    """GrabCut from `labels`; what they say where one side is too small for a colour mixture."""
    import cv2

    labels = labels.copy()
    thing = (labels == SURE_THING) | (labels == MAYBE_THING)
    if min(int(thing.sum()), int((~thing).sum())) < 16:
        return np.asarray(thing)
    cv2.setRNGSeed(0)
    mixtures = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(view.pixels, labels, None, *mixtures, num_iterations, cv2.GC_INIT_WITH_MASK)
    return np.asarray((labels == SURE_THING) | (labels == MAYBE_THING))


def _covers(view: _View, thing: Bitmap, box: Box, points: list[Point]) -> tuple[Bitmap, Bitmap]:
    """What lies over the thing, and the part of the thing that has its main colour."""
    import cv2

    colours = _palette(view.colours[thing])
    distance = np.stack([(((view.colours - colour) * LAB_WEIGHTS) ** 2).sum(axis=-1) for colour in colours])
    nearest = distance.argmin(axis=0)
    main_colour, fit = _main_colour(nearest, thing, len(colours), box, points)
    main = thing & (nearest == main_colour)
    covers = np.zeros_like(thing)
    # A colour that reaches all four sides of the box is the thing's even where much of it is covered.
    if len(colours) == 1 or main.sum() < (0.15 if fit > 0.7 else 0.5) * thing.sum():
        return covers, main
    change = _change(view)
    inner = float(np.median(change[_eroded(main)])) if _eroded(main).any() else 0.0
    for colour in set(range(len(colours))) - {main_colour}:
        apart = float(np.linalg.norm((colours[colour] - colours[main_colour]) * LAB_WEIGHTS))
        if apart <= 2 * SAME_COLOUR:
            continue
        other = cv2.morphologyEx((thing & (nearest == colour)).astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3)))
        num_labels, labels, stats, _ = cv2.connectedComponentsWithStats(other, connectivity=4)
        for label in range(1, num_labels):
            share = stats[label, cv2.CC_STAT_AREA] / main.sum()
            if share < MIN_COVER:
                continue
            region = labels == label
            around = _dilated(region, 5) & ~region
            reaches_out = (around & ~thing).sum() > 0.15 * around.sum()
            contact = around & main
            crisp = contact.any() and float(np.median(change[contact])) > 4 * inner + 4
            if crisp and (reaches_out or share > MIN_HOLE):
                covers |= region
    return covers, main


def _palette(colours: NDArray[np.float32]) -> NDArray[np.float32]:
    """The few colours (k, 3) that CIELAB values (n, 3) consist of: k-means, then what is one colour joined."""
    import cv2

    cv2.setRNGSeed(0)
    sample = np.ascontiguousarray(colours[:: max(1, len(colours) // 1500)])
    num_clusters = min(6, len(sample))
    _, labels, found = cv2.kmeans(sample, num_clusters, None, (3, 12, 0.5), 1, cv2.KMEANS_PP_CENTERS)
    counts = np.bincount(labels.ravel(), minlength=num_clusters).astype(np.float32)
    found = found[counts > 0]
    counts = counts[counts > 0]
    while len(found) > 1:
        apart = np.linalg.norm((found[:, None] - found[None]) * LAB_WEIGHTS, axis=-1)
        np.fill_diagonal(apart, np.inf)
        a, b = np.unravel_index(int(apart.argmin()), apart.shape)
        if apart[a, b] > SAME_COLOUR:
            break
        found[a] = (found[a] * counts[a] + found[b] * counts[b]) / (counts[a] + counts[b])
        counts[a] += counts[b]
        found, counts = np.delete(found, b, axis=0), np.delete(counts, b)
    result: NDArray[np.float32] = found
    return result


def _main_colour(
    nearest: NDArray[np.intp], thing: Bitmap, num_colours: int, box: Box, points: list[Point]
) -> tuple[int, float]:
    """The thing's main colour and how well its extent fits the box, as IoU.

    It is the colour of most points on the thing, else the one with much of the box's middle and an extent that fits.
    """
    import cv2

    y, x = np.mgrid[: thing.shape[0], : thing.shape[1]]
    across = (x - (box[0] + box[2]) / 2) / (0.35 * (box[2] - box[0]))
    down = (y - (box[1] + box[3]) / 2) / (0.35 * (box[3] - box[1]))
    weights = np.exp(-(across**2 + down**2))[thing]
    mass = np.bincount(nearest[thing], weights=weights, minlength=num_colours)
    fits = np.zeros(num_colours)
    for colour in range(num_colours):
        own = cv2.morphologyEx((thing & (nearest == colour)).astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3)))
        fits[colour] = iou(extent(own > 0), box)
    if points:
        chosen = int(np.bincount([nearest[y, x] for x, y in points], minlength=num_colours).argmax())
    else:
        chosen = int((np.sqrt(mass) * fits**2).argmax())
    return chosen, float(fits[chosen])


def _change(view: _View) -> NDArray[np.float32]:
    """How much the colour changes around each pixel, in CIELAB a pixel: the strongest gradient of its neighbours."""
    import cv2

    across, down = (cv2.Sobel(view.colours, cv2.CV_32F, *order) / 8 for order in ((1, 0), (0, 1)))
    size = np.sqrt((across**2 + down**2).sum(axis=-1))
    strongest: NDArray[np.float32] = cv2.dilate(size, np.ones((3, 3)))
    return strongest


def _on_edges(mask: Bitmap, change: NDArray[np.float32]) -> float:
    """The share of a mask's outline where the colour changes at least twice as much as inside it.

    0 where it has no inside, or no outline as it fills the picture.
    """
    inside, outline = _eroded(mask), mask & ~_eroded(mask, 3)
    if not inside.any() or not outline.any():
        return 0.0
    return float((change[outline] > 2 * float(np.median(change[inside])) + 2).mean())


def _at_points(pixels: NDArray[np.uint8], prompt: Prompt) -> tuple[_View, Bitmap]:
    """The region that the points' colours fill, and the view in which it was refined."""
    height, width = pixels.shape[:2]
    whole = _look(pixels, (0, 0, width, height), WHOLE_SIDE)
    region = np.zeros(whole.pixels.shape[:2], bool)
    points, negative = whole.points(prompt.points), whole.points(prompt.negative)
    for point in points:
        region |= _outlined_region(whole, point, negative)
    region = _filled(region)
    for point in negative:
        region &= ~_same_region(whole, point, SAME_COLOUR)
    box = extent(whole.back(region, pixels.shape))
    view = _look(pixels, grown(box, _margin(box), pixels.shape), SIDE)
    known = _into(region, whole, view)
    refined = _refined(view, known, view.points(prompt.points), view.points(prompt.negative))
    return view, refined if mask_iou(refined, known) > 0.7 else known


def _outlined_region(view: _View, point: Point, negative: list[Point]) -> Bitmap:
    """The connected region of a point's colour at the tolerance where most of its outline lies on an edge.

    Too small a tolerance stops at the thing's grain, too large a one flows out of it: then the region grows and its
    outline leaves the edges, until it finds those of whatever it has filled. What counts is the best before that.
    """
    change = _change(view)
    limit = MAX_SHARE * change.size
    best: list[tuple[float, Bitmap]] = []
    last = (0.0, 1)
    for tolerance in TOLERANCES:
        region = _filled(_same_region(view, point, tolerance))
        score, size = _on_edges(region, change), int(region.sum())
        flowed_out = (score < last[0] - 0.02 and size > 1.2 * last[1]) or score < last[0] - 0.1
        if best and (size > limit or any(region[y, x] for x, y in negative)):
            break
        if flowed_out and last[0] > 0.5:
            break
        best.append((score, region))
        last = score, size
    highest = max(score for score, _ in best)
    near = [region for score, region in best if score >= highest - 0.02]
    return near[len(near) // 2]


def _same_region(view: _View, point: Point, tolerance: float) -> Bitmap:
    """The connected pixels whose colour is within `tolerance` of the point's."""
    import cv2

    x, y = point
    near = (((view.colours - view.colours[y, x]) ** 2).sum(axis=-1) <= tolerance**2).astype(np.uint8)
    _, labels = cv2.connectedComponents(near, connectivity=4)
    same: Bitmap = labels == labels[y, x]
    return same


def _refined(view: _View, region: Bitmap, points: list[Point], negative: list[Point]) -> Bitmap:
    """A region's outline moved to where the colours inside and around it meet."""
    labels = np.where(_dilated(region, 7), MAYBE_BACKGROUND, SURE_BACKGROUND).astype(np.uint8)
    labels[region] = MAYBE_THING
    labels[_eroded(region)] = SURE_THING
    _mark(labels, view, points, negative)
    return _pieces(_cut(view, labels, 2), points)


def _into(region: Bitmap, source: _View, target: _View) -> Bitmap:
    """A region of one view in another."""
    import cv2

    x0, y0, x1, y1 = source.box(target.window)
    height, width = target.pixels.shape[:2]
    part: Bitmap = cv2.resize(region[y0:y1, x0:x1].astype(np.float32), (width, height)) > 0.5
    return part


def _pieces(mask: Bitmap, points: list[Point]) -> Bitmap:
    """The connected pieces that hold a point or are not small: what lies over a thing may cut it in parts."""
    import cv2

    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    if not len(areas):
        return mask
    kept = {index + 1 for index in range(len(areas)) if areas[index] >= 0.06 * areas.max()}
    kept |= {int(labels[y, x]) for x, y in points} - {0}
    chosen: Bitmap = np.isin(labels, list(kept))
    return chosen


def _filled(mask: Bitmap) -> Bitmap:
    """The mask without its small holes: a thing's grain, print and glints."""
    import cv2

    _, labels, stats, _ = cv2.connectedComponentsWithStats((~mask).astype(np.uint8), connectivity=4)
    small = [index for index in range(1, len(stats)) if stats[index, cv2.CC_STAT_AREA] < 0.02 * mask.sum()]
    filled: Bitmap = mask | np.isin(labels, small)
    return filled


def _eroded(mask: Bitmap, size: int = 5) -> Bitmap:
    import cv2

    return np.asarray(cv2.erode(mask.astype(np.uint8), np.ones((size, size))) > 0)


def _dilated(mask: Bitmap, size: int) -> Bitmap:
    import cv2

    return np.asarray(cv2.dilate(mask.astype(np.uint8), np.ones((size, size))) > 0)


def _never_empty(mask: Bitmap, prompt: Prompt) -> Bitmap:
    """The mask, or where there is none the box or the points."""
    if mask.any():
        return mask
    if prompt.box is not None:
        return box_mask(mask.shape, prompt.box)
    for x, y in prompt.points:
        mask[y, x] = True
    return mask
