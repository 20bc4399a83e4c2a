"""Where sets come from, and where their media lie while a command looks at them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.tool_verb import live_base
from common.errors import DataError

if TYPE_CHECKING:
    from actors.tasks.datasets.tasks import DataSet
    from cluster.config import RunConfig
    from common.media import FolderMediaStore
    from common.types import Task

WORLD_COUNT = 1000
"""Tasks of the world where nobody says how many."""
_TIDY_BYTES = 256 * 2**20
"""What a pass over a set keeps of its media."""


def data_set(config: RunConfig, name: str, media: Path | None) -> DataSet:
    from actors.tasks.datasets.readers import open_source
    from actors.tasks.datasets.tasks import DataSet

    return DataSet(open_source(name, media, reader=config.evaluation.reader))


def world_tasks(config: RunConfig, store: FolderMediaStore, split: str, shift: str) -> Iterator[Task]:
    """Tasks of a split, without end. Raises DataError for a split or a shift that the world does not have."""
    from actors.tasks.world.world import World

    world = World(config.world, store)
    for index in count():
        try:
            task = world.task(split, index, shift=shift)
        except ValueError as error:
            if index:
                raise
            raise DataError(str(error)) from error
        yield task


@contextmanager
def passing_store() -> Iterator[FolderMediaStore]:
    from common.media import FolderMediaStore

    with tempfile.TemporaryDirectory(prefix="pixelis-data-", dir=live_base()) as live:
        yield FolderMediaStore(Path(live))


def tidy(store: FolderMediaStore, done: int) -> None:
    """Forget media of earlier rows, now and then."""
    if done % 64 == 0:
        store.trim(_TIDY_BYTES)
