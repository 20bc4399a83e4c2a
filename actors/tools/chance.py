"""Random calls: what someone does with the tools who has not looked.

Coordinates are multiples of a step on the grid, as coarse as a policy's own, so that calls of many tasks and seeds
meet in the cache where they are equal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np

from actors.tools.colours import NAMES
from actors.tools.workspace import Workspace
from common.geometry import GRID
from common.types import ToolCall

STEP, LEAST = 50, 100
"""Of the grid: coordinates are multiples of the one, boxes at least as wide and high as the other."""

Arguments: TypeAlias = dict[str, Any]


def draw_call(name: str, random: np.random.Generator, workspace: Workspace) -> ToolCall | None:
    """A call of the tool `name` on something that the workspace holds; None where it holds nothing for it."""
    arguments = _DRAWN[name](random, workspace)
    return None if arguments is None else ToolCall(name=name, arguments=arguments)


def _zoom(random: np.random.Generator, workspace: Workspace) -> Arguments | None:
    picture = _one_of(random, _pictures(workspace))
    return None if picture is None else {"image": picture, "box": _box(random)}


def _segment(random: np.random.Generator, workspace: Workspace) -> Arguments | None:
    picture = _one_of(random, _pictures(workspace))
    return None if picture is None else {"image": picture, **_prompt(random)}


def _follow(random: np.random.Generator, workspace: Workspace) -> Arguments | None:
    frame = _one_of(random, _frames(workspace))
    return None if frame is None else {**_prompt(random), "frame": frame}


def _read(random: np.random.Generator, workspace: Workspace) -> Arguments | None:
    picture = _one_of(random, _pictures(workspace))
    if picture is None:
        return None
    return {"image": picture, "box": _box(random)} if random.random() < 0.5 else {"image": picture}


def _locate(random: np.random.Generator, workspace: Workspace) -> Arguments | None:
    if not _frames(workspace):
        return None
    return {"query": str(random.choice(["change", *NAMES]))}


def _measure(random: np.random.Generator, workspace: Workspace) -> Arguments | None:
    masks = [f"mask_{number}" for number in range(1, len(workspace.masks) + 1)]
    tracks = [f"track_{number}" for number in range(1, len(workspace.tracks) + 1)]
    kinds = [kind for kind in (("mask", masks), ("track", tracks), ("image", _pictures(workspace))) if kind[1]]
    if not kinds:
        return None
    kind, names = kinds[int(random.integers(len(kinds)))]
    measured = {kind: _one_of(random, names)}
    return {**measured, "box": _box(random)} if kind == "image" else measured


_DRAWN: Mapping[str, Callable[[np.random.Generator, Workspace], Arguments | None]] = {
    "ZOOM": _zoom,
    "SEG": _segment,
    "TRK": _follow,
    "OCR": _read,
    "TEMP": _locate,
    "PROP": _measure,
}


def _prompt(random: np.random.Generator) -> Arguments:
    """A box or a point."""
    return {"box": _box(random)} if random.random() < 0.5 else {"point": _numbers(random, 0, GRID, 2)}


def _box(random: np.random.Generator) -> list[int]:
    """Width and height are uniform, then the place is."""
    across, down = _numbers(random, LEAST, GRID, 2)
    x0, y0 = _numbers(random, 0, GRID - across, 1)[0], _numbers(random, 0, GRID - down, 1)[0]
    return [x0, y0, x0 + across, y0 + down]


def _numbers(random: np.random.Generator, low: int, high: int, count: int) -> list[int]:
    """Multiples of STEP from `low` to `high`, both included."""
    return [int(value) * STEP for value in random.integers(low // STEP, high // STEP, count, endpoint=True)]


def _one_of(random: np.random.Generator, names: list[str]) -> str | None:
    return names[int(random.integers(len(names)))] if names else None


def _frames(workspace: Workspace) -> list[str]:
    return [f"frame_{number}" for number in range(1, len(workspace.clip.frames) + 1)] if workspace.clip else []


def _pictures(workspace: Workspace) -> list[str]:
    return [f"image_{number}" for number in range(1, len(workspace.images) + 1)] + _frames(workspace)
