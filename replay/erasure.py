"""Erasing a source: its rollouts, the votes over their groups, its experiences, its pictures, and what was derived.

The run is stopped. An Erase record says what goes; then snapshots and the index go (they are derived), the pictures
that no other rollout shows are left out of their packs, tombstones take the place of the records, and an Erased record
says that it is done. Each step replaces whole files and may be done twice, so a process that is killed leaves an
erasure that the next opening finishes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from common.media import content_digest
from common.schema import decode_rollouts, rollout_keys
from replay.disk import Disk
from replay.folding import fold
from replay.frames import TOMBSTONE
from replay.log import Log
from replay.orphans import remove, remove_media
from replay.records import Erase, Erased, Experience, Kind, Pruned, Settle, Spend, decode, encode
from replay.segments import segment_paths
from replay.state import State
from replay.tombstones import replace_records


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasure:
    """What went. num_records: of all kinds, the rollouts among them."""

    num_rollouts: int
    num_records: int
    num_media: int


def erase_source(folder: Path, source: str, *, disk: Disk | None = None) -> Erasure:
    """Erase everything of `source`, a producer's name, a query's id or the source of an experience, from the replay in
    `folder`.

    Raises LogLocked while a run writes it, UserError when there is no log or nothing of the source in it.
    """
    disk = disk or Disk()
    if not segment_paths(folder / "log"):
        raise UserError(f"{folder} holds no log")
    log = Log(folder / "log", disk=disk)
    try:
        state = fold(log)
        if state.erasing is not None:
            _finish(folder, log, state.erasing, disk)
            log.close()
            log = Log(folder / "log", disk=disk)
            state = fold(log)
        erase = _find(log, source)
        if not erase.sequences:
            raise UserError(
                f"{folder} holds nothing of {source}: no producer or source of that name and no query of that id"
            )
        _announce(log, state, erase)
        return _finish(folder, log, erase, disk)
    finally:
        log.close()


def finish_erasure(folder: Path, *, disk: Disk | None = None) -> None:
    """Finish the erasure that a killed process began, if there is one."""
    disk = disk or Disk()
    log = Log(folder / "log", disk=disk)
    try:
        erasing = fold(log).erasing
        if erasing is not None:
            _finish(folder, log, erasing, disk)
    finally:
        log.close()


def _find(log: Log, source: str) -> Erase:
    rollouts, others = list[int](), list[int]()
    groups, media = dict[str, None](), dict[str, None]()
    for frame in log.frames(kinds=frozenset({Kind.ROLLOUT, Kind.PRUNED, Kind.EXPERIENCE})):
        body = bytes(frame.body)
        if frame.kind == Kind.ROLLOUT:
            [keys] = rollout_keys(body)
            names = (keys.producer, decode_rollouts(body)[0].query.query_id)
        else:
            record = decode(frame.kind, body)
            if isinstance(record, Experience):
                others += [frame.sequence] if source in (record.query_id, record.source) else []
                continue
            assert isinstance(record, Pruned)
            keys, names = record.keys(), (record.producer, record.query_id)
        if source in names:
            rollouts.append(frame.sequence)
            groups[keys.group_id] = None
            media.update((ref.digest, None) for ref in keys.media)
    for frame in log.frames(kinds=frozenset({Kind.SETTLE})):
        vote = decode(frame.kind, bytes(frame.body))
        assert isinstance(vote, Settle)
        others += [frame.sequence] if vote.consensus.group_id in groups else []
    return Erase(
        source=content_digest(source.encode()),
        group_ids=tuple(groups),
        sequences=tuple(sorted(rollouts + others)),
        num_rollouts=len(rollouts),
        media=tuple(media),
    )


def _announce(log: Log, state: State, erase: Erase) -> None:
    """Groups that lose a rollout and are not drawn yet are spent; then what is going is said."""
    for name in erase.group_ids:
        if name in state.groups:
            log.append(*encode(Spend(group_id=name, reason="erased")))
    log.append(*encode(erase))
    log.commit()


def _finish(folder: Path, log: Log, erase: Erase, disk: Disk) -> Erasure:
    remove(list((folder / "log").glob("*.snapshot")), disk)
    remove([path for path in (folder / "index").glob("*") if path.is_file()], disk)
    num_media = remove_media(folder / "media", log, erase.media, frozenset(erase.sequences), disk)
    tombstones = dict.fromkeys(erase.sequences, (TOMBSTONE, b""))
    for path in segment_paths(folder / "log")[:-1]:
        replace_records(path, tombstones, disk)
    done = Erased(group_ids=erase.group_ids, sequences=erase.sequences, num_rollouts=erase.num_rollouts)
    log.append(*encode(done))
    log.commit()
    return Erasure(num_rollouts=erase.num_rollouts, num_records=len(erase.sequences), num_media=num_media)
