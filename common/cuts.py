"""Pictures that are a part of another, pixel for pixel.

A crop that was not resampled, or the view of a picture that is already of the size that the model sees, holds nothing
that its source does not: (source, box, how the pixels are laid out) makes the same bytes again. That is copying, so it
needs no tool, no decoder and no library whose next version could make it a little differently; where pixels would have
to be decoded or resampled, nothing is said here.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass

import numpy as np

from common.media import flat_pixels
from common.stored_png import MAX_WIDTH, stored_png, stored_size
from common.types import Box, MediaRef


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """`target` as `box` of `source`, whose pixels it is laid out as `target.kind` says: "view" rows of RGB, "image" a
    PNG that is not compressed (common/stored_png).
    """

    target: MediaRef
    source: MediaRef
    box: Box

    @property
    def fits(self) -> bool:
        """Whether the sizes leave it possible."""
        x0, y0, x1, y1 = self.box
        target, source = self.target, self.source
        inside = 0 <= x0 < x1 <= source.width and 0 <= y0 < y1 <= source.height
        return (
            inside
            and target.digest != source.digest
            and (x1 - x0, y1 - y0) == (target.width, target.height)
            and target.num_bytes == cut_size(self)
        )


def cut_size(cut: Cut) -> int:
    """Bytes of what `cut_out` makes."""
    x0, y0, x1, y1 = cut.box
    return 3 * (x1 - x0) * (y1 - y0) if cut.target.kind == "view" else stored_size(x1 - x0, y1 - y0)


def cut_out(cut: Cut, data: bytes | memoryview | mmap.mmap) -> bytes | memoryview | None:
    """The bytes of the target, if it is what `cut` says, from those of the source; None where the pixels do not lie in
    them uncompressed. The caller compares digests.
    """
    pixels = flat_pixels(data, cut.source)
    if pixels is None:
        return None
    x0, y0, x1, y1 = cut.box
    part = pixels[y0:y1, x0:x1]
    if cut.target.kind == "view":
        return np.ascontiguousarray(part).data.cast("B")  # a tenth of the time of the part's own tobytes
    return stored_png(part) if x1 - x0 <= MAX_WIDTH else None
