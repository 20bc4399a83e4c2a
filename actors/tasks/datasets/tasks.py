"""A data set as tasks: rows are checked as they come, media enter the store when their task is drawn."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

from actors.files import evenly, open_media
from actors.tasks.datasets.readers import Source, open_source
from actors.tasks.datasets.row import Broken, Row, RowError, inside, row_of
from actors.tools.config import MediaLimits
from common.errors import DataError, MediaError
from common.media import FolderMediaStore, decode_image, load_image, put_users_image
from common.types import Clip, MediaRef, Query, Task

MOST_NAMED = 20
"""Broken rows that get a line each; the others are only counted."""


def read_tasks(
    qa: Path | str,
    media: Path | None,
    *,
    store: FolderMediaStore,
    limits: MediaLimits,
    limit: int | None = None,
    reader: str = "",
    say: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True),
) -> list[Task]:
    """The first `limit` tasks of a data set that can be used, all of them where it is None; their media in `store`.

    qa: a JSONL or Parquet file, a folder that holds one, a saved Hugging Face data set, or a named one
    (actors/tasks/datasets/readers.py). media: the folder that its paths start from; None: where `qa` is. reader: a
    user's own, "package.module:Class" or "file.py:Class". say: told of every row that was left out, then their number.
    Raises DataError, one line, where the set cannot be read or no row of it can be used.
    """
    data = DataSet(open_source(qa, media, reader=reader))
    tasks: list[Task] = []
    broken: list[Broken] = []
    drawn = data.tasks(store, limits)
    while limit is None or len(tasks) < limit:
        item = next(drawn, None)
        if item is None:
            break
        if isinstance(item, Task):
            tasks.append(item)
        else:
            broken.append(item)
            if len(broken) <= MOST_NAMED:
                say(str(item))
    if broken:
        say(f"{data.name}: {len(broken)} of {len(broken) + len(tasks)} rows were left out")
    if not tasks:
        raise nothing_left(data.name, broken)
    return tasks


def nothing_left(name: str, broken: list[Broken]) -> DataError:
    """The error for a set without a usable row."""
    if not broken:
        return DataError(f"{name} holds no rows; see docs/datasets.md")
    return DataError(f"{name}: none of {len(broken)} rows can be used; the first: {broken[0].reason}")


class DataSet:
    """A set that is read from its beginning as often as it is asked. name: what its broken rows are reported under."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.name = source.name

    def rows(self) -> Iterator[Row | Broken]:
        """Its rows in order, none of their media opened. Raises DataError where the whole set cannot be read."""
        numbers: dict[str, int] = {}
        for number, values in self._source:
            try:
                if isinstance(values, str):
                    raise RowError(values)
                row = row_of(values, name=self._source.stem, number=number)
                first = numbers.setdefault(row.row_id, number)
                if first != number:
                    raise RowError(f"the id {row.row_id!r} is that of row {first} already")
            except RowError as error:
                yield Broken(source=self.name, number=number, reason=str(error))
            else:
                yield row

    def tasks(self, store: FolderMediaStore, limits: MediaLimits) -> Iterator[Task | Broken]:
        """Its tasks in order. The media of one are opened when it is drawn, not before."""
        for row in self.rows():
            yield row if isinstance(row, Broken) else self.task(row, store, limits)

    def task(self, row: Row, store: FolderMediaStore, limits: MediaLimits) -> Task | Broken:
        """The task of one row, its media in `store`."""
        try:
            query = self._query(row, store, limits)
        except (RowError, MediaError) as error:
            return Broken(source=self.name, number=row.number, reason=str(error))
        answer, *accepted = row.answers
        return Task(
            query=query,
            answer=answer,
            kind=row.kind,
            family=row.family,
            split=row.split,
            chain=row.chain,
            accepted=tuple(accepted),
            source=self._source.stem,
        )

    def missing(self, row: Row) -> Broken | None:
        """The row as broken where a file of it is not there; nothing is opened."""
        try:
            for medium in row.media:
                if isinstance(medium, str) and not inside(self._source.media, medium).is_file():
                    raise RowError(f"{inside(self._source.media, medium)}: no such file")
        except RowError as error:
            return Broken(source=self.name, number=row.number, reason=str(error))
        return None

    def _query(self, row: Row, store: FolderMediaStore, limits: MediaLimits) -> Query:
        query = Query(query_id=row.row_id, question=row.question)
        if row.times_s:
            if len(row.media) > limits.max_frames:
                raise RowError(f"{len(row.media)} frames; at most {limits.max_frames} are read")
            frames = tuple(self._picture(frame, store, limits, f"frame {at}") for at, frame in enumerate(row.media, 1))
            shown = row.shown or tuple(evenly(len(frames), limits.num_shown))
            return replace(query, clip=Clip(frames=frames, times_s=row.times_s, shown=shown))
        if len(row.media) == 1 and isinstance(row.media[0], str):
            opened = open_media(inside(self._source.media, row.media[0]), store, limits)
            return replace(query, clip=opened) if isinstance(opened, Clip) else replace(query, images=opened)
        pictures = (self._picture(medium, store, limits, f"picture {at}") for at, medium in enumerate(row.media, 1))
        return replace(query, images=tuple(pictures))

    def _picture(self, medium: str | bytes, store: FolderMediaStore, limits: MediaLimits, name: str) -> MediaRef:
        if isinstance(medium, bytes):
            if len(medium) > limits.max_bytes:
                raise RowError(f"{name}: {len(medium):,} bytes; at most {limits.max_bytes:,} are read")
            return put_users_image(store, decode_image(medium, name=name, max_pixels=limits.max_pixels))
        path = inside(self._source.media, medium)
        return load_image(store, path, max_pixels=limits.max_pixels, max_bytes=limits.max_bytes)


def first(data: DataSet, count: int | None) -> Iterator[Row | Broken]:
    """The first `count` rows, all where it is None."""
    return islice(data.rows(), count)
