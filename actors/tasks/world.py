"""Tasks of the procedural world, with plans.

    text    the code on a plate of a picture       ZOOM → OCR     three digits under 3 px in the view: ceiling 10⁻³
    clip    the same in a clip; the colour occurs in one frame only, so the frame must be found too
    side    is the plate left or right?            no tool        seen in the view
    count   how many plates?                       no tool        seen in the view

A task is a function of (seed, split, index, shift); splits have streams of their own, so they never meet.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from actors.tasks.config import WorldConfig
from actors.tasks.plan import Plan, Step
from actors.tasks.scene import Plate, Scene, Shift, draw_scene
from common.geometry import pixels_to_grid
from common.media import FolderMediaStore, put_image
from common.seeds import stream
from common.types import Clip, Query, Task, ToolCall

SPLITS = ("train", "validation", "test", "index", "pretrain")
FRAME_S = 0.5
"""Seconds between the frames of a clip."""
_MIDDLE = 20
"""Plates nearer to the middle line than this many pixels are not asked for their side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Drawn:
    """A task before its media are stored: what was drawn, what is asked, and where the answer is."""

    family: str
    scenes: tuple[Scene, ...]
    at: int
    plate: Plate
    question: str
    answer: str


class World:
    """Draws tasks into a media store."""

    def __init__(self, config: WorldConfig, store: FolderMediaStore) -> None:
        self._config = config
        self._store = store
        self._families = [name for name, share in config.mix.items() if share > 0]
        shares = np.array([config.mix[name] for name in self._families])
        self._shares = shares / shares.sum()

    def task(self, split: str, index: int, *, shift: str = "") -> Task:
        """Task number `index` of `split`, under a shift such as "dark:0.3"."""
        low, high = self._config.num_plates
        return self._task(self._draw(split, index, low, high, Shift.parse(shift)), split, index, shift)

    def plan(
        self, split: str, index: int, *, num_plates: tuple[int, int] | None = None, level: int | None = None
    ) -> Plan:
        """Task number `index` of `split` with the calls that solve it, at a level of the curriculum with so many
        plates."""
        low, high = num_plates or self._config.num_plates
        drawn = self._draw(split, index, low, high, None)
        task = self._task(drawn, split, index, f"{low}-{high}")
        return Plan(task=task, steps=self._steps(drawn), level=high if level is None else level)

    def _draw(self, split: str, index: int, low: int, high: int, shift: Shift | None) -> _Drawn:
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        random = stream(self._config.seed, "world", split, index, low, high)
        family = str(random.choice(self._families, p=self._shares))
        while True:
            drawn = self._try(family, random, low, high, shift)
            if drawn is not None:
                return drawn

    def _try(self, family: str, random: np.random.Generator, low: int, high: int, shift: Shift | None) -> _Drawn | None:
        """One attempt at a task of `family`; None when what was drawn cannot be asked without ambiguity."""
        side = self._config.side
        if family == "clip":
            scenes = tuple(
                draw_scene(random, num_plates=int(random.integers(1, 3)), side=side, shift=shift)
                for _ in range(self._config.frames)
            )
            shown = [(at, plate) for at, scene in enumerate(scenes) for plate in scene.plates]
            single = [item for item in shown if sum(plate.colour == item[1].colour for _, plate in shown) == 1]
            if not single:
                return None
            at, plate = single[int(random.integers(len(single)))]
        else:
            fewest = 1 if family == "count" else low
            scenes = (draw_scene(random, num_plates=int(random.integers(fewest, high + 1)), side=side, shift=shift),)
            at, plate = 0, scenes[0].plates[int(random.integers(len(scenes[0].plates)))]
        question, answer = _ask(family, scenes[at], plate, side)
        if not answer:
            return None
        return _Drawn(family=family, scenes=scenes, at=at, plate=plate, question=question, answer=answer)

    def _task(self, drawn: _Drawn, split: str, index: int, variant: str) -> Task:
        refs = tuple(put_image(self._store, scene.pixels) for scene in drawn.scenes)
        query_id = "-".join(filter(None, (split, str(index), variant)))
        if len(refs) > 1:
            times = tuple(FRAME_S * i for i in range(len(refs)))
            clip = Clip(frames=refs, times_s=times, shown=tuple(range(len(refs))))
            query = Query(query_id=query_id, question=drawn.question, clip=clip)
        else:
            query = Query(query_id=query_id, question=drawn.question, images=refs)
        chain = ("ZOOM", "OCR") if drawn.family in ("text", "clip") else ()
        return Task(
            query=query,
            answer=drawn.answer,
            kind="exact",
            family=drawn.family,
            split=split,
            chain=chain,
        )

    def _steps(self, drawn: _Drawn) -> tuple[Step, ...]:
        if drawn.family not in ("text", "clip"):
            return ()
        source, crop = (f"frame_{drawn.at + 1}", "image_1") if drawn.family == "clip" else ("image_1", "image_2")
        box = written_box(drawn.plate, self._config)
        zoom = ToolCall(name="ZOOM", arguments={"image": source, "box": list(box)})
        read = ToolCall(name="OCR", arguments={"image": crop})
        return Step(thought="", call=zoom), Step(thought="", call=read)


def written_box(plate: Plate, config: WorldConfig) -> tuple[int, int, int, int]:
    """The plate with its margin, rounded outward to the grid: what a planned ZOOM asks for."""
    x0, y0, x1, y1 = plate.box
    margin, side = config.margin, config.side
    return pixels_to_grid((x0 - margin, y0 - margin, x1 + margin, y1 + margin), side, side, step=config.grid_step)


def _ask(family: str, scene: Scene, plate: Plate, side: int) -> tuple[str, str]:
    """The question and its answer; an empty answer where the question would be ambiguous."""
    if family == "count":
        return "how many plates?", str(len(scene.plates))
    if family == "side":
        middle = (plate.box[0] + plate.box[2]) / 2 - side / 2
        return f"side of the {plate.colour} plate?", "" if abs(middle) < _MIDDLE else "left" if middle < 0 else "right"
    return f"code on the {plate.colour} plate?", plate.code
