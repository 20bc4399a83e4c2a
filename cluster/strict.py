"""Plain values into frozen dataclasses, strictly: nothing is guessed, nothing is ignored.

A misspelt key that is silently dropped costs a training run. So every key must exist, every value must have its
declared type, and the error names the path of the key, and the key that was probably meant.
"""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from common.errors import ConfigError

T = TypeVar("T")


def convert(values: Mapping[str, Any], to: type[T]) -> T:
    """`values` as a `to`. Raises ConfigError, one line, that names the key path and what to change.

    Keys that a mapping leaves out keep the values they have in the default of the field that it is for.
    """
    import msgspec

    values = _completed(values, to, None)
    _check(values, to, "")
    try:
        return msgspec.convert(values, to, strict=True, dec_hook=_decode)
    except msgspec.ValidationError as error:
        raise ConfigError(_one_line(str(error))) from error


def key_paths(of: Any, prefix: str = "") -> Iterator[str]:
    """Every key path that a configuration of type `of` may hold: "learner", "learner.engine", …"""
    for name, kind in _fields(of).items():
        path = f"{prefix}{name}"
        yield path
        for nested in _dataclasses(kind):
            yield from key_paths(nested, f"{path}.")


def unknown_key(path: str, known: Sequence[str]) -> ConfigError:
    """The error for a key that does not exist: names the closest one that does."""
    parent, _, last = path.rpartition(".")
    siblings = {key.rpartition(".")[2]: key for key in known if key.rpartition(".")[0] == parent}
    close = [siblings[name] for name in difflib.get_close_matches(last, siblings, n=1)]
    if not siblings:
        close = difflib.get_close_matches(path, known, n=1)
    close = close or [key for key in known if key.rpartition(".")[2] == last][:1]
    hint = f"did you mean {close[0]}?" if close else f"known keys there: {', '.join(siblings.values() or known)}"
    return ConfigError(f"{path}: no such key; {hint}")


def _completed(value: Any, kind: Any, default: Any) -> Any:
    """`value` with what it leaves out taken from `default`, at every depth."""
    nested = _dataclasses(kind)
    if not isinstance(value, Mapping) or not nested:
        return value
    known = _fields(nested[0])
    whole = dict(asdict(default)) if is_dataclass(default) and not isinstance(default, type) else {}
    for field in fields(nested[0]):
        if field.name in value:
            inner = getattr(default, field.name, None) if whole else _default(field)
            whole[field.name] = _completed(value[field.name], known[field.name], inner)
    return whole | {key: item for key, item in value.items() if key not in known}


def _default(field: Field[Any]) -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default


def _check(value: Any, kind: Any, path: str) -> None:
    """Refuse unknown and missing keys, at every depth."""
    if isinstance(value, Mapping):
        nested = _dataclasses(kind)
        if nested:
            _check_keys(value, nested[0], path)
        elif get_origin(kind) is dict:
            for key, item in value.items():
                _check(item, get_args(kind)[1], f"{path}{key}.")
    elif isinstance(value, (list, tuple)) and get_args(kind):
        for index, item in enumerate(value):
            _check(item, get_args(kind)[0], f"{path.removesuffix('.')}[{index}].")


def _check_keys(value: Mapping[Any, Any], kind: type, path: str) -> None:
    known = _fields(kind)
    for key, item in value.items():
        if key not in known:
            raise unknown_key(f"{path}{key}", [f"{path}{name}" for name in known])
        _check(item, known[key], f"{path}{key}.")
    for field in fields(kind):
        if field.name not in value and field.default is MISSING and field.default_factory is MISSING:
            raise ConfigError(f"{path}{field.name}: missing; give it a value")


def _fields(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


def _dataclasses(kind: Any) -> list[type]:
    """The dataclass that `kind` is or may be (`X | None`)."""
    options = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    return [option for option in options if isinstance(option, type) and is_dataclass(option)]


def _decode(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, (str, Path)):
        return Path(value)
    raise ValueError(f"expected {kind.__name__}, got {value!r}")


def _one_line(message: str) -> str:
    """msgspec says "Expected `int`, got `str` - at `$.learner.engine`"; people read "learner.engine: expected int,
    got str".
    """
    text, _, path = message.partition(" - at `")
    text = text.replace("`", "")
    where = re.sub(r"^\$\.?", "", path.rstrip("`")).replace("[...]", "")
    text = text[:1].lower() + text[1:] if text.startswith(("Expected", "Invalid")) else text
    return f"{where}: {text}" if where else text
