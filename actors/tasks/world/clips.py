"""Families of clips. The model sees the first and the last of the frames; what happens between them needs a tool.

    when      the clock when a colour is seen that is not there before and after   TEMP → OCR
    event     the clock when a shape starts to move or disappears                 TRK → TEMP → OCR
    identity  the code that one of two look-alikes carries at the end              TRK → ZOOM → OCR

The clock shows other digits in every frame. Look-alikes pass behind a bar and half of them turn around there, so the
last frame alone leaves a choice between two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from actors.tasks.config import WorldConfig
from actors.tasks.plan import Copied, Step
from actors.tasks.scenes.moving import draw_moving
from actors.tasks.scenes.truth import MEDIUM, Event, Moving, Shape
from actors.tasks.scenes.writing import lay_ink, write
from actors.tasks.shifts import Pen, Shift, pen, severity
from actors.tasks.world.drawn import Drawn, Named, Pixels, looked_for, nearest_box
from common.types import Box, ToolCall

T = TypeVar("T")
SIDE, NUM_FRAMES, FPS = 320, 16, 8.0
TROUPE = replace(MEDIUM, name="world", num_things=(4, 4), hiding=(0.3, 0.5), shading=0.0, look_alikes=True)
TRACKED = ("starts", "disappears")
"""Events of one frame, of things that the first frame shows."""
CLOCK: Box = (138, 2, 182, 24)
"""Where the clock hangs, over everything, in pixels."""
CLOCK_BOX = (400, 0, 600, 100)
"""The same on the grid, with room."""
_INK_PX = 12
PLAIN: tuple[Shape, ...] = ("circle", "square", "heart")
"""Shapes with room for a code."""


def when(random: np.random.Generator, config: WorldConfig, crowd: tuple[int, int], shift: Shift | None) -> Drawn | None:
    """The clock at the first frame of a colour."""
    moving = _film(random, config, shift)
    turns = [event for event in moving.events if event.kind == "turns" and _unseen(event, moving)]
    if not turns:
        return None
    event = turns[int(random.integers(len(turns)))]
    question, find = f"clock when {event.detail} is seen?", ToolCall(name="TEMP", arguments={"query": event.detail})
    return _timed(random, moving, event, question=question, steps=(Step(thought="", call=find),), pen=pen(shift))


def event(
    random: np.random.Generator, config: WorldConfig, crowd: tuple[int, int], shift: Shift | None
) -> Drawn | None:
    """The clock at the first frame of something that a shape does."""
    moving = _film(random, config, shift)
    alone = {
        thing.number: thing for thing in moving.things if sum(o.colour == thing.colour for o in moving.things) == 1
    }
    asked = [
        event
        for event in moving.events
        if event.kind in TRACKED
        and event.thing in alone
        and _unseen(event, moving)
        and sum((other.kind, other.thing) == (event.kind, event.thing) for other in moving.events) == 1
        and moving.tracks[event.thing - 1].boxes[0] is not None
    ]
    if not asked:
        return None
    event = asked[int(random.integers(len(asked)))]
    find = ToolCall(name="TEMP", arguments={"track": "track_1", "event": event.kind})
    colour = alone[event.thing].colour
    steps = (_track(moving, event.thing, colour, config), Step(thought="", call=find))
    question = f"clock when the {colour} shape {event.kind}?"
    return _timed(random, moving, event, question=question, steps=steps, pen=pen(shift))


def identity(
    random: np.random.Generator, config: WorldConfig, crowd: tuple[int, int], shift: Shift | None
) -> Drawn | None:
    """The code of one of two look-alikes in the last frame."""
    moving = _film(random, config, shift)
    if moving.things[moving.target - 1].shape not in PLAIN:
        return None
    twins = [thing.number for thing in moving.things if thing.colour == moving.things[moving.target - 1].colour]
    words = _told_apart(moving, twins)
    if words is None:
        return None
    frames = list(moving.frames)
    codes = [f"{code:02d}" for code in random.choice(100, len(twins), replace=False)]
    for number, code in zip(twins, codes, strict=True):
        box = moving.tracks[number - 1].boxes[-1]
        if box is None or moving.tracks[number - 1].visible[-1] < 1:
            return None
        frames[-1] = _inked(frames[-1].copy(), box, code, pen(shift))
    asked = int(random.integers(len(twins)))
    last = f"frame_{NUM_FRAMES}"
    name = f"{words[asked]} {moving.things[twins[asked] - 1].colour}"
    return Drawn(
        pictures=tuple(frames),
        times_s=moving.times_s,
        shown=(0, NUM_FRAMES - 1),
        question=f"last code of the {name} shape?",
        answer=codes[asked],
        steps=(
            _track(moving, twins[asked], name, config),
            Step(
                thought="",
                call=ToolCall(name="ZOOM", arguments={"image": last, "box": []}),
                copies={"box": Copied(step=0, path=("boxes", last))},
            ),
            Step(thought="", call=ToolCall(name="OCR", arguments={"image": "image_1"})),
        ),
        named=_named(moving),
    )


def _film(random: np.random.Generator, config: WorldConfig, shift: Shift | None) -> Moving:
    """A clip of NUM_FRAMES frames under what a shift does to its course: the bar, the speed, frames that are lost."""
    hiding = 0.65 * severity(shift, "occluder")
    troupe = replace(TROUPE, ground=config.ground, hiding=(min(0.9, 0.3 + hiding), min(0.95, 0.5 + hiding)))
    speed = 1 + severity(shift, "speed")
    moving = draw_moving(random, troupe, side=SIDE, num_frames=round(NUM_FRAMES * speed), fps=FPS)
    kept = [round(at * (len(moving.frames) - 1) / (NUM_FRAMES - 1)) for at in range(NUM_FRAMES)]
    moving = _taken(moving, kept)
    lost = severity(shift, "drop")
    if not lost:
        return moving
    frames = list(moving.frames)
    for at in range(1, NUM_FRAMES - 1):
        if random.random() < lost:
            frames[at] = frames[at - 1]
    return replace(moving, frames=tuple(frames))


def _taken(moving: Moving, kept: list[int]) -> Moving:
    """The clip that these frames alone make, at the same frame rate; its events begin and end with them."""
    if len(kept) == len(moving.frames):
        return moving

    def of(values: Sequence[T]) -> tuple[T, ...]:
        return tuple(values[at] for at in kept)

    def when(time_s: float) -> float:
        return sum(at / moving.fps < time_s - 1e-9 for at in kept) / moving.fps

    tracks = tuple(replace(t, boxes=of(t.boxes), amodal=of(t.amodal), visible=of(t.visible)) for t in moving.tracks)
    events = tuple(replace(e, start_s=when(e.start_s), stop_s=when(e.stop_s)) for e in moving.events)
    return replace(
        moving,
        frames=of(moving.frames),
        labels=of(moving.labels),
        tracks=tracks,
        times_s=moving.times_s[: len(kept)],
        events=tuple(e for e in events if e.start_s < e.stop_s),
    )


def _unseen(event: Event, moving: Moving) -> bool:
    """Whether the event lies between the frames that the model sees."""
    return event.start_s > 0 and event.start_s < moving.times_s[-1]


def _timed(
    random: np.random.Generator, moving: Moving, event: Event, *, question: str, steps: tuple[Step, ...], pen: Pen
) -> Drawn:
    """A clip with a clock, read in the first frame of `event`, which the last of `steps` finds."""
    codes = [f"{code:03d}" for code in random.choice(1000, NUM_FRAMES, replace=False)]
    frames = tuple(_clocked(frame, code, pen) for frame, code in zip(moving.frames, codes, strict=True))
    read = Step(
        thought="",
        call=ToolCall(name="OCR", arguments={"image": "", "box": list(CLOCK_BOX)}),
        copies={"image": Copied(step=len(steps) - 1, path=("intervals", 0, "frame"))},
    )
    return Drawn(
        pictures=frames,
        times_s=moving.times_s,
        shown=(0, NUM_FRAMES - 1),
        question=question,
        answer=codes[round(event.start_s * FPS)],
        steps=(*steps, read),
        named=_named(moving),
    )


def _track(moving: Moving, number: int, name: str, config: WorldConfig) -> Step:
    box = moving.tracks[number - 1].boxes[0]
    assert box is not None
    arguments = {"frame": "frame_1", "box": list(nearest_box(box, SIDE, config))}
    return Step(thought=looked_for(name), call=ToolCall(name="TRK", arguments=arguments))


def _told_apart(moving: Moving, twins: list[int]) -> list[str] | None:
    """A word for each of two things that tells it from the other in the first frame, left and right if that will do."""
    boxes = [moving.tracks[number - 1].boxes[0] for number in twins]
    if len(boxes) != 2 or boxes[0] is None or boxes[1] is None:
        return None
    (x, y), (u, v) = (((box[0] + box[2]) / 2, (box[1] + box[3]) / 2) for box in boxes if box is not None)
    if abs(x - u) > SIDE / 3:
        return ["left", "right"] if x < u else ["right", "left"]
    if abs(y - v) > SIDE / 8:
        return ["upper", "lower"] if y < v else ["lower", "upper"]
    return None


def _named(moving: Moving) -> tuple[Named, ...]:
    """What the first and the last frame show for the most part, of things with a colour of their own, and the twins in
    the first."""
    found = []
    for frame in (0, NUM_FRAMES - 1):
        for thing, track in zip(moving.things, moving.tracks, strict=True):
            box = track.boxes[frame]
            if thing.number == moving.occluder or box is None or track.visible[frame] < 0.7:
                continue
            twins = [other.number for other in moving.things if other.colour == thing.colour]
            if len(twins) == 1:
                found.append(Named(words=thing.colour, frame=frame, box=box))
            elif frame == 0 and (words := _told_apart(moving, twins)) is not None:
                found.append(Named(words=f"{words[twins.index(thing.number)]} {thing.colour}", frame=0, box=box))
    return tuple(found)


def _clocked(pixels: Pixels, code: str, pen: Pen) -> Pixels:
    """The clock, dark on white."""
    x0, y0, x1, y1 = CLOCK
    hung = pixels.copy()
    hung[y0:y1, x0:x1] = 245
    return _inked(hung, CLOCK, code, pen)


def _inked(pixels: Pixels, box: Box, text: str, pen: Pen) -> Pixels:
    """Lay black ink in the middle of a box, in place."""
    ink = write(text, _INK_PX, pen=pen)
    height, width = ink.coverage.shape
    x, y = (box[0] + box[2] - width) // 2, (box[1] + box[3] - height) // 2
    lay_ink(ink, pixels, x, y, text=text, tone=pen.tone(0), height_px=_INK_PX, on=None)
    return pixels
