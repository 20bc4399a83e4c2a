"""A scene of plates with its golden plan, and the real tools in this process with a reader that knows the codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from fakes.toolbox import FakeWorkspace, ScriptedToolbox
from fakes.tools import PALETTE, Plates, plates
from numpy.typing import NDArray

from actors.tasks.plan import Copied, Plan, Step
from actors.tools.cache import ResultCache
from actors.tools.catalogue import describe_back_ends, furnish
from actors.tools.config import ToolsConfig
from actors.tools.ports import ReadLine
from actors.tools.runners import InProcess
from actors.tools.toolbox import Toolbox
from common.chat import canonical_json
from common.geometry import pixels_to_grid
from common.media import FolderMediaStore, put_image
from common.types import Clip, ExecutedCall, Observation, Query, Task, ToolCall

CONFIG = ToolsConfig(num_workers=0, ocr="none", segmenter="classical", tracker="classical")
MOSTLY = 0.8
"""Of a plate's pixels: less of it cannot be read."""


class PlateReader:
    """Reads the code of every plate that is to be seen for the most part. num_reads: how often it was asked."""

    def __init__(self, scene: Plates) -> None:
        self._whole = {colour: _count(scene.pixels, colour) for colour in scene.colours}
        self._codes = dict(zip(scene.colours, scene.codes, strict=True))
        self.num_reads = 0

    def read(self, pixels: NDArray[np.uint8]) -> tuple[ReadLine, ...]:
        self.num_reads += 1
        seen = [colour for colour, whole in self._whole.items() if _count(pixels, colour) >= MOSTLY * whole]
        return tuple(
            ReadLine(text=self._codes[colour], confidence=0.9, box=(0, 10 * at, 20, 10 * at + 8))
            for at, colour in enumerate(seen)
        )

    def read_many(self, pictures: Sequence[NDArray[np.uint8]]) -> list[tuple[ReadLine, ...]]:
        return [self.read(pixels) for pixels in pictures]


def _count(pixels: NDArray[np.uint8], colour: str) -> int:
    return int((pixels == PALETTE[colour]).all(axis=-1).sum())


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """One scene on the table. golden: ZOOM → OCR on the first plate, the answer as it was read."""

    scene: Plates
    store: FolderMediaStore
    toolbox: Toolbox
    reader: PlateReader
    golden: Plan


def a_bench(folder: Path, *, seed: int = 0, copied: bool = True) -> Bench:
    scene, store = plates(seed), FolderMediaStore(folder)
    reader = PlateReader(scene)
    picture = put_image(store, scene.pixels)
    query = Query(query_id=f"plates-{seed}", question=f"code of the {scene.colours[0]} plate?", images=(picture,))
    boxes = [list(_wide(box)) for box in scene.boxes]
    steps = (
        Step(
            thought="",
            call=ToolCall(name="ZOOM", arguments={"image": "image_1", "box": boxes[0]}),
            about=f"the {scene.colours[0]} plate",
        ),
        Step(thought="", call=ToolCall(name="OCR", arguments={"image": "image_2"})),
    )
    task = Task(query=query, answer=scene.codes[0], kind="exact", family="text", split="train", chain=("ZOOM", "OCR"))
    answer = Copied(step=1, path=("text",)) if copied else None
    decoys = tuple((box[0], box[1], box[2], box[3]) for box in boxes[1:])
    golden = Plan(task=task, steps=steps, level=1, answer=answer, decoys=decoys)
    return Bench(scene=scene, store=store, toolbox=a_toolbox(store, reader), reader=reader, golden=golden)


def a_toolbox(store: FolderMediaStore, reader: Any = None) -> Toolbox:
    """The six tools in this process."""
    bench = furnish(CONFIG, store)
    bench.reader = reader
    cache = ResultCache(store=store, num_entries=100)
    return Toolbox(config=CONFIG, runner=InProcess(bench), cache=cache, back_ends=describe_back_ends(CONFIG))


class CarefulToolbox(ScriptedToolbox):
    """Scripted tools that refuse a box without area, as the real ones do."""

    async def execute(self, call: ToolCall, workspace: FakeWorkspace) -> tuple[ExecutedCall, FakeWorkspace]:
        x0, y0, x1, y1 = call.arguments.get("box", (0, 0, 1, 1))
        if x0 < x1 and y0 < y1:
            return await super().execute(call, workspace)
        self.executed.append(call)
        text = canonical_json({"error": "empty_box", "hint": "needs x0 < x1 and y0 < y1"})
        return ExecutedCall(call=call, observation=Observation(text=text, error="empty_box")), workspace


def a_clip_plan(store: FolderMediaStore, *, num_frames: int = 8) -> Plan:
    """A red square that moves right over a grey ground: TRK → ZOOM at the box of the last frame, whose name is known
    from TEMP's key frame; the colour is the answer.
    """
    frames = []
    for at in range(num_frames):
        pixels = np.full((64, 64, 3), 120, np.uint8)
        pixels[20:32, 4 + 5 * at : 16 + 5 * at] = PALETTE["red"]
        frames.append(put_image(store, pixels))
    clip = Clip(frames=tuple(frames), times_s=tuple(0.5 * at for at in range(num_frames)), shown=(0, num_frames - 1))
    query = Query(query_id="clip", question="Which colour is it in the end?", clip=clip)
    last = f"frame_{num_frames}"
    steps = (
        Step(
            thought="",
            call=ToolCall(name="TRK", arguments={"frame": "frame_1", "box": [40, 280, 270, 520]}),
        ),
        Step(
            thought="",
            call=ToolCall(name="PROP", arguments={"image": last, "box": []}),
            copies={"box": Copied(step=0, path=("boxes", last))},
        ),
    )
    task = Task(query=query, answer="red", kind="exact", family="colour", split="train", chain=("TRK", "PROP"))
    return Plan(task=task, steps=steps, level=2, answer=Copied(step=1, path=("colour",)))


def _wide(box: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    x0, y0, x1, y1 = box
    return pixels_to_grid((x0 - 2, y0 - 2, x1 + 2, y1 + 2), 448, 448, step=5)


def answered(done: ExecutedCall, **changes: Any) -> ExecutedCall:
    """The same call with other fields of its observation."""
    return replace(done, observation=replace(done.observation, **changes))
