"""Captions that ground words: what a base model learns of language before it learns to act.

    <picture> cyan[250,300,450,400left red[…            each plate's colour, then where it is, in any order
    frame_1 0.0s <picture> … cyanframe_2[250,…           the same over a clip, with the frame
    <tool_response>{"text":"493"}… → <answer>493         what was read is repeated

They are short, so a thousand steps are cheap, and they teach the three things that a trace takes for granted: which
colour is which, how a place is written, and how to copy. No tool is called and no question is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from actors.tasks.config import WorldConfig
from actors.tasks.scene import Plate, Scene, draw_scene
from actors.tasks.world import FRAME_S, written_box
from common.chat import Chat, canonical_json
from common.media import FolderMediaStore, put_view
from common.seeds import stream
from common.types import Query, Trace, Turn

_KINDS = ("picture", "clip", "copy")
_SHARES = (0.5, 0.35, 0.15)
_COLOUR_WEIGHT = 0.1
"""The order of plates is arbitrary, so which colour comes next is hardly worth predicting."""


class Captions:
    """Draws captions as traces; views go to `store`."""

    def __init__(
        self,
        config: WorldConfig,
        chat: Chat,
        store: FolderMediaStore,
        see: Callable[[NDArray[np.uint8], int | None], NDArray[np.uint8]],
    ) -> None:
        self._config, self._chat, self._store, self._see = config, chat, store, see

    def trace(self, index: int, *, num_plates: tuple[int, int], mixed: bool, level: int) -> Trace:
        """Caption number `index` of a level whose pictures hold `num_plates`.

        Only boxes of pictures unless `mixed`: which colour is which breaks through sooner when nothing else is asked.
        """
        random = stream(self._config.seed, "captions", index, *num_plates, str(mixed))
        kind = str(random.choice(_KINDS, p=_SHARES)) if mixed else "picture"
        if kind == "copy":
            turns, weights = self._copy(random)
        else:
            turns, weights = self._caption(random, num_plates, kind, sides=mixed)
        return Trace(
            trace_id=f"caption-{level}-{index}",
            family=f"caption_{kind}",
            level=level,
            kind="golden",
            query=Query(query_id=f"caption-{index}", question=""),
            turns=turns,
            weights=(0.0,) * len(turns[0].token_ids) + weights,
        )

    def _caption(
        self, random: np.random.Generator, num_plates: tuple[int, int], kind: str, *, sides: bool
    ) -> tuple[tuple[Turn, ...], tuple[float, ...]]:
        low, high = num_plates if kind == "picture" else (1, 2)
        scenes = [
            draw_scene(random, num_plates=int(random.integers(low, high + 1)), side=self._config.side)
            for _ in range(1 if kind == "picture" else self._config.frames)
        ]
        frames = [None] if kind == "picture" else list(range(len(scenes)))
        views = tuple(
            put_view(self._store, self._see(scene.pixels, frame)) for scene, frame in zip(scenes, frames, strict=True)
        )
        ids: list[int] = []
        weights: list[float] = []
        for at, plate in _unambiguous(scenes, random):
            unit = self._chat.encode(self._unit(plate, at if kind == "clip" else None, sides, random))
            ids += unit
            weights += [_COLOUR_WEIGHT] + [1.0] * (len(unit) - 1)
        opening = self._chat.pictures(views, None if kind == "picture" else [FRAME_S * i for i in range(len(views))])
        return (opening, Turn(role="assistant", token_ids=tuple(ids))), tuple(weights)

    def _unit(self, plate: Plate, frame: int | None, sides: bool, random: np.random.Generator) -> str:
        """A colour and where it is: the frame, the box, and in half of them the side, before or after the box."""
        x0, y0, x1, y1 = written_box(plate, self._config)
        box = f"[{x0},{y0},{x1},{y1}"
        middle = (plate.box[0] + plate.box[2]) / 2 - self._config.side / 2
        side = "" if not sides or abs(middle) < 20 or random.random() < 0.5 else "left" if middle < 0 else "right"
        body = side + box if random.random() < 0.7 else box + side
        return f" {plate.colour}" + (f"frame_{frame + 1}" if frame is not None else "") + body

    def _copy(self, random: np.random.Generator) -> tuple[tuple[Turn, ...], tuple[float, ...]]:
        code = "".join(map(str, random.integers(0, 10, 3)))
        answer = self._chat.written(f"<answer>{code}</answer>")
        opening = self._chat.observation(canonical_json({"text": code}), None)
        return (opening, Turn(role="assistant", token_ids=answer)), (1.0,) * len(answer)


def _unambiguous(scenes: Sequence[Scene], random: np.random.Generator) -> list[tuple[int, Plate]]:
    """Plates whose colour occurs once, with their frame, in random order."""
    shown = [(at, plate) for at, scene in enumerate(scenes) for plate in scene.plates]
    single = [item for item in shown if sum(plate.colour == item[1].colour for _, plate in shown) == 1]
    return [single[i] for i in random.permutation(len(single))]
