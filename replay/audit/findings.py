"""What an audit finds: broken laws with their place, and notes on what is no breach."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from replay.reading import Place

RULES: Mapping[str, str] = {
    "damage": "bytes that do not match their hash, chain or header",
    "gap": "numbers of records, segments or groups that are missing",
    "unreadable": "a record whose body is not what its kind says",
    "duplicate": "the same rollout, or the same group, kept twice",
    "group": "a draw of part of a group, of a group that may not be drawn, or of what the log does not hold",
    "reuse": "a rollout drawn more than max_reuse times in the surviving line",
    "lag": "a draw of what is older than the bound, or whose recorded lag is wrong",
    "not applied": "a draw of the surviving line that no step of the learner followed",
    "applied twice": "a draw that two steps of one line followed, or more than the log tells of",
    "no draw": "a step of the learner whose draw the log does not hold",
    "count": "rollouts that do not add up, or that the fold counts otherwise",
    "missing media": "media that a rollout refers to and the replay does not hold",
    "damaged media": "kept media whose bytes do not match their digest",
    "erased": "what an erased source still has there, or a tombstone that no erasure names",
    "snapshot": "a snapshot that opening would use, whose state is not that of the log",
    "index": "index entries without log entries, or the reverse, or with other vectors",
}
"""Every law that an audit can find broken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """A broken law. rule: of RULES. segment, byte, sequence: where, as far as it has a place."""

    rule: str
    what: str
    segment: str | None = None
    byte: int | None = None
    sequence: int | None = None


@dataclass(slots=True)
class Findings:
    """Collects what rules find. notes: worth knowing, and no breach."""

    violations: list[Violation] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, rule: str, what: str, place: Place | None = None) -> None:
        assert rule in RULES, rule
        if place is None:
            self.violations.append(Violation(rule=rule, what=what))
            return
        self.violations.append(
            Violation(rule=rule, what=what, segment=place.segment, byte=place.byte, sequence=place.sequence)
        )

    def note(self, what: str) -> None:
        self.notes.append(what)


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """Rollouts by what became of them. Law: inserted = live + spent + expired + quarantined + erased.

    spent: by reason, "drawn" among them.
    """

    inserted: int
    live: int
    spent: Mapping[str, int]
    expired: int
    quarantined: int
    erased: int

    @property
    def num_missing(self) -> int:
        """Rollouts that were inserted and became nothing; 0 where the law holds."""
        others = self.live + self.expired + self.quarantined + self.erased
        return self.inserted - others - sum(self.spent.values())

    @property
    def holds(self) -> bool:
        return not self.num_missing
