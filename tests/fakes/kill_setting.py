"""What a round of kills is about: how its replay is configured and used, drawn from its number."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from replay.config import Drawing, Durability, IndexConfig, ReplayConfig, Retention

THEMES = ("log", "snapshot", "media", "index", "retention", "erasure")
PHASE = "rft"
DIMENSION = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """theme: where most of its failpoints lie. named: producers name their groups and live on when others are killed;
    otherwise a kill ends everybody. votes, media: whether groups are voted over, whether rollouts show pictures.
    """

    number: int
    theme: str
    num_producers: int
    group_size: int
    groups_per_step: int
    lag: int
    votes: bool
    named: bool
    media: bool
    durability: Durability
    drawing: Drawing
    segment_bytes: int
    snapshot_bytes: int
    keep_draws: int
    drop_zero_variance: bool
    inspectors: int

    @classmethod
    def of(cls, number: int) -> Setting:
        draw = random.Random(f"kills/{number}/setting")
        theme = THEMES[number % len(THEMES)]
        lag, groups_per_step = draw.randint(0, 2), draw.randint(1, 2)
        mode: Literal["always", "group", "os"] = draw.choice(("always", "group", "group", "group", "os"))
        return cls(
            number=number,
            theme=theme,
            num_producers=draw.randint(1, 3),
            group_size=draw.randint(2, 3),
            groups_per_step=groups_per_step,
            lag=lag,
            votes=draw.random() < 0.25,
            named=draw.random() < 0.7,
            media=theme in ("media", "retention", "erasure") or draw.random() < 0.3,
            durability=Durability(mode=mode, group_ms=draw.choice((0.0, 0.5, 2.0))),
            drawing=_drawing(draw, groups_per_step),
            segment_bytes=draw.choice((16, 32, 64)) << 10,
            snapshot_bytes=draw.choice((16, 48)) << 10,
            keep_draws=draw.choice((6, 12, 1024)),
            drop_zero_variance=draw.random() < 0.5,
            inspectors=draw.choice((0, 1)),
        )

    def config(self, folder: Path) -> ReplayConfig:
        """Of the replay in `folder`/replay."""
        return ReplayConfig(
            folder=folder / "replay",
            live_media=folder / "live" if self.media else None,
            segment_bytes=self.segment_bytes,
            snapshot_bytes=self.snapshot_bytes,
            pack_bytes=4096,
            keep_draws=self.keep_draws,
            durability=self.durability,
            drawing=self.drawing,
            retention=Retention(keep_bytes=1 << 15 if self.theme == "retention" else 0),
            drop_zero_variance=self.drop_zero_variance,
            inspectors=self.inspectors,
            index=IndexConfig(encoder="e1", dimension=DIMENSION) if self.theme in ("index", "erasure") else None,
        )

    @property
    def phase(self) -> dict[str, Any]:
        """What the phase is begun with."""
        return {
            "phase": PHASE,
            "groups_per_step": self.groups_per_step,
            "max_policy_lag": self.lag,
            "votes": self.votes,
        }


def _drawing(draw: random.Random, groups_per_step: int) -> Drawing:
    selector = draw.choice(("fifo", "fifo", "in_order", "uniform", "windowed", "prioritised", "mixture"))
    max_reuse = draw.choice((1, 1, 2, 3))
    return Drawing(
        selector=selector,  # type: ignore[arg-type]
        seed=draw.randrange(100),
        max_reuse=max_reuse,
        samples_per_insert=draw.choice((1.0, float(max_reuse))),
        window=groups_per_step + 2,
        fresh=0.5 if max_reuse > 1 else 1.0,
    )
