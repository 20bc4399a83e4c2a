"""Settings of the procedural world."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

FAMILIES = ("text", "clip", "fill", "distance", "hop", "when", "event", "identity", "side", "count")
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "cyan", "pink")

MIX = {
    "text": 0.14,
    "clip": 0.14,
    "fill": 0.12,
    "distance": 0.12,
    "hop": 0.12,
    "when": 0.09,
    "event": 0.09,
    "identity": 0.11,
    "side": 0.04,
    "count": 0.03,
}
"""All families; the harder ones a little more often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldConfig:
    """The procedural world.

    seed: of every split; splits have streams of their own. side: pixels of a source picture.
    grid_step: written boxes are multiples of this on the 0–1000 grid, so siblings ask for the same crops.
    margin: pixels around a thing that a planned crop takes in. num_plates: fewest and most things in a picture.
    ground: behind the shapes, quiet or textured (plates always lie on a quiet one). num_static: patches of random
    pixels on the ground of a still, which teach nothing however long one looks. mix: family → share of the tasks;
    trace_mix: of the traces that are imitated, where it differs. withheld: the calls that traces leave out before
    they answer, and blank: every picture is grey; so one learns what looking, the question, or the calls before the
    last give away by themselves. held_out: combinations of a family and a colour, such as "text blue": questions of
    the family that name the colour are asked in the split `unseen` only, which asks no others. frames: of a clip of
    plates, all of them shown.
    """

    seed: int = 0
    side: int = 448
    grid_step: int = 50
    margin: int = 6
    num_plates: tuple[int, int] = (2, 4)
    frames: int = 3
    ground: Literal["quiet", "texture"] = "quiet"
    num_static: int = 0
    blank: bool = False
    withheld: Literal["none", "last", "all"] = "none"
    mix: dict[str, float] = field(default_factory=lambda: dict(MIX))
    trace_mix: dict[str, float] = field(default_factory=dict)
    held_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_mix("mix", self.mix)
        if self.trace_mix:
            _check_mix("trace_mix", self.trace_mix)
        if not 1 <= self.num_plates[0] <= self.num_plates[1] <= 4:
            raise ValueError(f"num_plates must be two numbers from 1 to 4 in order, got {self.num_plates}")
        if self.grid_step < 1 or 1000 % self.grid_step:
            raise ValueError(f"grid_step must divide 1000, got {self.grid_step}")
        for held in self.held_out:
            family, _, colour = held.partition(" ")
            if family not in FAMILIES or colour not in COLOURS:
                raise ValueError(f'held_out names a family and a colour, such as "text blue", got {held!r}')
        if self.num_static < 0:
            raise ValueError(f"num_static must not be negative, got {self.num_static}")


def _check_mix(name: str, mix: dict[str, float]) -> None:
    unknown = set(mix) - set(FAMILIES)
    if unknown:
        raise ValueError(f"{name} names unknown families {sorted(unknown)}; there are {', '.join(FAMILIES)}")
    if not mix or min(mix.values()) < 0 or sum(mix.values()) <= 0:
        raise ValueError(f"{name} must have shares that add up to more than 0, got {mix}")
