"""Sets that Hugging Face `datasets` holds: saved to a folder, in its cache, or under a name of the Hub.

The library is an extra of this project (`pip install 'pixelis[datasets]'`), imported when such a set is opened. Rows
are taken as Arrow, so no picture is decoded before its task is drawn. The usual column names are understood:

    media     media, image, images, video        answer    answer, answers, label
    question  question, query                    id        id, question_id, questionId

Rows of VeRL's form (actors/tasks/datasets/verl.py) are understood too. Anything else needs a reader of one's own, or
`rename_column` before the set is saved.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from actors.tasks.datasets import verl
from actors.tasks.datasets.files import COLUMNS, REQUIRED, is_foreign
from actors.tasks.datasets.readers import Source
from common.errors import DataError

NAMES: Mapping[str, tuple[str, ...]] = {
    "media": ("media", "image", "images", "video"),
    "question": ("question", "query"),
    "answer": ("answer", "answers", "label"),
    "id": ("id", "question_id", "questionId"),
}
_ROWS_AT_ONCE = 64


def saved(folder: Path, media: Path | None) -> Source:
    """What `save_to_disk` wrote into `folder`."""
    if not (folder / "state.json").is_file():
        splits = sorted(state.parent.name for state in folder.glob("*/state.json"))
        raise DataError(f"{folder} holds several splits; name one: {', '.join(str(folder / name) for name in splits)}")
    data = _opened(str(folder), lambda library: library.load_from_disk(str(folder)))
    return _source(data, str(folder), folder.name, media)


def named(text: str, media: Path | None) -> Source:
    """`NAME[:CONFIG][@SPLIT]`, the split "test" unless it is named; from the cache where it is there."""
    address, _, split = text.partition("@")
    name, _, config = address.partition(":")
    data = _opened(text, lambda library: library.load_dataset(name, config or None, split=split or "test"))
    return _source(data, f"hf:{text}", Path(name).name, media)


def _opened(name: str, opens: Any) -> Any:
    try:
        import datasets
    except ImportError:
        raise DataError("the library `datasets` is not installed; pip install 'pixelis[datasets]'") from None
    try:
        return opens(datasets)
    except (OSError, ValueError, KeyError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())[:240]
        raise DataError(f"{name}: `datasets` cannot open it ({reason})") from error


def _source(data: Any, name: str, stem: str, media: Path | None) -> Source:
    foreign = is_foreign(data.column_names)
    if foreign:
        columns = {name: name for name in verl.COLUMNS if name in data.column_names}
    else:
        columns = {key: column for key in COLUMNS if (column := _column(key, data.column_names)) is not None}
    for key in () if foreign else REQUIRED:
        if key not in columns:
            raise DataError(f"{name}: no column {' or '.join(NAMES[key])}; it has {', '.join(data.column_names)}")
    # A picture that is not embedded is named by an absolute path, wherever the library keeps it.
    return Source(name=name, stem=stem, media=media or Path("/"), read=lambda: _rows(data, columns))


def _column(key: str, names: list[str]) -> str | None:
    return next((name for name in NAMES.get(key, (key,)) if name in names), None)


def _rows(data: Any, columns: Mapping[str, str]) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    labels = {key: feature.names for key, name in columns.items() if hasattr(feature := data.features[name], "names")}
    number = 0
    for table in data.select_columns(list(columns.values())).with_format("arrow").iter(batch_size=_ROWS_AT_ONCE):
        for values in table.to_pylist():
            number += 1
            row = {key: values[name] for key, name in columns.items()}
            for key, names in labels.items():
                row[key] = None if row[key] is None else names[row[key]]
            yield number, verl.row_from(row) if is_foreign(row) else row
