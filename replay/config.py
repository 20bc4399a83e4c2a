"""Configuration of the replay: values, units and checks. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Durability:
    """When an acknowledgement may be given.

    mode: "always", one fdatasync a record; "group", one for all records that arrive while the last one runs and in the
    `group_ms` after it; "os", none: UNSAFE, a power cut loses acknowledged records (a killed process loses none).
    group_ms: milliseconds a group waits for company. group_bytes: a group of this size waits no longer.
    """

    mode: Literal["always", "group", "os"] = "group"
    group_ms: float = 1.0
    group_bytes: int = 1 << 20

    def __post_init__(self) -> None:
        if self.mode not in ("always", "group", "os"):
            raise ValueError(f"durability.mode must be always, group or os, got {self.mode}")
        if not 0 <= self.group_ms <= 10_000:
            raise ValueError(f"durability.group_ms must be in [0, 10000], got {self.group_ms}")
        if self.group_bytes < 1:
            raise ValueError(f"durability.group_bytes must be at least 1, got {self.group_bytes}")


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexConfig:
    """The neighbour index. encoder: digest of the frozen encoder. dimension: length of its vectors."""

    encoder: str
    dimension: int

    def __post_init__(self) -> None:
        if self.dimension < 1:
            raise ValueError(f"index.dimension must be at least 1, got {self.dimension}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayConfig:
    """A replay under `folder`: log/ (the truth), media/ (pictures by content), index/ (derived, may be deleted).

    live_media: the node's store in shared memory that rollouts refer to; None when rollouts refer to nothing that must
    be kept. in_order: draw groups strictly by number, waiting for the lowest (bit-identical runs; no group ever
    expires); otherwise the oldest complete groups. drop_zero_variance: spend groups whose answers all scored the same
    instead of learning from them (their advantages are zero unless another signal tells them apart).
    """

    folder: Path
    live_media: Path | None = None
    segment_bytes: int = 64 << 20
    durability: Durability = field(default_factory=Durability)
    in_order: bool = False
    drop_zero_variance: bool = True
    index: IndexConfig | None = None

    def __post_init__(self) -> None:
        if self.segment_bytes < 4096:
            raise ValueError(f"segment_bytes must be at least 4096, got {self.segment_bytes}")
