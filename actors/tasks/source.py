"""Where tasks are drawn: one plain object in a process of its own, so that pictures are rendered off everyone's path.

It hands out tasks (references and words), plans for traces, and what the base model is pretrained on; never a
picture's bytes, except where a warm-up asks for views as arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from actors.files import open_media
from actors.tasks.captions import Captions
from actors.tasks.config import WorldConfig
from actors.tasks.detection import detection_scenes
from actors.tasks.plan import Plan
from actors.tasks.real import real_tasks
from actors.tasks.world.world import World
from actors.tools.config import MediaLimits
from common.chat import Chat
from common.media import FolderMediaStore
from common.schema import encode_traces
from common.types import Clip, MediaRef, Task

if TYPE_CHECKING:
    from actors.traces.sets import Shelf

See = Callable[[NDArray[np.uint8], int | None], NDArray[np.uint8]]
"""A picture as the model sees it; the second argument is its index where it is a clip's frame."""


class TaskSource:
    """Draws tasks of the procedural world, and the real pictures, into `store`; hands out traces kept in `files`, whose
    media stay where they are, in an order drawn by `seed`."""

    def __init__(
        self, config: WorldConfig, store: FolderMediaStore, *, files: Sequence[Path] = (), seed: int = 0
    ) -> None:
        self._config, self._store = config, store
        self._files, self._seed = tuple(files), seed
        self._shelf: Shelf | None = None
        self._world = World(config, store)
        self._traced = World(replace(config, mix=config.trace_mix or config.mix), store)

    def tasks(self, split: str, start: int, count: int, shift: str = "") -> list[Task]:
        """Tasks [start, start + count) of a split."""
        return [self._world.task(split, start + i, shift=shift) for i in range(count)]

    def plans(self, split: str, start: int, count: int, *, num_plates: tuple[int, int], level: int) -> list[Plan]:
        """Tasks of a split with the calls that solve them, at one level of the curriculum."""
        return [self._traced.plan(split, start + i, num_plates=num_plates, level=level) for i in range(count)]

    def kept(self, start: int, count: int, *, level: int) -> bytes:
        """Kept traces [start, start + count), as of one level of the curriculum, Arrow IPC. Raises DataError."""
        from actors.traces.sets import Shelf, open_sets

        if self._shelf is None:
            self._shelf = Shelf(open_sets(self._files), self._seed)
        return encode_traces(self._shelf.traces(start, count, level=level))

    def media(self, path: Path, limits: MediaLimits) -> tuple[MediaRef, ...] | Clip:
        """A user's picture or video, checked and normalised. Raises MediaError, one line."""
        return open_media(path, self._store, limits)

    def outside(
        self, qa: str, media: Path | None, limits: MediaLimits, *, limit: int | None = None, reader: str = ""
    ) -> list[Task]:
        """The first `limit` tasks of a set that is not ours. Raises DataError, one line."""
        from actors.tasks.datasets.tasks import read_tasks

        return read_tasks(qa, media, store=self._store, limits=limits, limit=limit, reader=reader)

    def real(self) -> list[Task]:
        """The real pictures' tasks."""
        return real_tasks(self._store)


class PretrainSource:
    """What the base model learns from: scenes with dense targets, then captions."""

    def __init__(self, config: WorldConfig, chat: Chat, store: FolderMediaStore, see: See) -> None:
        self._config, self._see, self._store = config, see, store
        self._captions = Captions(config, chat, store, see)

    def scenes(self, start: int, count: int, cells: int) -> bytes:
        """Scenes with dense targets, as safetensors (actors/tasks/detection.py)."""
        return detection_scenes(self._config, start, count, cells=cells, view=self._see, store=self._store)

    def captions(self, start: int, count: int, *, num_plates: tuple[int, int], mixed: bool, level: int) -> bytes:
        """Captions as traces, Arrow IPC."""
        made = (self._captions.trace(start + i, num_plates=num_plates, mixed=mixed, level=level) for i in range(count))
        return encode_traces(list(made))
