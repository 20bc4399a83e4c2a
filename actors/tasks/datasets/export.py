"""Tasks written down as a set: Parquet beside a folder of media, in the form that `read_tasks` reads.

    out/test.parquet           the rows
    out/media/ab/abcdef….png   pictures by content; sets written to the same folder share them

Media come first and a Parquet file appears whole, so whoever is interrupted leaves pictures but no half a set.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from common.media import FolderMediaStore
from common.types import MediaRef, Task

_ROWS_AT_ONCE = 512
_NAME_DIGITS = 32
"""128 bits of the content's hash: enough for a name."""


def write_tasks(
    tasks: Iterable[Task],
    file: Path,
    store: FolderMediaStore,
    *,
    about: dict[str, str],
    written: Callable[[int], None] = lambda count: None,
) -> int:
    """Write `tasks`, whose media are in `store`, as the Parquet `file` and `media/` beside it. Returns their number.

    The tasks' media leave the store as they are written. about: kept in the file's own notes. written: told how far.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    media = file.parent / "media"
    media.mkdir(parents=True, exist_ok=True)
    schema = _schema().with_metadata({f"pixelis.{key}": value for key, value in about.items()})
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    count = 0
    try:
        with pq.ParquetWriter(aside, schema, compression="zstd") as writer:
            rows: list[dict[str, Any]] = []
            for task in tasks:
                rows.append(_row(task, media, store))
                count += 1
                if len(rows) == _ROWS_AT_ONCE:
                    writer.write_table(pa.Table.from_pylist(rows, schema))
                    rows = []
                    store.trim(0)
                written(count)
            if rows:
                writer.write_table(pa.Table.from_pylist(rows, schema))
        with aside.open("rb") as whole:
            os.fsync(whole.fileno())
        aside.rename(file)
    finally:
        with suppress(FileNotFoundError):
            aside.unlink()
    return count


def _schema() -> Any:
    import pyarrow as pa

    texts = pa.list_(pa.string())
    return pa.schema(
        [
            ("id", pa.string()),
            ("media", texts),
            ("question", pa.string()),
            ("answer", texts),
            ("kind", pa.string()),
            ("family", pa.string()),
            ("split", pa.string()),
            ("chain", texts),
            ("times_s", pa.list_(pa.float64())),
            ("shown", pa.list_(pa.int32())),
        ]
    )


def _row(task: Task, media: Path, store: FolderMediaStore) -> dict[str, Any]:
    clip = task.query.clip
    refs = task.query.images if clip is None else clip.frames
    return {
        "id": task.query.query_id,
        "media": [_kept(ref, media, store) for ref in refs],
        "question": task.query.question,
        "answer": [task.answer, *task.accepted],
        "kind": task.kind,
        "family": task.family,
        "split": task.split,
        "chain": list(task.chain),
        "times_s": None if clip is None else list(clip.times_s),
        "shown": None if clip is None else list(clip.shown),
    }


def _kept(ref: MediaRef, media: Path, store: FolderMediaStore) -> str:
    """The path of the picture below the set's folder; the file is there, whole."""
    name = f"{ref.digest[:2]}/{ref.digest[:_NAME_DIGITS]}.png"
    path = media / name
    if not path.is_file():
        path.parent.mkdir(exist_ok=True)
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            aside.write_bytes(store.get(ref.digest))
            aside.rename(path)
        finally:
            with suppress(FileNotFoundError):
                aside.unlink()
    return f"media/{name}"
