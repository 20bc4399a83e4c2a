"""When things happen, read off where the silhouettes are: one function a kind of event.

Amodal boxes decide, so what happens behind an occluder counts as well; `truth.Event` says what the times mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from actors.tasks.scenes.truth import Event, EventKind
from common.types import Box

MIN_STANDING = 3
"""Frames at one place, at least, that make a standstill."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What a thing does frame by frame: its amodal box (None while it does not exist) and the name of its colour."""

    thing: int
    boxes: tuple[Box | None, ...]
    colours: tuple[str, ...]


def events_of(course: Course, *, side: int, fps: float, line_x: int) -> tuple[Event, ...]:
    """The events of one thing in a square picture, in order of time, then of kind."""

    def event(kind: EventKind, start: int, stop: int, detail: str = "") -> Event:
        return Event(kind=kind, thing=course.thing, start_s=start / fps, stop_s=stop / fps, detail=detail)

    where = [_where(box, side) for box in course.boxes]
    found = [
        *(event(kind, at, at + 1) for kind, at in _existence(where)),
        *(event(kind, start, stop) for kind, start, stop in _borders(where)),
        *(event(kind, start, stop) for kind, start, stop in _standing(course.boxes, where)),
        *(event("turns", start, stop, colour) for start, stop, colour in _turns(course.colours)),
        *(event("crosses", start, stop, way) for start, stop, way in _crossings(course.boxes, line_x)),
    ]
    return tuple(sorted(found, key=lambda event: (event.start_s, event.kind)))


def _runs(values: Sequence[object]) -> Iterator[tuple[int, int]]:
    """[start, stop) of maximal runs of equal values."""
    start = 0
    for _, run in groupby(values):
        stop = start + sum(1 for _ in run)
        yield start, stop
        start = stop


def _where(box: Box | None, side: int) -> str:
    if box is None:
        return "nowhere"
    x0, y0, x1, y1 = box
    if x1 <= 0 or y1 <= 0 or x0 >= side or y0 >= side:
        return "outside"
    return "inside" if min(x0, y0) >= 0 and max(x1, y1) <= side else "across"


def _existence(where: Sequence[str]) -> Iterator[tuple[EventKind, int]]:
    for start, _ in list(_runs(where))[1:]:
        before, now = where[start - 1], where[start]
        if before == "nowhere" and now == "inside":
            yield "appears", start
        if before == "inside" and now == "nowhere":
            yield "disappears", start


def _borders(where: Sequence[str]) -> Iterator[tuple[EventKind, int, int]]:
    for start, stop in _runs(where):
        if where[start] != "across" or start == 0 or stop == len(where):
            continue
        before, after = where[start - 1], where[stop]
        if (before, after) == ("outside", "inside"):
            yield "enters", start, stop
        if (before, after) == ("inside", "outside"):
            yield "leaves", start, stop


def _standing(boxes: Sequence[Box | None], where: Sequence[str]) -> Iterator[tuple[EventKind, int, int]]:
    for start, stop in _runs(boxes):
        if where[start] in ("nowhere", "outside") or stop - start < MIN_STANDING:
            continue
        if start > 0 and boxes[start - 1] is not None:
            yield "stops", start, stop
        if stop < len(boxes) and boxes[stop] is not None:
            yield "starts", stop, stop + 1


def _turns(colours: Sequence[str]) -> Iterator[tuple[int, int, str]]:
    for start, stop in list(_runs(colours))[1:]:
        if stop < len(colours):
            yield start, stop, colours[start]


def _crossings(boxes: Sequence[Box | None], line_x: int) -> Iterator[tuple[int, int, str]]:
    def beside(box: Box | None) -> str:
        if box is None:
            return "nowhere"
        return "left" if box[2] <= line_x else "right" if box[0] >= line_x else "both"

    sides = [beside(box) for box in boxes]
    names: dict[tuple[str, str], str] = {("left", "right"): "rightward", ("right", "left"): "leftward"}
    for start, stop in _runs(sides):
        if sides[start] == "both" and start > 0 and stop < len(sides):
            way = names.get((sides[start - 1], sides[stop]))
            if way:
                yield start, stop, way
