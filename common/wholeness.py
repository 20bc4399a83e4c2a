"""Whether rows of rollouts lack anything, by the counts that Arrow keeps of what is null; no value is looked at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import pyarrow as pa

MAY_BE_NULL = frozenset(
    {
        *("oldest_version", "newest_version", "answer", "facts.score", "query.clip", "turns[].versions[].parent"),
        *(f"calls[].{name}" for name in ("observation.image", "observation.view", "observation.error", "footprint")),
    }
)
"""What a rollout need not have."""


def first_missing(batch: Any) -> str:
    """The path of something that a row of the record batch must have and has not ("turns[].token_ids"); "" when nothing
    is missing. batch: with the columns of `common.schema.ROLLOUTS`.
    """
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        buffers = column.buffers()
        if (name, len(buffers)) not in _SHAPES:
            shape = _shape(column.type, name)
            _SHAPES[name, len(buffers)] = shape, [i for i, needed in enumerate(shape.bitmaps()) if needed]
        shape, bitmaps = _SHAPES[name, len(buffers)]
        suspect = [i for i in bitmaps if buffers[i] is not None]
        if suspect and (missing := shape.missing(column)):
            return missing
    return ""


@dataclass(frozen=True, slots=True)
class _Shape:
    """A column, or what is nested in one. num_buffers: its own, the bitmap that says which values are null first.
    parts: of a struct, or the one of a list.
    """

    path: str
    num_buffers: int
    parts: tuple[_Shape, ...] = ()

    def bitmaps(self) -> Iterator[bool]:
        """Of an array's buffers in their order, nested ones included: whether it is a bitmap which, if it is there at
        all, may say that something is missing. Most arrays have none, and then nothing need be counted.
        """
        yield self.path not in MAY_BE_NULL
        yield from repeat(False, self.num_buffers - 1)
        for part in self.parts:
            yield from part.bitmaps()

    def missing(self, array: Any, num_nulls: int = 0) -> str:
        """The first in an array that lacks a value which it needs; "" when none does. num_nulls: how many may be null
        because what they are part of is.
        """
        found = array.null_count
        if found > num_nulls and self.path not in MAY_BE_NULL:
            return self.path
        if not self.parts or not len(array):
            return ""
        if self.num_buffers != _STRUCT:
            return self.parts[0].missing(array.values)
        held = array.flatten() if found else map(array.field, range(len(self.parts)))
        for shape, part in zip(self.parts, held, strict=True):
            if missing := shape.missing(part, found):
                return missing
        return ""


_STRUCT, _LIST, _TEXT, _NUMBER = 1, 2, 3, 2
"""Buffers of an array of these, nested ones aside."""
_SHAPES: dict[tuple[str, int], tuple[_Shape, list[int]]] = {}
"""Of the columns by name and number of buffers (a later schema adds some), with the places of their bitmaps; made once,
because a type is slow to look at.
"""


def _shape(kind: Any, path: str) -> _Shape:
    if pa.types.is_struct(kind):
        fields = [kind.field(i) for i in range(kind.num_fields)]
        return _Shape(path, _STRUCT, tuple(_shape(field.type, f"{path}.{field.name}") for field in fields))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _Shape(path, _LIST, (_shape(kind.value_type, f"{path}[]"),))
    return _Shape(path, _TEXT if pa.types.is_string(kind) else _NUMBER)
