"""Which calls of a rollout built on which: a later call used what an earlier one returned."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from common.types import ExecutedCall

_NAME = re.compile(r"(image|frame|mask|track)_[1-9][0-9]{0,5}", re.ASCII)


def links(calls: Sequence[ExecutedCall]) -> tuple[tuple[int, int], ...]:
    """Pairs (i, j), i < j: call j used a value that call i returned and had not been given.

    A value is a name (a crop, a mask, a track, the frame of an interval) or a list of two or more numbers (a box, a
    point), copied as it was returned. Calls that failed returned nothing and used nothing.
    """
    found = []
    returned: list[tuple[int, set[Any]]] = []
    for at, done in enumerate(calls):
        if done.observation.error is not None:
            continue
        used = set(_values(done.call.arguments))
        found += [(earlier, at) for earlier, values in returned if values & used]
        returned.append((at, set(_values(json.loads(done.observation.text))) - used))
    return tuple(found)


def is_chained(calls: Sequence[ExecutedCall]) -> bool:
    """Whether some call used what an earlier one returned."""
    return bool(links(calls))


def is_composite(calls: Sequence[ExecutedCall]) -> bool:
    """Whether some call used what an earlier call of another tool returned: two distinct, chained tools."""
    return any(calls[i].call.name != calls[j].call.name for i, j in links(calls))


def _values(value: Any) -> Iterator[str | tuple[float, ...]]:
    """Names and lists of numbers anywhere in a JSON value."""
    if isinstance(value, str):
        if _NAME.fullmatch(value):
            yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _values(item)
    elif isinstance(value, list | tuple):
        if len(value) > 1 and all(isinstance(item, int | float) and not isinstance(item, bool) for item in value):
            yield tuple(map(float, value))
        else:
            for item in value:
                yield from _values(item)
