"""What the tools ask of the libraries behind them, what a tool is, and the values that pass between the two."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from actors.tools.config import ToolsConfig
from actors.tools.workspace import Workspace
from common.media import FolderMediaStore, pixels_of, put_image
from common.types import Box, MediaRef


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadLine:
    """A line of text. box: half-open pixels of the picture that was read. confidence in [0, 1]."""

    text: str
    confidence: float
    box: Box


class Reader(Protocol):
    """Reads text."""

    def read(self, pixels: NDArray[np.uint8]) -> tuple[ReadLine, ...]:
        """Lines of an RGB picture in reading order."""
        ...

    def read_many(self, pictures: Sequence[NDArray[np.uint8]]) -> list[tuple[ReadLine, ...]]:
        """`read` of each, the networks run on all of them together."""
        ...


class Segmenter(Protocol):
    """Separates a thing from its ground."""

    def segment(
        self, pixels: NDArray[np.uint8], *, box: Box | None, point: tuple[int, int] | None
    ) -> tuple[NDArray[np.bool_], float | None]:
        """The mask (height, width) of what `box` holds or `point` lies on, and a score in [0, 1] where there is one."""
        ...


class Tracker(Protocol):
    """Follows a thing through frames."""

    def track(self, frames: Iterable[NDArray[np.uint8]], box: Box) -> list[tuple[Box, bool]]:
        """A box in pixels and whether the thing is seen, one a frame; the first frame holds it in `box`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One call as a pure function sees it: pictures by content and options in pixels; no names of a rollout."""

    tool: str
    pictures: tuple[MediaRef, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a job yields: JSON values, and a picture (a crop, a mask) that is in the store."""

    values: dict[str, Any] = field(default_factory=dict)
    picture: MediaRef | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A checked call: the job, and where it looks.

    footprint: the box it looks at, in pixels of `source`.
    frame: the part of `source` that the picture named in the call shows.
    """

    job: Job
    source: MediaRef | None = None
    footprint: Box | None = None
    frame: Box | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What the model reads of a result: a JSON object, a picture beside it, and the names that now stand for it."""

    payload: dict[str, Any]
    workspace: Workspace
    image: MediaRef | None = None


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
    ) -> None:
        self.config = config
        self.reader = reader
        self.segmenter = segmenter
        self.tracker = tracker
        self._store = store

    def pixels(self, ref: MediaRef) -> NDArray[np.uint8]:
        """RGB, shape (height, width, 3), read-only."""
        return pixels_of(self._store, ref)

    def keep(self, pixels: NDArray[np.uint8]) -> MediaRef:
        """Put a picture into the store."""
        return put_image(self._store, pixels)


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
