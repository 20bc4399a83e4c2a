"""Crops of pictures that lie in a store, as ZOOM returns them when it need not resample."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.media import FolderMediaStore, pixels_of, put_image, put_view
from common.types import Box, ExecutedCall, MediaRef, Observation, ToolCall


def part(pixels: NDArray[np.uint8], box: Box) -> NDArray[np.uint8]:
    x0, y0, x1, y1 = box
    return pixels[y0:y1, x0:x1]


def a_zoom(live: FolderMediaStore, source: MediaRef, box: Box) -> ExecutedCall:
    """A crop that was put as an image and as a view."""
    pixels = part(pixels_of(live, source), box)
    return a_zoom_that_saw(put_image(live, pixels, compress=False), put_view(live, pixels), source, box)


def a_zoom_that_saw(image: MediaRef, view: MediaRef, source: MediaRef, box: Box) -> ExecutedCall:
    arguments: dict[str, Any] = {"image": "image_1", "box": list(box)}
    seen = Observation(text='{"image":"image_2"}', image=image, view=view)
    call = ToolCall(name="ZOOM", arguments=arguments)
    return ExecutedCall(call=call, observation=seen, source=source.digest, footprint=box)
