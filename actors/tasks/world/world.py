"""The world: task number `index` of a split, with its truth and its plan.

A task is a function of (seed, split, index, shift); splits have streams of their own, so they never meet.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from actors.tasks.config import WorldConfig
from actors.tasks.plan import Plan
from actors.tasks.shifts import Shift, developed
from actors.tasks.world import clips, measures, plates
from actors.tasks.world.drawn import Drawn, Family, Pixels, written_box
from common.media import FolderMediaStore, put_image
from common.seeds import stream
from common.types import Clip, Query, Task

SPLITS = ("train", "validation", "test", "index", "pretrain")
FAMILIES: dict[str, Family] = {
    "text": plates.text,
    "clip": plates.clip,
    "fill": measures.fill,
    "distance": measures.distance,
    "hop": measures.hop,
    "when": clips.when,
    "event": clips.event,
    "identity": clips.identity,
    "side": plates.side,
    "count": plates.count,
}


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
        return self._stored(*self.draw(split, index, shift=shift), split, index, shift)

    def plan(
        self, split: str, index: int, *, num_plates: tuple[int, int] | None = None, level: int | None = None
    ) -> Plan:
        """Task number `index` of `split` with the calls that solve it, at a level of the curriculum with so many
        things in a picture."""
        low, high = num_plates or self._config.num_plates
        family, drawn = self.draw(split, index, num_plates=num_plates)
        num_steps = {"none": len(drawn.steps), "last": len(drawn.steps) - 1, "all": 0}[self._config.withheld]
        return Plan(
            task=self._stored(family, drawn, split, index, f"{low}-{high}"),
            steps=drawn.steps[: max(num_steps, 0)],
            level=high if level is None else level,
            answer=drawn.copied if self._config.withheld == "none" else None,
            decoys=self._decoys(drawn),
        )

    def _decoys(self, drawn: Drawn) -> tuple[tuple[int, int, int, int], ...]:
        """Boxes of what the first picture shows and the question does not name: where a trap looks first."""
        asked = drawn.question.replace("?", "").split()
        return tuple(
            written_box(named.box, self._config, side=len(drawn.pictures[named.frame]))
            for named in drawn.named
            if named.frame == drawn.shown[0] and named.colour not in asked
        )

    def draw(
        self, split: str, index: int, *, num_plates: tuple[int, int] | None = None, shift: str = ""
    ) -> tuple[str, Drawn]:
        """The family and what was drawn, before it is stored."""
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        crowd, change = num_plates or self._config.num_plates, Shift.parse(shift)
        random = stream(self._config.seed, "world", split, index, *crowd)
        family = str(random.choice(self._families, p=self._shares))
        while True:
            drawn = FAMILIES[family](random, self._config, crowd, change)
            if drawn is not None:
                lens = stream(self._config.seed, "lens", split, index)
                pictures = tuple(developed(pixels, change, lens) for pixels in drawn.pictures)
                return family, replace(drawn, pictures=pictures)

    def _stored(self, family: str, drawn: Drawn, split: str, index: int, variant: str) -> Task:
        pictures = [_grey(pixels) for pixels in drawn.pictures] if self._config.blank else drawn.pictures
        refs = tuple(put_image(self._store, pixels) for pixels in pictures)
        query_id = "-".join(filter(None, (split, str(index), variant)))
        if drawn.times_s:
            clip = Clip(frames=refs, times_s=drawn.times_s, shown=drawn.shown)
            query = Query(query_id=query_id, question=drawn.question, clip=clip)
        else:
            query = Query(query_id=query_id, question=drawn.question, images=refs)
        return Task(
            query=query,
            answer=drawn.answer,
            kind=drawn.kind,
            family=family,
            split=split,
            chain=tuple(step.call.name for step in drawn.steps),
        )


def _grey(pixels: Pixels) -> Pixels:
    return np.full_like(pixels, 127)
