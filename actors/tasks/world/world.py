"""The world: task number `index` of a split, with its truth and its plan.

A task is a function of (seed, split, index, shift); splits have streams of their own, so they never meet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from actors.tasks.config import WorldConfig
from actors.tasks.plan import Plan
from actors.tasks.shifts import Shift, developed
from actors.tasks.world import clips, measures, plates
from actors.tasks.world.drawn import Drawn, Family, Pixels, written_box
from common.errors import ConfigError
from common.media import FolderMediaStore, put_image
from common.seeds import stream
from common.types import Clip, Query, Task

SPLITS = ("train", "validation", "test", "index", "pretrain")
UNSEEN = "unseen"
"""The split of the combinations that `world.held_out` keeps from all others."""
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
        self._families = _shares(config.mix)
        held = {name.split()[0] for name in config.held_out}
        self._unseen = _shares({name: share for name, share in config.mix.items() if name in held})

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
        families = self._unseen if split == UNSEEN else self._families
        if split not in (*SPLITS, UNSEEN):
            raise ConfigError(f"split must be one of {', '.join((*SPLITS, UNSEEN))}, got {split!r}")
        if not families:
            raise ConfigError(f"split {UNSEEN} is empty: world.held_out names no combination that world.mix asks for")
        crowd, change = num_plates or self._config.num_plates, Shift.parse(shift)
        random = stream(self._config.seed, "world", split, index, *crowd)
        family = str(random.choice(list(families), p=list(families.values())))
        while True:
            drawn = FAMILIES[family](random, self._config, crowd, change)
            if drawn is not None and self._is_held_out(family, drawn) == (split == UNSEEN):
                lens = stream(self._config.seed, "lens", split, index)
                pictures = tuple(developed(pixels, change, lens) for pixels in drawn.pictures)
                return family, replace(drawn, pictures=pictures)

    def _is_held_out(self, family: str, drawn: Drawn) -> bool:
        words = drawn.question.replace("?", "").split()
        return any(f"{family} {word}" in self._config.held_out for word in words)

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


def _shares(mix: Mapping[str, float]) -> dict[str, float]:
    """The families that are asked for, with shares that add up to 1."""
    total = sum(mix.values())
    return {name: share / total for name, share in mix.items() if share > 0}
