"""What a log says was erased: known before the walk, because what went lies before the record that says so."""

from __future__ import annotations

from dataclasses import dataclass, field

from common.errors import ContractError
from replay.audit.findings import Findings
from replay.frames import TOMBSTONE
from replay.reading import Entry, Reading
from replay.records import Erase, Erased, Kind, decode


@dataclass(slots=True)
class Erasures:
    """gone: records that finished erasures name. going: those that one which was begun and not finished names.

    groups: of their rollouts. gone_media, going_media: pictures that only they showed; those that are gone with the
    time when the segment was begun that says so, in nanoseconds since 1970.
    """

    gone: set[int] = field(default_factory=set)
    going: set[int] = field(default_factory=set)
    groups: set[str] = field(default_factory=set)
    gone_media: dict[str, int] = field(default_factory=dict)
    going_media: set[str] = field(default_factory=set)

    def check(self, entry: Entry, found: Findings) -> None:
        """A record is a tombstone where an erasure says so, and nowhere else."""
        sequence = entry.place.sequence
        if entry.kind == TOMBSTONE and sequence not in self.gone and sequence not in self.going:
            found.add("erased", f"record {sequence} is erased, and no erasure names it", entry.place)
        elif entry.kind != TOMBSTONE and sequence in self.gone:
            found.add("erased", f"record {sequence} was erased by what the log says; it still lies there", entry.place)


def read_erasures(log: Reading, found: Findings) -> Erasures:
    """Those of the whole log. One that was begun and not finished is noted: the next opening finishes it."""
    known = Erasures()
    begun = {segment.name: segment.created_ns for segment in log.held}
    for entry in log.entries(kinds=frozenset({Kind.ERASE, Kind.ERASED})):
        try:
            record = decode(entry.kind, bytes(entry.body))
        except ContractError:  # the walk says so
            continue
        if isinstance(record, Erase):
            known.going, known.going_media = set(record.sequences), set(record.media)
            known.groups.update(record.group_ids)
        elif isinstance(record, Erased):
            known.gone.update(record.sequences)
            known.groups.update(record.group_ids)
            known.gone_media |= dict.fromkeys(known.going_media, begun[entry.place.segment])
            known.going, known.going_media = set(), set()
    if known.going:
        found.note(f"an erasure of {len(known.going)} records is not finished; the next opening finishes it")
    return known
