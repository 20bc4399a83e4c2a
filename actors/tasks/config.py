"""Settings of the procedural world."""

from __future__ import annotations

from dataclasses import dataclass, field

FAMILIES = ("text", "clip", "side", "count")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldConfig:
    """The procedural world.

    seed: of every split; splits have streams of their own. side: pixels of a source picture.
    grid_step: written boxes are multiples of this on the 0–1000 grid, so siblings ask for the same crops.
    margin: pixels around a plate that a planned crop takes in. num_plates: fewest and most in a picture.
    frames: of a clip, all of them shown. mix: family → share of the tasks.
    """

    seed: int = 0
    side: int = 448
    grid_step: int = 50
    margin: int = 6
    num_plates: tuple[int, int] = (2, 4)
    frames: int = 3
    mix: dict[str, float] = field(default_factory=lambda: {"text": 0.5, "clip": 0.25, "side": 0.15, "count": 0.10})

    def __post_init__(self) -> None:
        unknown = set(self.mix) - set(FAMILIES)
        if unknown:
            raise ValueError(f"mix names unknown families {sorted(unknown)}; there are {', '.join(FAMILIES)}")
        if not self.mix or min(self.mix.values()) < 0 or sum(self.mix.values()) <= 0:
            raise ValueError(f"mix must have shares that add up to more than 0, got {self.mix}")
        if not 1 <= self.num_plates[0] <= self.num_plates[1] <= 4:
            raise ValueError(f"num_plates must be two numbers from 1 to 4 in order, got {self.num_plates}")
        if self.grid_step < 1 or 1000 % self.grid_step:
            raise ValueError(f"grid_step must divide 1000, got {self.grid_step}")
