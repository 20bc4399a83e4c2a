"""Who reads what: a file by its ending, a folder by what it holds, a known set by its name, anything else by the user.

set.jsonl, set.parquet      rows of the one form (actors/tasks/datasets/row.py)
folder                      the one such file in it, or what `datasets.save_to_disk` wrote
hf:NAME[:CONFIG][@SPLIT]    whatever Hugging Face `datasets` loads under that name or from that folder
easy-vqa[/train]            the pictures and questions that the package easy-vqa ships
reader=MODULE:CLASS         a `Reader` of the user's own; also reader=FILE.py:CLASS
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

from actors.tasks.datasets.files import ENDINGS, read_jsonl, read_parquet
from common.errors import DataError

Numbered: TypeAlias = tuple[int, Mapping[str, Any] | str]
"""A row's number, from 1 (in a text file its line), and its values, or in words why it has none."""


@runtime_checkable
class Reader(Protocol):
    """A user's own reader, constructed as `Reader(qa, media)` with two paths: the set, and the folder of its media.

    It yields rows of the one form, as plain dictionaries, in the same order whenever it is asked.
    """

    def __iter__(self) -> Iterator[Mapping[str, Any]]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Rows not yet checked. name: of the set in messages; stem: in identifiers. media: where paths start from."""

    name: str
    stem: str
    media: Path
    read: Callable[[], Iterable[Numbered]]

    def __iter__(self) -> Iterator[Numbered]:
        return iter(self.read())


def open_source(qa: Path | str, media: Path | None, *, reader: str = "") -> Source:
    """The set behind a path or a name. Raises DataError, one line, that says what to change."""
    if media is not None and not media.is_dir():
        raise DataError(f"{media}: no such folder of media")
    path, name = Path(qa), str(qa)
    if reader:
        return _own(reader, path, media)
    if not path.exists():
        if name == "easy-vqa" or name.startswith("easy-vqa/"):
            from actors.tasks.datasets.easy_vqa import easy_vqa

            return easy_vqa(name.partition("/")[2] or "test")
        if name.startswith("hf:"):
            from actors.tasks.datasets.huggingface import named

            return named(name.removeprefix("hf:"), media)
        raise DataError(f"{name}: no such file; give {', '.join(ENDINGS)}, a folder, hf:NAME or easy-vqa")
    if path.is_dir():
        if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
            from actors.tasks.datasets.huggingface import saved

            return saved(path, media)
        path = _only_file(path)
    read = {".jsonl": read_jsonl, ".parquet": read_parquet}.get(path.suffix)
    if read is None:
        hint = "write one object a line: jq -c '.[]' set.json > set.jsonl" if path.suffix == ".json" else "see docs"
        raise DataError(f"{path}: read are {', '.join(ENDINGS)}; {hint}, or name a reader of your own")
    return Source(name=path.name, stem=path.stem, media=media or path.parent, read=lambda: read(path))


def _only_file(folder: Path) -> Path:
    files = sorted(file for file in folder.iterdir() if file.suffix in ENDINGS and not file.name.startswith("."))
    if len(files) != 1:
        found = f"{', '.join(file.name for file in files)}; name one" if files else f"no {' or '.join(ENDINGS)}"
        raise DataError(f"{folder} holds {found}")
    return files[0]


def _own(reader: str, qa: Path, media: Path | None) -> Source:
    """The user's reader. What it raises while reading is its own and is not caught."""
    kind = _class(reader)
    folder = media or (qa if qa.is_dir() else qa.parent)
    return Source(name=qa.name, stem=qa.stem, media=folder, read=lambda: _numbered(kind(qa, folder)))


def _class(reader: str) -> Callable[[Path, Path], Reader]:
    home, colon, name = reader.rpartition(":")
    if not colon or not home or not name:
        raise DataError(f"reader {reader!r}: write package.module:Class or file.py:Class")
    try:
        module = _module(home)
    except (ImportError, FileNotFoundError, SyntaxError) as error:
        raise DataError(f"reader {reader!r}: cannot be imported ({error})") from error
    found = getattr(module, name, None)
    if not callable(found):
        raise DataError(f"reader {reader!r}: {home} has no class {name}")
    made: Callable[[Path, Path], Reader] = found
    return made


def _module(home: str) -> Any:
    if not home.endswith(".py"):
        return importlib.import_module(home)
    name = f"pixelis_reader_{Path(home).stem}"
    spec = importlib.util.spec_from_file_location(name, home)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def _numbered(reader: Reader) -> Iterator[Numbered]:
    for number, values in enumerate(reader, 1):
        if isinstance(values, Mapping):
            yield number, values
        else:
            yield number, f"the reader gave {type(values).__name__}; a row is a dictionary"
