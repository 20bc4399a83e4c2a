"""Families of plates.

text    the code on a plate of a picture       ZOOM → OCR     three digits under 3 px in the view: ceiling 10⁻³
clip    the same in a clip; the colour occurs in one frame only, so the frame must be found too
side    is the plate left or right?            no tool        seen in the view
count   how many plates?                       no tool        seen in the view
"""

from __future__ import annotations

import numpy as np

from actors.tasks.config import WorldConfig
from actors.tasks.plan import Step
from actors.tasks.scene import Plate, Scene, draw_scene
from actors.tasks.shifts import Shift
from actors.tasks.world.drawn import Drawn, Named, looked_for, written_box
from common.types import ToolCall

FRAME_S = 0.5
"""Seconds between the frames of a clip."""
_MIDDLE = 20
"""Plates nearer to the middle line than this many pixels are not asked for their side."""


def text(random: np.random.Generator, config: WorldConfig, crowd: tuple[int, int], shift: Shift | None) -> Drawn | None:
    """The code on a plate."""
    scene, plate = _picture(random, config, crowd, shift)
    return Drawn(
        pictures=(scene.pixels,),
        question=f"code on the {plate.colour} plate?",
        answer=plate.code,
        steps=_read(plate, "image_1", "image_2", config),
        named=_named([scene]),
    )


def clip(random: np.random.Generator, config: WorldConfig, crowd: tuple[int, int], shift: Shift | None) -> Drawn | None:
    """The code on a plate that one frame shows."""
    scenes = [_scene(random, config, (1, 2), shift) for _ in range(config.frames)]
    named = _named(scenes)
    shown = [(at, plate) for at, scene in enumerate(scenes) for plate in scene.plates]
    single = [item for item in shown if sum(plate.colour == item[1].colour for _, plate in shown) == 1]
    if not single:
        return None
    at, plate = single[int(random.integers(len(single)))]
    return Drawn(
        pictures=tuple(scene.pixels for scene in scenes),
        times_s=tuple(FRAME_S * i for i in range(len(scenes))),
        shown=tuple(range(len(scenes))),
        question=f"code on the {plate.colour} plate?",
        answer=plate.code,
        steps=_read(plate, f"frame_{at + 1}", "image_1", config),
        named=named,
    )


def side(random: np.random.Generator, config: WorldConfig, crowd: tuple[int, int], shift: Shift | None) -> Drawn | None:
    """Which side a plate is on."""
    scene, plate = _picture(random, config, crowd, shift)
    middle = (plate.box[0] + plate.box[2]) / 2 - config.side / 2
    if abs(middle) < _MIDDLE:
        return None
    return Drawn(
        pictures=(scene.pixels,),
        question=f"side of the {plate.colour} plate?",
        answer="left" if middle < 0 else "right",
        named=_named([scene]),
    )


def count(random: np.random.Generator, config: WorldConfig, crowd: tuple[int, int], shift: Shift | None) -> Drawn:
    """How many plates there are, every number as often as any other."""
    scene, _ = _picture(random, config, (1, crowd[1]), shift)
    return Drawn(
        pictures=(scene.pixels,), question="how many plates?", answer=str(len(scene.plates)), named=_named([scene])
    )


def _picture(
    random: np.random.Generator, config: WorldConfig, crowd: tuple[int, int], shift: Shift | None
) -> tuple[Scene, Plate]:
    scene = _scene(random, config, crowd, shift)
    return scene, scene.plates[int(random.integers(len(scene.plates)))]


def _scene(random: np.random.Generator, config: WorldConfig, crowd: tuple[int, int], shift: Shift | None) -> Scene:
    number = int(random.integers(crowd[0], crowd[1] + 1))
    return draw_scene(random, num_plates=number, side=config.side, shift=shift, num_static=config.num_static)


def _read(plate: Plate, source: str, crop: str, config: WorldConfig) -> tuple[Step, ...]:
    box = list(written_box(plate.box, config))
    zoom = ToolCall(name="ZOOM", arguments={"image": source, "box": box})
    read = ToolCall(name="OCR", arguments={"image": crop})
    return Step(thought=looked_for(plate.colour), call=zoom), Step(thought="", call=read)


def _named(scenes: list[Scene]) -> tuple[Named, ...]:
    """Plates whose colour occurs once."""
    shown = [(at, plate) for at, scene in enumerate(scenes) for plate in scene.plates]
    return tuple(
        Named(words=plate.colour, frame=at, box=plate.box)
        for at, plate in shown
        if sum(other.colour == plate.colour for _, other in shown) == 1
    )
