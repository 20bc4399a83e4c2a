"""`pixelis data world`: tasks of the world written as a set."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.data.sources import passing_store, world_tasks
from common.errors import DataError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from cluster.config import RunConfig
    from cluster.progress import Progress
    from common.types import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A set of the world that was written."""

    file: str
    split: str
    shift: str
    tasks: int
    families: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def table(self) -> RenderableType:
        parts = ", ".join(f"{number} {family}" for family, number in self.families.items())
        return (
            f"{self.file}: {self.tasks} tasks of {self.split}{f' under {self.shift}' if self.shift else ''} ({parts})"
        )


def export_world(
    config: RunConfig, out: Path, *, split: str, number: int, shift: str, force: bool, progress: Progress
) -> Exported:
    """Write the first `number` tasks of a split. Raises UserError, one line, where it cannot or would overwrite."""
    from actors.tasks.datasets.export import write_tasks

    if number < 1:
        raise DataError(f"--count must be at least 1, got {number}")
    file = out / f"{'-'.join(filter(None, (split, shift.replace(':', '-'))))}.parquet"
    if file.exists() and not force:
        raise DataError(f"{file} is there already; add --force to replace it, or choose another --out")
    families: Counter[str] = Counter()
    with passing_store() as store:
        tasks = islice(_counted(world_tasks(config, store, split, shift), families), number)
        first = next(tasks)  # a wrong split or shift shows before anything is written
        try:
            out.mkdir(parents=True, exist_ok=True)
            progress.start(f"writing {file}", number)
            about = {"split": split, "shift": shift, "seed": str(config.world.seed)}
            write_tasks(_before(first, tasks), file, store, about=about, written=progress.update)
        except OSError as error:
            raise DataError(f"{file}: cannot be written ({error.strerror})") from error
        progress.finish()
    return Exported(file=str(file), split=split, shift=shift, tasks=number, families=dict(sorted(families.items())))


def _counted(tasks: Iterable[Task], families: Counter[str]) -> Iterator[Task]:
    for task in tasks:
        families[task.family] += 1
        yield task


def _before(first: Task, others: Iterable[Task]) -> Iterator[Task]:
    yield first
    yield from others
