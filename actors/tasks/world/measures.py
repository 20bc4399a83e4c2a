"""Families of shapes on a desk. Answers are numbers that a tool measures; 5 % off is wrong.

    fill      what share of its box does the shape fill, as far as it is seen?     SEG → PROP
    distance  how far are two shapes apart, in pixels of the picture?              SEG → SEG → PROP
    hop       the fill of the shape whose colour the note names                     ZOOM → OCR → SEG → PROP

A pixel of the view is seven of the source, so a glance tells neither; the ceiling is the share of tasks that the best
constant answers, or a model that only looks (docs/world.md).
"""

from __future__ import annotations

import math

import numpy as np

from actors.tasks.config import WorldConfig
from actors.tasks.plan import Copied, Step
from actors.tasks.shifts import Shift
from actors.tasks.world.desk import NOTE, Desk, Lying, draw_desk
from actors.tasks.world.drawn import Drawn, Named, looked_for, written_box
from common.types import ToolCall

MAX_SHAPES = 4
"""On one desk; more hardly find room."""


def fill(random: np.random.Generator, config: WorldConfig, crowd: tuple[int, int], shift: Shift | None) -> Drawn | None:
    """The fill of a named shape."""
    desk, _ = draw_desk(random, config, num_shapes=_number(random, crowd, 1), note=False, shift=shift)
    shape = desk.shapes[0]
    return Drawn(
        pictures=(desk.pixels,),
        question=f"fill of the {shape.colour} shape?",
        answer=f"{shape.fill:.3f}",
        kind="near",
        steps=(_segment(shape), _measure("mask_1")),
        copied=Copied(step=1, path=("fill",)),
        named=_named(desk),
    )


def distance(
    random: np.random.Generator, config: WorldConfig, crowd: tuple[int, int], shift: Shift | None
) -> Drawn | None:
    """The distance of two shapes' centroids."""
    desk, _ = draw_desk(random, config, num_shapes=_number(random, crowd, 2), note=False, shift=shift)
    one, other = desk.shapes[:2]
    apart = math.dist(one.centroid, other.centroid)
    compare = ToolCall(name="PROP", arguments={"mask": "mask_1", "other": "mask_2", "what": "distance"})
    return Drawn(
        pictures=(desk.pixels,),
        question=f"distance of the {one.colour} and {other.colour} shapes?",
        answer=f"{apart:.1f}",
        kind="near",
        steps=(_segment(one), _segment(other), Step(thought="", call=compare)),
        copied=Copied(step=2, path=("distance",)),
        named=_named(desk),
    )


def hop(random: np.random.Generator, config: WorldConfig, crowd: tuple[int, int], shift: Shift | None) -> Drawn | None:
    """The fill of the shape that the note names."""
    desk, word = draw_desk(random, config, num_shapes=_number(random, crowd, 2), note=True, shift=shift)
    shape = next(shape for shape in desk.shapes if shape.colour == word)
    assert desk.note is not None
    zoom = ToolCall(name="ZOOM", arguments={"image": "image_1", "box": list(written_box(desk.note.box, config))})
    read = ToolCall(name="OCR", arguments={"image": "image_2"})
    return Drawn(
        pictures=(desk.pixels,),
        question="fill of the shape on the note?",
        answer=f"{shape.fill:.3f}",
        kind="near",
        steps=(
            Step(thought=looked_for(NOTE), call=zoom),
            Step(thought="", call=read),
            _segment(shape),
            _measure("mask_1"),
        ),
        copied=Copied(step=3, path=("fill",)),
        named=_named(desk),
    )


def _number(random: np.random.Generator, crowd: tuple[int, int], fewest: int) -> int:
    low = max(fewest, crowd[0])
    return int(random.integers(low, max(low, min(MAX_SHAPES, crowd[1])) + 1))


def _segment(shape: Lying) -> Step:
    call = ToolCall(name="SEG", arguments={"image": "image_1", "point": list(shape.inside)})
    return Step(thought=looked_for(shape.colour), call=call)


def _measure(mask: str) -> Step:
    return Step(thought="", call=ToolCall(name="PROP", arguments={"mask": mask, "what": "fill"}))


def _named(desk: Desk) -> tuple[Named, ...]:
    things = [*desk.shapes, desk.note] if desk.note is not None else desk.shapes
    return tuple(Named(words=thing.colour, frame=0, box=thing.box, inside=thing.inside) for thing in things)
