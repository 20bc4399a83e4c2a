"""The audit: one walk over the log, past every rule.

It verifies every hash and chain, accounts for every rollout on its own and compares that with the fold, and follows
every draw to the step of the learner that applied it. It writes nothing and takes no lock. Memory grows with what must
be remembered to see a second one: some hundred bytes for each rollout of the phase under way, each distinct picture
and each experience, and a number for every rollout there ever was.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow.compute as pc

from common.columns import RolloutKeys
from common.errors import ContractError
from common.schema import rollout_keys, rollout_table
from replay.audit.arrivals import Arrivals
from replay.audit.draws import Draws
from replay.audit.erasures import Erasures, read_erasures
from replay.audit.findings import Balance, Findings, Violation
from replay.audit.ledger import Ledger
from replay.audit.lines import Learned, Lines
from replay.audit.media import MediaCount, References, check_media, kept_media
from replay.audit.neighbours import Experiences, SavedIndex, Unusable, read_index
from replay.audit.shadow import Shadow
from replay.audit.snapshots import Snapshots
from replay.frames import TOMBSTONE
from replay.reading import Entry, Place, Reading, read_log
from replay.records import Admit, Advance, Begin, Drawn, Experience, Kind, Pruned, Record, Rewind, decode


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What an audit came to. num_draws: those of the log, taken back ones included."""

    folder: str
    num_segments: int
    num_bytes: int
    num_records: int
    num_draws: int
    num_experiences: int
    balance: Balance
    media: MediaCount
    violations: tuple[Violation, ...]
    notes: tuple[str, ...]

    @property
    def clean(self) -> bool:
        return not self.violations


def audit_replay(folder: Path, *, learned: Learned | None = None, needs_media: bool | None = None) -> Audit:
    """Audit the replay in `folder` (log/, media/, index/).

    learned: what the learner's side says, read before this is called. needs_media: the replay keeps the media of its
    rollouts; by default it does where it has a folder for them. Raises RunFolderError where there is no log, or one of
    another format.
    """
    found = Findings()
    keeps = (folder / "media").is_dir() if needs_media is None else needs_media
    kept = kept_media(folder)
    index = read_index(folder)
    log = read_log(folder / "log")
    _check_segments(log, found)
    erasures = read_erasures(log, found)
    walk = _Walk(found, erasures, Snapshots(folder / "log", found))
    num_records = 0
    for entry in log.entries():
        num_records += 1
        walk.take(entry)
    walk.lose(sum(loss.kinds.count(Kind.ROLLOUT) + loss.kinds.count(Kind.PRUNED) for loss in log.losses))
    balance = walk.end(learned or Learned())
    if keeps:
        pruned = not log.as_it_was
        check_media(folder, kept, walk.references, erasures, found, pruned=pruned)
    elif walk.references.count(kept).num_referred:
        found.note("this replay keeps no media: what its rollouts refer to is not checked")
    _check_index(index, walk.experiences, found, closed=_closed(log))
    return Audit(
        folder=str(folder),
        num_segments=len(log.segments),
        num_bytes=log.num_bytes,
        num_records=num_records,
        num_draws=walk.num_draws,
        num_experiences=len(walk.experiences),
        balance=balance,
        media=walk.references.count(kept),
        violations=tuple(found.violations),
        notes=tuple(found.notes),
    )


class _Walk:
    """Hands every record to every rule, in order."""

    def __init__(self, found: Findings, erasures: Erasures, snapshots: Snapshots) -> None:
        self._found = found
        self._erasures = erasures
        self._snapshots = snapshots
        self._ledger = Ledger()
        self._shadow = Shadow(found)
        self._arrivals = Arrivals(found)
        self._draws = Draws(found, erasures)
        self._lines = Lines(found)
        self.references = References()
        self.experiences = Experiences()
        self._inserted = 0

    @property
    def num_draws(self) -> int:
        return self._ledger.num_draws

    def take(self, entry: Entry) -> None:
        body = bytes(entry.body)
        self._inserted += entry.was == Kind.ROLLOUT
        self._snapshots.check(entry.place.sequence, self._shadow.state)
        self._erasures.check(entry, self._found)
        try:
            if entry.kind == TOMBSTONE:
                self._tombstone(entry)
            elif entry.kind == Kind.ROLLOUT:
                self._rollout(_keys(body), entry.place)
            else:
                self._record(decode(entry.kind, body), entry.place)
        except ContractError as error:
            self._found.add("unreadable", str(error), entry.place)

    def lose(self, num_rollouts: int) -> None:
        self._snapshots.check(None, self._shadow.state)
        self._inserted += num_rollouts
        self._ledger.lose(num_rollouts)
        self._shadow.lose(num_rollouts)

    def end(self, learned: Learned) -> Balance:
        self._arrivals.end(len(self._ledger.erased))
        self._lines.end(learned)
        balance = self._ledger.balance(self._inserted)
        if not balance.holds:
            others = balance.inserted - balance.num_missing
            what = (
                f"{balance.inserted} rollouts were inserted; {others} are live, spent, expired, quarantined or erased"
            )
            self._found.add("count", what)
        self._shadow.compare(balance, num_going=len(self._ledger.erased & self._erasures.going))
        return balance

    def _rollout(self, keys: RolloutKeys, place: Place) -> None:
        self._arrivals.rollout(keys, place, self._ledger)
        self.references.add(keys, place)
        self._ledger.arrive(keys, place.sequence)
        self._shadow.arrive(keys, place)

    def _tombstone(self, entry: Entry) -> None:
        if entry.was == Kind.ROLLOUT:
            self._ledger.erase(entry.place.sequence)

    def _record(self, record: Record, place: Place) -> None:
        match record:
            case Pruned():
                self._rollout(record.keys(), place)
                return
            case Experience():
                self.experiences.add(record, place)
            case Begin():
                self._arrivals.begin(record)
                self._lines.begin(record, place)
            case Admit():
                self._arrivals.admit(record, place, self._ledger)
            case Drawn():
                self._draws.draw(record, place, self._ledger)
                self._lines.draw(record, place)
            case Advance():
                self._lines.advance(record, place)
            case Rewind():
                self._lines.rewind(record, place)
        self._ledger.take(record)
        self._shadow.take(record, place)


def _keys(body: bytes) -> RolloutKeys:
    """The keys of a record's one rollout, its oldest version read from the spans themselves. Raises ContractError."""
    found = rollout_keys(body)
    if len(found) != 1:
        raise ContractError(f"a record of {len(found)} rollouts instead of one")
    turns = rollout_table(body)["turns"].combine_chunks().flatten()
    oldest = pc.min(turns.field("versions").flatten().field("version")).as_py()
    if oldest != found[0].oldest_version:
        raise ContractError(
            f"rollout {found[0].rollout_id} says its oldest version is {found[0].oldest_version}; its tokens are of "
            f"{oldest}"
        )
    return found[0]


def _check_segments(log: Reading, found: Findings) -> None:
    """Every byte matches its hash and chain, records and segments have no gaps, writers came one after another."""
    for loss in log.losses:
        lost = loss.stop_sequence - loss.first_sequence
        place = Place(segment=loss.segment, byte=loss.start, sequence=loss.first_sequence)
        records = f"records {loss.first_sequence} to {loss.stop_sequence - 1}" if lost else "no record"
        if loss.stop > loss.start:
            what = f"bytes {loss.start} to {loss.stop} do not match their hash or chain: {records} lost"
            found.add("damage", what, place)
        elif lost:
            found.add("gap", f"{records} are missing", place)
        else:
            found.add("damage", "the chain is broken here: what came before is not what was written", place)
    for before, after in zip(log.segments, log.segments[1:], strict=False):
        place = Place(segment=after.name, byte=0, sequence=after.first_sequence)
        if int(after.name.split(".")[0]) != int(before.name.split(".")[0]) + 1:
            found.add("gap", f"segments between {before.name} and {after.name} are missing", place)
        if before.epoch is not None and after.epoch is not None and after.epoch < before.epoch:
            what = f"writer {after.epoch} wrote after writer {before.epoch}: an older one was not fenced"
            found.add("damage", what, place)
    for segment in log.segments:
        if segment.index is not None and segment.index != int(segment.name.split(".")[0]):
            place = Place(segment=segment.name, byte=0, sequence=segment.first_sequence)
            found.add("damage", f"its header says it is segment {segment.index}", place)
    if log.torn is not None:
        torn = log.torn
        found.note(
            f"{torn.segment}: bytes {torn.start} to {torn.stop} are a torn tail, which nobody was promised; the next "
            "writer cuts it"
        )
    elif log.segments and not log.segments[-1].sealed:
        found.note(f"{log.segments[-1].name} is not sealed: its writer is alive, or was killed")


def _closed(log: Reading) -> bool:
    """The last writer stopped in order: behind its last segment stands a snapshot, and no segment was begun after. A
    seal alone says less: a writer may have been killed between two segments.
    """
    last = log.segments[-1] if log.segments else None
    behind = None if last is None else log.folder / f"{int(last.name.split('.')[0]) + 1:08d}.snapshot"
    return last is not None and last.sealed and behind is not None and behind.exists()


def _check_index(
    index: SavedIndex | Unusable | None, experiences: Experiences, found: Findings, *, closed: bool
) -> None:
    """closed: the last writer stopped in order, which saves the index."""
    if isinstance(index, SavedIndex):
        experiences.check(index, found)
    elif isinstance(index, Unusable) and index.other_layout:
        found.note(f"the next opening builds the index anew: {index.reason}")
    elif isinstance(index, Unusable) and closed:
        found.add("index", f"the saved index cannot be used: {index.reason}")
    elif isinstance(index, Unusable):
        found.note(f"the saved index will be built anew: {index.reason}; a writer was killed or is alive")
