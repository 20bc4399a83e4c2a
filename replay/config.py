"""Configuration of the replay: values, units and checks. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

MAX_INSPECTORS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Durability:
    """When an acknowledgement may be given.

    mode: "always", one fdatasync a record; "group", one for all records that arrive while the last one runs and in the
    `group_ms` after it; "os", none: UNSAFE, a power cut loses acknowledged records (a killed process loses none).
    group_ms: milliseconds that a group waits for company besides; more syncs less and answers later. group_bytes: a
    group of this size waits no longer.
    """

    mode: Literal["always", "group", "os"] = "group"
    group_ms: float = 0.0
    group_bytes: int = 1 << 20

    def __post_init__(self) -> None:
        if self.mode not in ("always", "group", "os"):
            raise ValueError(f"durability.mode must be always, group or os, got {self.mode}")
        if not 0 <= self.group_ms <= 10_000:
            raise ValueError(f"durability.group_ms must be in [0, 10000], got {self.group_ms}")
        if self.group_bytes < 1:
            raise ValueError(f"durability.group_bytes must be at least 1, got {self.group_bytes}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """How draws choose among the groups that are ready and within the policy lag (replay/selectors, replay/limiter).

    selector: "fifo", the lowest numbers; "in_order", the same and wait for the lowest (bit-identical runs; no group
    ever expires); "uniform"; "prioritised", by the spread of the siblings' scores to the power `exponent`; "windowed",
    uniform over the `window` newest; "mixture", the share `fresh` of a draw never drawn before, the rest drawn before.
    seed: of the random ones. max_reuse: how often a group may be drawn. samples_per_insert: how often it should be on
    average, in [1, max_reuse]. min_groups: a draw waits for so many ready groups. error_budget: groups that acting may
    be ahead beyond what the lag asks for.
    """

    selector: Literal["fifo", "in_order", "uniform", "prioritised", "windowed", "mixture"] = "fifo"
    seed: int = 0
    max_reuse: int = 1
    samples_per_insert: float = 1.0
    min_groups: int = 0
    error_budget: int = 0
    exponent: float = 1.0
    window: int = 0
    fresh: float = 1.0

    def __post_init__(self) -> None:
        if self.selector not in ("fifo", "in_order", "uniform", "prioritised", "windowed", "mixture"):
            raise ValueError(f"drawing.selector must be one that docs/replay.md lists, got {self.selector}")
        if self.max_reuse < 1:
            raise ValueError(f"drawing.max_reuse must be at least 1, got {self.max_reuse}: no group could be drawn")
        if not 1 <= self.samples_per_insert <= self.max_reuse:
            raise ValueError(
                f"drawing.samples_per_insert must be in [1, max_reuse = {self.max_reuse}], got "
                f"{self.samples_per_insert}: no group is drawn more often than max_reuse"
            )
        if min(self.min_groups, self.error_budget, self.window) < 0:
            raise ValueError("drawing.min_groups, drawing.error_budget and drawing.window must be at least 0")
        if self.exponent < 0:
            raise ValueError(f"drawing.exponent must be at least 0, got {self.exponent}")
        if not 0 <= self.fresh <= 1:
            raise ValueError(f"drawing.fresh must be in [0, 1], got {self.fresh}")
        if self.selector == "mixture" and self.fresh < 1 and self.max_reuse == 1:
            raise ValueError(
                f"drawing.fresh = {self.fresh} asks for groups that were drawn before, and max_reuse = 1 leaves none: "
                "raise max_reuse, or set fresh to 1"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexConfig:
    """The neighbour index. encoder: digest of the frozen encoder. dimension: length of its vectors.

    max_entries: queries that are remembered; of more, those remembered longest ago are forgotten. merge_entries: of so
    many new entries in memory, a process makes a new main part. ivf_entries: from so many on the main part is an
    inverted file (IVF) instead of flat. num_probes: lists of it that a search looks into.
    """

    encoder: str
    dimension: int
    max_entries: int = 1_000_000
    merge_entries: int = 16_384
    ivf_entries: int = 200_000
    num_probes: int = 16

    def __post_init__(self) -> None:
        for name in ("dimension", "max_entries", "merge_entries", "ivf_entries", "num_probes"):
            if getattr(self, name) < 1:
                raise ValueError(f"index.{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """What is kept of rollouts that nothing asks for any more: 0 keeps all of them.

    keep_bytes: while the log is larger, the oldest are pruned to their keys. keep_age_s: so are those in segments that
    were begun longer ago, in seconds. Pictures that no other rollout shows go with them.
    """

    keep_bytes: int = 0
    keep_age_s: float = 0.0

    def __post_init__(self) -> None:
        if self.keep_bytes < 0 or self.keep_age_s < 0:
            raise ValueError("retention.keep_bytes and retention.keep_age_s must be at least 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayConfig:
    """A replay under `folder`: log/ (the truth), media/ (pictures by content), index/ (derived, may be deleted).

    live_media: the node's store in shared memory that rollouts refer to; None when rollouts refer to nothing that must
    be kept. segment_bytes, segment_age_s: a log segment is ended at this size or age (0: at no age). snapshot_bytes: a
    snapshot is taken after so many bytes of log, and at a clean stop. pack_bytes: of a file of media. keep_draws: how
    many draws can be taken back or asked for again; older ones are forgotten, and a learner cannot be restored to
    before them. retention: what opening prunes. drop_zero_variance: spend groups whose answers all scored the same
    instead of learning from them (their advantages are zero unless another signal tells them apart). inspectors:
    processes that look at what comes (replay/inspector); 0: the replay's own does, which is slower with many actors.
    """

    folder: Path
    live_media: Path | None = None
    segment_bytes: int = 64 << 20
    segment_age_s: float = 0.0
    snapshot_bytes: int = 64 << 20
    pack_bytes: int = 256 << 20
    keep_draws: int = 1024
    durability: Durability = field(default_factory=Durability)
    drawing: Drawing = field(default_factory=Drawing)
    retention: Retention = field(default_factory=Retention)
    drop_zero_variance: bool = True
    index: IndexConfig | None = None
    inspectors: int = 0

    def __post_init__(self) -> None:
        for name in ("segment_bytes", "snapshot_bytes", "pack_bytes"):
            if getattr(self, name) < 4096:
                raise ValueError(f"{name} must be at least 4096, got {getattr(self, name)}")
        if self.segment_age_s < 0:
            raise ValueError(f"segment_age_s must be at least 0, got {self.segment_age_s}")
        if not 0 <= self.inspectors <= MAX_INSPECTORS:
            raise ValueError(f"inspectors must be in [0, {MAX_INSPECTORS}], got {self.inspectors}")
        if self.keep_draws < 1:
            raise ValueError(f"keep_draws must be at least 1, got {self.keep_draws}: a draw could not be repeated")
