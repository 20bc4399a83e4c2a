"""What a log holds, in numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from common.columns import RolloutKeys
from common.errors import ContractError
from common.schema import rollout_keys, rollout_table
from replay.audit.media import MediaCount, References, kept_media
from replay.reading import Entry, SegmentInfo, kind_name, read_log
from replay.records import Kind, Pruned, decode


@dataclass(frozen=True, slots=True, kw_only=True)
class KindCount:
    """num_bytes: of the bodies."""

    num_records: int
    num_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """kinds: by name, in the order of their numbers. families: rollouts, but for those
    pruned to their keys. phases: rollouts. versions: rollouts by the oldest
    policy version of their tokens; "none" where nothing was sampled. lost_records, torn_bytes,
    unreadable (rollouts): an audit says which.
    """

    folder: str
    segments: tuple[SegmentInfo, ...]
    num_bytes: int
    num_records: int
    lost_records: int
    torn_bytes: int
    unreadable: int
    kinds: Mapping[str, KindCount]
    families: Mapping[str, int]
    phases: Mapping[str, int]
    versions: Mapping[str, int]
    media: MediaCount


@dataclass(slots=True)
class _Counts:
    records: Counter[int] = field(default_factory=Counter)
    bytes_: Counter[int] = field(default_factory=Counter)
    families: Counter[str] = field(default_factory=Counter)
    phases: Counter[str] = field(default_factory=Counter)
    versions: Counter[int | None] = field(default_factory=Counter)
    references: References = field(default_factory=References)
    unreadable: int = 0

    def take(self, entry: Entry) -> None:
        self.records[entry.kind] += 1
        self.bytes_[entry.kind] += len(entry.body)
        body = bytes(entry.body)
        try:
            if entry.kind == Kind.PRUNED:
                pruned = decode(entry.kind, body)
                assert isinstance(pruned, Pruned)
                self._count(pruned.keys(), entry)
            if entry.kind != Kind.ROLLOUT:
                return
            for keys, family in zip(rollout_keys(body), rollout_table(body)["family"].to_pylist(), strict=True):
                self.families[family] += 1
                self._count(keys, entry)
        except ContractError:
            self.unreadable += 1

    def _count(self, keys: RolloutKeys, entry: Entry) -> None:
        self.phases[keys.phase] += 1
        self.versions[keys.oldest_version] += 1
        self.references.add(keys, entry.place)


def survey(folder: Path) -> Survey:
    """Count what the replay in `folder` holds. Raises RunFolderError where there is no log."""
    kept = kept_media(folder)
    log = read_log(folder / "log")
    counts = _Counts()
    for entry in log.entries():
        counts.take(entry)
    return Survey(
        folder=str(folder),
        segments=log.segments,
        num_bytes=log.num_bytes,
        num_records=counts.records.total(),
        lost_records=sum(loss.stop_sequence - loss.first_sequence for loss in log.losses),
        torn_bytes=0 if log.torn is None else log.torn.stop - log.torn.start,
        unreadable=counts.unreadable,
        kinds={
            kind_name(kind): KindCount(num_records=number, num_bytes=counts.bytes_[kind])
            for kind, number in sorted(counts.records.items())
        },
        families=dict(sorted(counts.families.items())),
        phases=dict(counts.phases),
        versions={
            "none" if version is None else str(version): number
            for version, number in sorted(counts.versions.items(), key=lambda item: (item[0] is None, item[0] or 0))
        },
        media=counts.references.count(kept),
    )
