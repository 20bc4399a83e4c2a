"""The records of the log: what happened, in the order in which it happened.

A rollout's body is its Arrow stream as it came (common/schema). Every other body is JSON text of one of the values
below, so a log can be read by eye. Kinds are numbers in the frames' headers and are never given a second meaning.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

import msgspec

from common.columns import RolloutKeys
from common.errors import ContractError
from common.types import Consensus
from replay.config import Drawing
from replay.frames import PRUNED, Bytes


class Kind(IntEnum):
    """0 is the seal of a segment (replay/frames)."""

    ROLLOUT = 1
    BEGIN = 2
    ADMIT = 3
    SETTLE = 4
    SPEND = 5
    EXPIRE = 6
    DRAW = 7
    ADVANCE = 8
    REWIND = 9
    EXPERIENCE = 10
    RELEASE = 11
    ERASE = 12
    ERASED = 13
    PRUNED = PRUNED


@dataclass(frozen=True, slots=True, kw_only=True)
class Begin:
    """A phase begins: counters start at 0, and what the phase before left undrawn is spent ("phase_over").

    step: the learner's step now, the first it will draw for. version: the policy version it has published.
    votes: a group must be settled by a consensus before it is drawn. drawing: how draws choose; None in logs of
    format 1, where it was not recorded and every group was drawn once.
    """

    phase: str
    groups_per_step: int
    max_policy_lag: int
    votes: bool
    step: int
    version: int
    drawing: Drawing | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Admit:
    """Group `number` of the phase may start."""

    number: int
    group_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Settle:
    """A vote was taken over a group."""

    consensus: Consensus


@dataclass(frozen=True, slots=True, kw_only=True)
class Spend:
    """A group will not be drawn, for this reason; its credit returns."""

    group_id: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Expire:
    """A group is older than the bound at the draw for `step`; its credit returns. lag: None for one of an earlier
    phase's policy.
    """

    group_id: str
    step: int
    lag: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """The groups handed out for `step`. sequences: the log's numbers of their rollouts, in the order of the rows.

    watermark: the last record that the decision knew of. lag: the greatest policy lag among them, in learner steps.
    """

    step: int
    watermark: int
    group_ids: tuple[str, ...]
    rollout_ids: tuple[str, ...]
    sequences: tuple[int, ...]
    lag: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Advance:
    """The learner stands at `step` and has published `version`."""

    step: int
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewind:
    """The learner was restored to `step`: draws for it and later ones are taken back. version: the one it serves.

    orphans: groups without all their rollouts or their vote were given up, because whoever filled them is gone.
    """

    step: int
    version: int
    orphans: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Experience:
    """Something remembered for `nearest`. vector: float32, little-endian, made by `encoder` (its digest).

    source: whom it came from, and whether that is trusted. version: of the policy that acted. Records of before these
    fields have none of them.
    """

    query_id: str
    family: str
    chain: tuple[str, ...]
    answer: str | None
    confidence: float
    encoder: str
    vector: bytes
    source: str = ""
    trusted: bool = False
    version: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """The learner is never restored to a step before `step`: earlier draws can be forgotten."""

    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Erase:
    """A source is being erased: these records go, and these pictures unless another rollout shows them.

    source: blake3 of its name, so that the log need not say it. group_ids: of its rollouts. sequences: of everything
    that says something of it (rollouts, votes over their groups, experiences); num_rollouts of them are rollouts.
    """

    source: str
    group_ids: tuple[str, ...]
    sequences: tuple[int, ...]
    num_rollouts: int
    media: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Erased:
    """What the Erase before it asked for is done: tombstones stand in for the records."""

    group_ids: tuple[str, ...]
    sequences: tuple[int, ...]
    num_rollouts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What is left of a rollout that nothing asks for any more: what the fold needs of it, and what an erasure does.

    source: whom its query came from; "" in records of before this field.
    """

    rollout_id: str
    producer: str
    epoch: int
    sequence: int
    group_id: str
    group_size: int
    phase: str
    oldest_version: int | None
    score: float | None
    quarantined: bool
    query_id: str
    source: str = ""

    def keys(self) -> RolloutKeys:
        """Without media: none is kept for it."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "query_id"}
        return RolloutKeys(**fields, media=())


Record: TypeAlias = (
    Begin | Admit | Settle | Spend | Expire | Drawn | Advance | Rewind | Experience | Release | Erase | Erased | Pruned
)

_TYPES: dict[Kind, type[Record]] = {
    Kind.BEGIN: Begin,
    Kind.ADMIT: Admit,
    Kind.SETTLE: Settle,
    Kind.SPEND: Spend,
    Kind.EXPIRE: Expire,
    Kind.DRAW: Drawn,
    Kind.ADVANCE: Advance,
    Kind.REWIND: Rewind,
    Kind.EXPERIENCE: Experience,
    Kind.RELEASE: Release,
    Kind.ERASE: Erase,
    Kind.ERASED: Erased,
    Kind.PRUNED: Pruned,
}
_KINDS = {held: kind for kind, held in _TYPES.items()}


def encode(record: Record) -> tuple[Kind, bytes]:
    return _KINDS[type(record)], msgspec.json.encode(record)


def decode(kind: int, body: Bytes) -> Record:
    """Raises ContractError for an unknown kind or a body that is not of it."""
    if kind not in _TYPES:
        raise ContractError(f"a log record of unknown kind {kind}")
    try:
        return msgspec.json.decode(body, type=_TYPES[Kind(kind)])
    except msgspec.DecodeError as error:
        raise ContractError(f"a log record of kind {Kind(kind).name} cannot be read: {error}") from error
