"""Captions that ground words: what a base model learns of language before it learns to act.

    <picture> cyan[250,300,450,400left red[…            each thing's colour, then where it is, in any order
    frame_1 0.0s <picture> … cyanframe_2[250,…           the same over a clip, with the frame
    <picture> red","point":[300,250                      or a point that lies on it
    frame_1 0.0s <picture> … cyan"frame":"frame_1","box":[…    or its box in a clip's first frame, rounded as a track's
    <tool_response>{"text":"493"}… → <answer>493         what was returned is repeated: a code, a number, a box, a frame
    <picture> side of the red plate? → <answer>left      a question that the view answers

They are short, so a thousand steps are cheap, and they teach what a trace takes for granted: which colour is which, how
a place is written, how to copy, and to answer what is plain to see. No tool is called. Pictures are those of the
world's own families, from a split of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.dialogue import ANSWER_OPENS, write_answer
from actors.tasks.config import WorldConfig
from actors.tasks.world.drawn import Drawn, Named, nearest_box, written_box
from actors.tasks.world.world import World
from common.chat import Chat, canonical_json
from common.media import FolderMediaStore, put_view
from common.seeds import stream
from common.types import Query, Trace, Turn

CLIPS = ("clip", "when", "event", "identity")
"""Families whose pictures are clips."""
PLAIN = ("side", "count")
"""Families that the view answers."""
_CLIP_SHARE, _COPY_SHARE, _ASK_SHARE = 0.32, 0.22, 0.14
_POINT_SHARE, _TRACK_SHARE = 0.4, 0.4
"""Of things that have a point, and of those in a clip's first frame."""
_COLOUR_WEIGHT = 0.1
"""The order of things is arbitrary, so which colour comes next is hardly worth predicting."""
_BARE_SHARE = 0.2
"""How often a colour is written without the space before it, as tools write it."""


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
        wanted = {name: share for name, share in config.mix.items() if share > 0}
        stills = {name: share for name, share in wanted.items() if name not in CLIPS} or {"text": 1.0}
        clips = {name: share for name, share in wanted.items() if name in CLIPS}
        self._stills = World(replace(config, mix=stills), store)
        self._clips = World(replace(config, mix=clips), store) if clips else self._stills
        plain = {name: 1.0 for name in PLAIN if name in wanted}
        self._plain = World(replace(config, mix=plain), store) if plain else None

    def trace(self, index: int, *, num_plates: tuple[int, int], mixed: bool, level: int) -> Trace:
        """Caption number `index` of a level whose pictures hold `num_plates` things.

        Only boxes of pictures unless `mixed`: which colour is which breaks through sooner when nothing else is asked.
        """
        random = stream(self._config.seed, "captions", index, *num_plates, str(mixed))
        dice = random.random() if mixed else 1.0
        if dice < _COPY_SHARE:
            family, (turns, weights) = "copy", self._copy(random)
        elif self._plain is not None and dice < _COPY_SHARE + _ASK_SHARE:
            family, drawn = self._plain.draw("pretrain", index, num_plates=num_plates)
            turns, weights = self._ask(drawn)
        else:
            world = self._clips if dice > 1 - _CLIP_SHARE and mixed else self._stills
            family, drawn = world.draw("pretrain", index, num_plates=num_plates)
            turns, weights = self._caption(random, drawn, extras=mixed)
        return Trace(
            trace_id=f"caption-{level}-{index}",
            family=f"caption_{family}",
            level=level,
            kind="golden",
            query=Query(query_id=f"caption-{index}", question=""),
            turns=turns,
            weights=(0.0,) * len(turns[0].token_ids) + weights,
        )

    def _caption(
        self, random: np.random.Generator, drawn: Drawn, *, extras: bool
    ) -> tuple[tuple[Turn, ...], tuple[float, ...]]:
        moving = bool(drawn.times_s)
        views = tuple(put_view(self._store, self._see(drawn.pictures[i], i if moving else None)) for i in drawn.shown)
        ids: list[int] = []
        weights: list[float] = []
        for at in random.permutation(len(drawn.named)):
            named = drawn.named[int(at)]
            side = len(drawn.pictures[named.frame])
            unit = self._chat.encode(self._unit(named, side, moving, extras, random))
            ids += unit
            weights += [_COLOUR_WEIGHT] + [1.0] * (len(unit) - 1)
        opening = self._chat.pictures(views, [drawn.times_s[i] for i in drawn.shown] if moving else None)
        return (opening, Turn(role="assistant", token_ids=tuple(ids))), tuple(weights)

    def _ask(self, drawn: Drawn) -> tuple[tuple[Turn, ...], tuple[float, ...]]:
        """A question as a task asks it, and its answer; that an answer comes at all is not learned."""
        views = tuple(put_view(self._store, self._see(pixels, None)) for pixels in drawn.pictures)
        opening = self._chat.question(Query(query_id="", question=drawn.question), views)
        tag, whole = self._chat.encode(ANSWER_OPENS), self._chat.written(write_answer(drawn.answer))
        return (opening, Turn(role="assistant", token_ids=whole)), (0.0,) * len(tag) + (1.0,) * (len(whole) - len(tag))

    def _unit(self, named: Named, picture: int, moving: bool, extras: bool, random: np.random.Generator) -> str:
        """A thing and where it is: its words, the frame, the box, and in half of them the side, before or after."""
        x0, y0, x1, y1 = written_box(named.box, self._config, side=picture)
        box = f"[{x0},{y0},{x1},{y1}"
        if extras and named.inside is not None and random.random() < _POINT_SHARE:
            box = f'","point":[{named.inside[0]},{named.inside[1]}'
        if extras and moving and named.frame == 0 and random.random() < _TRACK_SHARE:
            x0, y0, x1, y1 = nearest_box(named.box, picture, self._config)
            return f' {named.words}"frame":"frame_1","box":[{x0},{y0},{x1},{y1}'
        middle = (named.box[0] + named.box[2]) / 2 - picture / 2
        side = "left" if middle < 0 else "right"
        if not extras or abs(middle) < picture / 22 or random.random() < 0.5:
            side = ""
        body = side + box if random.random() < 0.7 else box + side
        bare = extras and " " not in named.words and random.random() < _BARE_SHARE
        words = named.words if bare else f" {named.words}"
        return words + (f"frame_{named.frame + 1}" if moving else "") + body

    def _copy(self, random: np.random.Generator) -> tuple[tuple[Turn, ...], tuple[float, ...]]:
        """An observation as a tool writes it, and the part of it that matters."""
        seen, said = _returned(random)
        repeated = self._chat.written(said)
        opening = self._chat.observation(canonical_json(seen), None)
        return (opening, Turn(role="assistant", token_ids=repeated)), (1.0,) * len(repeated)


def _returned(random: np.random.Generator) -> tuple[dict[str, Any], str]:
    """A code, a share, a distance, a track's last box, or an interval's frame."""
    kind = int(random.integers(5))
    if kind == 0:
        code = "".join(map(str, random.integers(0, 10, int(random.integers(2, 4)))))
        return {"text": code}, f"<answer>{code}</answer>"
    if kind == 1:
        share = round(float(random.uniform(0.2, 1)), 3)
        return {"fill": share}, f"<answer>{share}</answer>"
    if kind == 2:
        apart = round(float(random.uniform(60, 400)), 1)
        return {"distance": apart}, f"<answer>{apart}</answer>"
    if kind == 3:
        start, length = int(random.integers(15)), int(random.integers(1, 4))
        frame = f"frame_{start + 1 + int(random.integers(length))}"
        score = round(float(random.uniform(0.02, 1)), 4)
        span = {"start_s": start / 8, "stop_s": (start + length) / 8, "frame": frame, "score": score}
        return {"intervals": [span]}, f'"image":"{frame}"'
    boxes = {f"frame_{at}": [int(value) for value in random.integers(0, 1000, 4)] for at in (1, 5, 9, 12, 16)}
    x0, y0, x1, y1 = boxes["frame_16"]
    return {"boxes": boxes, "track": "track_1"}, f'"box":[{x0},{y0},{x1},{y1}]'
