"""What the tools ask of the libraries behind them, what a tool is, and the values that pass between the two."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from actors.tools.config import ToolsConfig
from actors.tools.workspace import Workspace
from common.media import FolderMediaStore, pixels_of, put_image
from common.types import Box, MediaRef

Corners: TypeAlias = tuple[tuple[float, float], ...]
"""x, y of four corners in pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadLine:
    """A line of text. box: half-open pixels of the picture that was read. confidence in [0, 1].

    corners: of the line where it is slanted, in pixels; None where it fills its box.
    """

    text: str
    confidence: float
    box: Box
    corners: Corners | None = None

    @property
    def polygon(self) -> Corners:
        """The four corners, clockwise from the top left of the text as it is read."""
        x0, y0, x1, y1 = self.box
        return self.corners or ((x0, y0), (x1, y0), (x1, y1), (x0, y1))


class Reader(Protocol):
    """Reads text."""

    def read(self, pixels: NDArray[np.uint8]) -> tuple[ReadLine, ...]:
        """Lines of an RGB picture in reading order."""
        ...

    def read_many(self, pictures: Sequence[NDArray[np.uint8]]) -> list[tuple[ReadLine, ...]]:
        """`read` of each, the networks run on all of them together."""
        ...


Point: TypeAlias = tuple[int, int]
"""x, y of a pixel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What marks a thing in a picture, in its pixels: a box around it, points on it, points that are not on it.

    There is a box or at least one point on the thing. mask: (height, width), the thing itself; only a tracker's seed
    has one.
    """

    box: Box | None = None
    points: tuple[Point, ...] = ()
    negative: tuple[Point, ...] = ()
    mask: NDArray[np.bool_] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """mask: (height, width) of the picture. score: how sure the back end is of it, in [0, 1]."""

    mask: NDArray[np.bool_]
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """A thing in one frame. box: pixels; where it is not visible, where it is supposed to be.

    mask: (height, width), what is seen of it; None where it is not visible or the back end makes none.
    """

    box: Box
    visible: bool
    mask: NDArray[np.bool_] | None = None


class Segmenter(Protocol):
    """Separates a thing from its ground."""

    def segment(self, pixels: NDArray[np.uint8], prompt: Prompt) -> Region:
        """The thing that `prompt` marks in an RGB picture; its mask may be empty."""
        ...

    def segment_many(self, pictures: Sequence[NDArray[np.uint8]], prompts: Sequence[Prompt]) -> list[Region]:
        """`segment` of each, the networks run on all of them together."""
        ...


class Frames(Protocol):
    """Pictures of one size, RGB, in order of time; a list, or something that decodes when asked."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> NDArray[np.uint8]: ...


class Tracker(Protocol):
    """Follows a thing through frames."""

    def track(self, frames: Frames, seed: Prompt) -> Iterator[Sighting]:
        """One sighting a frame, as the frames are read in their order. `seed` marks the thing in the first frame.

        What a tracker remembers does not grow with the number of frames.
        """
        ...


class Encoder(Protocol):
    """Says how alike words and pictures are: the inner product of their vectors."""

    @property
    def scale(self) -> float:
        """What a likeness is multiplied by before it is compared in a softmax."""
        ...

    def texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors, (len(texts), dimension)."""
        ...

    def pictures(self, pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Unit vectors of RGB pictures, (len(pictures), dimension)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One call as a pure function sees it: pictures by content and options in pixels; no names of a rollout."""

    tool: str
    pictures: tuple[MediaRef, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a job yields: JSON values, and a picture (a crop, a mask) that is in the store.

    pictures: one a frame, None where there is none: the masks of a track, in the store too.
    """

    values: dict[str, Any] = field(default_factory=dict)
    picture: MediaRef | None = None
    pictures: tuple[MediaRef | None, ...] = ()

    @property
    def media(self) -> tuple[MediaRef, ...]:
        """Every picture that the result stands on."""
        return tuple(ref for ref in (self.picture, *self.pictures) if ref is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A checked call: the job, and where it looks.

    footprint: the box it looks at, in pixels of `source`.
    frame: the part of `source` that the picture named in the call shows.
    listed: whether the model asked for details that the job finds in any case.
    """

    job: Job
    source: MediaRef | None = None
    footprint: Box | None = None
    frame: Box | None = None
    listed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What the model reads of a result: a JSON object, a picture beside it, and the names that now stand for it."""

    payload: dict[str, Any]
    workspace: Workspace
    image: MediaRef | None = None


RECENT_BYTES = 32 * 2**20
"""Decoded pictures that a worker keeps: five of 1920×1080. Decoding one takes ten times as long as cropping it."""


class Workbench:
    """What a tool works with inside a worker: pixels in, pictures out, and the back ends."""

    def __init__(
        self,
        *,
        config: ToolsConfig,
        store: FolderMediaStore,
        reader: Reader | None,
        segmenter: Segmenter,
        tracker: Tracker,
        encoder: Encoder | None = None,
    ) -> None:
        self.config = config
        self.reader = reader
        self.segmenter = segmenter
        self.tracker = tracker
        self.encoder = encoder
        self._store = store
        self._recent: dict[str, NDArray[np.uint8]] = {}

    def pixels(self, ref: MediaRef) -> NDArray[np.uint8]:
        """RGB, shape (height, width, 3), read-only. Pictures looked at last are not decoded again."""
        found = self._recent.pop(ref.digest, None)
        if found is None:
            found = pixels_of(self._store, ref)
            found.flags.writeable = False
        self._recent[ref.digest] = found
        while sum(pixels.nbytes for pixels in self._recent.values()) > RECENT_BYTES:
            del self._recent[next(iter(self._recent))]
        return found

    def keep(self, pixels: NDArray[np.uint8], *, compress: bool = True) -> MediaRef:
        """Put a picture into the store; without `compress` at once, but larger."""
        return put_image(self._store, pixels, compress=compress)


class Tool(Protocol):
    """One operation. `plan` and `observe` are cheap and run beside the agent; `run` is pure and runs in a worker."""

    name: ClassVar[str]
    version: ClassVar[int]
    description: ClassVar[str]
    arguments: ClassVar[type]

    def plan(self, arguments: Any, workspace: Workspace, config: ToolsConfig) -> Plan:
        """Resolve names and coordinates. Raises ToolError."""
        ...

    def run(self, job: Job, bench: Workbench) -> Result:
        """Do the work. Raises ToolError."""
        ...

    def observe(self, plan: Plan, result: Result, workspace: Workspace, config: ToolsConfig) -> Seen:
        """Name what came back."""
        ...
