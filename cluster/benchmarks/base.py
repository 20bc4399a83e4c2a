"""What the base model sees and knows before it learns to act.

`base_places_*`: a thing of a still picture is named after the picture, as a caption would, and the box that the model
writes is held against the truth: the distance of the two centres as a share of the side. `base_plain`: questions that
the view answers, its turn opened with an answer's tag, by family and their mean. `base_guess_*`: the same of families
that need a tool, less the share that the best constant answers; what is left above it would be known without looking
closer.
"""

from __future__ import annotations

import math
import re
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.dialogue import ANSWER_CLOSES, ANSWER_OPENS
from actors.tasks.captions import CLIPS, PLAIN
from actors.tasks.world.audit import best_constant
from actors.tasks.world.drawn import Drawn
from actors.tasks.world.world import World
from actors.views import see
from cluster.benchmarks.harness import Figure
from common.chat import Chat
from common.geometry import GRID
from common.media import FolderMediaStore, put_view
from common.scoring import score
from common.types import Clip, MediaRef, Query, Task, Turn

if TYPE_CHECKING:
    from cluster.config import RunConfig
    from cluster.progress import Progress
    from learner.views import Views

NUM_PLACES, NUM_PLAIN, NUM_GUESSES = 200, 150, 60
"""Things that are looked for; questions of each family."""
BOX_TOKENS, ANSWER_TOKENS = 8, 12
MAX_ERROR, MIN_PLAIN, MAX_ABOVE = 0.04, 0.85, 0.03
_BOX = re.compile(r"\[(\d+),(\d+),(\d+),(\d+)")


def measure(config: RunConfig, progress: Progress, rounds: int) -> Sequence[Figure]:
    from cluster.pretraining import checked, shipped

    model = checked(Path(config.model.path)) if config.model.path else shipped(config)
    with tempfile.TemporaryDirectory(prefix="pixelis-bench-") as folder:
        base = Base.loaded(model, config, FolderMediaStore(Path(folder)))
        progress.start("bench base: where things are", NUM_PLACES)
        figures = _places(base, config, progress)
        wanted = [name for name, share in config.world.mix.items() if share > 0]
        progress.start("bench base: answers without a tool", len(wanted))
        plain: list[float] = []
        for number, family in enumerate(wanted):
            figure = _answers(base, config, family)
            figures.append(figure)
            plain += [figure.value] if family in PLAIN else []
            progress.update(number + 1)
        if plain:
            figures.append(Figure(name="base_plain", value=statistics.mean(plain), unit="", target=MIN_PLAIN))
    return figures


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """A model that continues texts greedily."""

    model: Any
    chat: Chat
    views: Views
    store: FolderMediaStore
    config: RunConfig
    box_tokens: list[int]
    """Those that begin a box: a bracket, and maybe the first digits with it."""

    @classmethod
    def loaded(cls, folder: Path, config: RunConfig, store: FolderMediaStore) -> Base:
        from learner.policy import load_backbone
        from learner.views import Views, pixel_shape

        chat = Chat.from_model(folder, system=config.model.system)
        views = Views(store, chat.vision, pixel_shape(folder, chat.vision))
        begin = [token for token in range(chat.vocabulary_size) if re.fullmatch(r"\[\d*", chat.decode_all([token]))]
        return cls(model=load_backbone(folder), chat=chat, views=views, store=store, config=config, box_tokens=begin)

    def seen(self, drawn: Drawn) -> list[MediaRef]:
        """The views of what the model is shown."""
        moving = bool(drawn.times_s)
        return [
            put_view(
                self.store, see(drawn.pictures[at], self.config.view, self.chat.vision, frame=at if moving else None)
            )
            for at in drawn.shown
        ]

    def goes_on(self, opening: Turn, text: str, *, with_box: bool = False) -> str:
        """What it writes after `opening` and `text`; with_box: the first token of it begins a box."""
        import torch

        patches, grids = map(torch.from_numpy, self.views.patches(opening.images))
        ids = [*opening.token_ids, *self.chat.encode(text)]
        start, number = len(ids), BOX_TOKENS if with_box else ANSWER_TOKENS
        with torch.inference_mode():
            while len(ids) < start + number and ids[-1] != self.chat.end_of_turn:
                positions = self.chat.rope_positions(ids, [tuple(grid) for grid in grids.tolist()])
                output = self.model(
                    input_ids=torch.tensor([ids]),
                    pixel_values=patches,
                    image_grid_thw=grids,
                    position_ids=torch.from_numpy(positions)[:, None],
                    use_cache=False,
                    logits_to_keep=1,
                )
                logits = output.logits[0, -1]
                begins = with_box and len(ids) == start
                ids.append(self.box_tokens[int(logits[self.box_tokens].argmax())] if begins else int(logits.argmax()))
        return self.chat.decode(ids[start:])


def _places(base: Base, config: RunConfig, progress: Progress) -> list[Figure]:
    stills = {name: share for name, share in config.world.mix.items() if share > 0 and name not in (*CLIPS, *PLAIN)}
    world = World(replace(config.world, mix=stills), base.store)
    errors: list[float] = []
    index = 0
    while len(errors) < NUM_PLACES:
        drawn = world.draw("test", index)[1]
        index += 1
        if drawn.named:
            named, side = drawn.named[index % len(drawn.named)], len(drawn.pictures[0])
            opening = base.chat.pictures(base.seen(drawn), None)
            written = _BOX.match(base.goes_on(opening, f" {named.words}", with_box=True))
            errors.append(_miss([int(value) for value in written.groups()] if written else None, named.box, side))
            progress.update(len(errors))
    return [
        Figure(
            name="base_places_median_error",
            value=statistics.median(errors),
            unit="of the side",
            target=MAX_ERROR,
            better="lower",
        ),
        Figure(name="base_places_within_tenth", value=sum(error <= 0.1 for error in errors) / len(errors), unit=""),
    ]


def _miss(written: Sequence[int] | None, box: Sequence[int], side: int) -> float:
    """The distance of two boxes' centres, the first on the grid, as a share of the side; infinite without a first."""
    if written is None:
        return math.inf
    x, y = ((written[at] + written[at + 2]) / 2 / GRID for at in (0, 1))
    u, v = ((box[at] + box[at + 2]) / 2 / side for at in (0, 1))
    return math.hypot(x - u, y - v)


def _answers(base: Base, config: RunConfig, family: str) -> Figure:
    world = World(replace(config.world, mix={family: 1.0}), base.store)
    drawn = [world.draw("test", index)[1] for index in range(NUM_PLAIN if family in PLAIN else NUM_GUESSES)]
    right = sum(_score(base, it) for it in drawn) / len(drawn)
    if family in PLAIN:
        return Figure(name=f"base_plain_{family}", value=right, unit="")
    above = right - best_constant(drawn)
    return Figure(name=f"base_guess_{family}", value=above, unit="above", target=MAX_ABOVE, better="lower")


def _score(base: Base, drawn: Drawn) -> float:
    """The score of what it answers at once."""
    query = Query(query_id="bench", question=drawn.question)
    opening = base.chat.question(query, base.seen(drawn)) if not drawn.times_s else _asked_of_clip(base, drawn)
    answer = base.goes_on(opening, ANSWER_OPENS).split(ANSWER_CLOSES)[0]
    task = Task(query=query, answer=drawn.answer, kind=drawn.kind, family="", split="test", chain=())
    return score(answer, task)


def _asked_of_clip(base: Base, drawn: Drawn) -> Turn:
    views = base.seen(drawn)
    frames = tuple(views[0] for _ in drawn.pictures)  # only names and times of frames are written
    clip = Clip(frames=frames, times_s=drawn.times_s, shown=drawn.shown)
    return base.chat.question(Query(query_id="bench", question=drawn.question, clip=clip), views)
