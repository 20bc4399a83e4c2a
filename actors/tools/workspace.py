"""One rollout's pictures, masks and tracks, by the names that the model uses for them.

The query's pictures are image_1, image_2, …; a clip's frames frame_1, frame_2, …; what a tool returns takes the next
number of its kind. A workspace is a value: adding makes a new one, so a branch of a rollout keeps its own names.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

from actors.tools.errors import ToolError
from common.types import Box, Clip, MediaRef, Query

_REFERENCE = re.compile(r"(image|frame|mask|track)_([1-9][0-9]{0,5})", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A picture and, for a crop, the picture and box (pixels) that it was taken from at its native scale.

    A crop was resampled for the model's eyes. Tools that look closer go back to where it was taken from, so nothing is
    lost by looking in two steps, and what two rollouts looked at can be compared.
    """

    ref: MediaRef
    origin: tuple[MediaRef, Box] | None = None

    @property
    def source(self) -> MediaRef:
        """The picture at its native scale."""
        return self.ref if self.origin is None else self.origin[0]

    @property
    def frame(self) -> Box:
        """The part of `source` that this picture shows."""
        return (0, 0, self.ref.width, self.ref.height) if self.origin is None else self.origin[1]

    def at_source(self, box: Box) -> Box:
        """A box in this picture's pixels as pixels of `source`, rounded outward."""
        x0, y0, x1, y1 = self.frame
        across, down = (x1 - x0) / self.ref.width, (y1 - y0) / self.ref.height
        return (
            x0 + math.floor(box[0] * across),
            y0 + math.floor(box[1] * down),
            min(x1, x0 + math.ceil(box[2] * across)),
            min(y1, y0 + math.ceil(box[3] * down)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Mask:
    """A region. ref: a black and white picture of the size of `source`, the picture it is a region of."""

    ref: MediaRef
    source: MediaRef


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """A box a frame. start: 0-based index of the first frame. boxes: pixels. visible: whether it is seen there.

    masks: black and white pictures of the frames' size, one a frame, None where the thing is not seen; empty where the
    back end makes none.
    """

    start: int
    boxes: tuple[Box, ...]
    visible: tuple[bool, ...]
    times_s: tuple[float, ...]
    masks: tuple[MediaRef | None, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Workspace:
    """What the references of one rollout stand for."""

    images: tuple[Picture, ...] = ()
    masks: tuple[Mask, ...] = ()
    tracks: tuple[Track, ...] = ()
    clip: Clip | None = None

    @classmethod
    def of(cls, query: Query) -> Workspace:
        """The workspace a rollout begins with."""
        return cls(images=tuple(Picture(ref=ref) for ref in query.images), clip=query.clip)

    def picture(self, name: str) -> Picture:
        """What image_k or frame_k stands for. Raises ToolError("unknown_reference")."""
        kind, index = self._parse(name, ("image", "frame"))
        if kind == "frame":
            return Picture(ref=self.clip_or_refuse().frames[index])
        return self.images[index]

    def frame(self, name: str) -> int:
        """The 0-based index of frame_k. Raises ToolError("unknown_reference")."""
        return self._parse(name, ("frame",))[1]

    def mask(self, name: str) -> Mask:
        return self.masks[self._parse(name, ("mask",))[1]]

    def track(self, name: str) -> Track:
        return self.tracks[self._parse(name, ("track",))[1]]

    def clip_or_refuse(self) -> Clip:
        if self.clip is None or not self.clip.frames:
            raise ToolError("unknown_reference", "there is no clip")
        return self.clip

    def with_image(self, picture: Picture) -> tuple[str, Workspace]:
        return f"image_{len(self.images) + 1}", replace(self, images=(*self.images, picture))

    def with_mask(self, mask: Mask) -> tuple[str, Workspace]:
        return f"mask_{len(self.masks) + 1}", replace(self, masks=(*self.masks, mask))

    def with_track(self, track: Track) -> tuple[str, Workspace]:
        return f"track_{len(self.tracks) + 1}", replace(self, tracks=(*self.tracks, track))

    def _parse(self, name: str, kinds: tuple[str, ...]) -> tuple[str, int]:
        """Kind and 0-based index of a reference that exists. Raises ToolError("unknown_reference")."""
        counts = {
            "image": len(self.images),
            "frame": len(self.clip.frames) if self.clip else 0,
            "mask": len(self.masks),
            "track": len(self.tracks),
        }
        match = _REFERENCE.fullmatch(name)
        if match and match[1] in kinds and int(match[2]) <= counts[match[1]]:
            return match[1], int(match[2]) - 1
        known = ", ".join(_span(kind, counts[kind]) for kind in kinds if counts[kind])
        raise ToolError("unknown_reference", f"there is {known}" if known else f"there is no {' or '.join(kinds)}")


def _span(kind: str, count: int) -> str:
    return f"{kind}_1" if count == 1 else f"{kind}_1 to {kind}_{count}"
