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
from replay.log import Log
from replay.packs import Pack, leave_out
from replay.records import Erase, Erased, Experience, Kind, Settle, Spend, decode, encode
from replay.segments import segment_paths
from replay.state import State
from replay.tombstones import bury


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasure:
    """What went. num_records: of all kinds, the rollouts among them."""

    num_rollouts: int
    num_records: int
    num_media: int


def erase_source(folder: Path, source: str, *, disk: Disk | None = None) -> Erasure:
    """Erase everything of `source`, a producer's name or a query's id, from the replay in `folder`.

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
            raise UserError(f"{folder} holds nothing of {source}: no producer of that name and no query of that id")
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
    for frame in log.frames(kinds=frozenset({Kind.ROLLOUT, Kind.EXPERIENCE})):
        body = bytes(frame.body)
        if frame.kind == Kind.ROLLOUT:
            [keys] = rollout_keys(body)
            if source in (keys.producer, decode_rollouts(body)[0].query.query_id):
                rollouts.append(frame.sequence)
                groups[keys.group_id] = None
                media.update((ref.digest, None) for ref in keys.media)
        else:
            experience = decode(frame.kind, body)
            assert isinstance(experience, Experience)
            others += [frame.sequence] if experience.query_id == source else []
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
    _remove(list((folder / "log").glob("*.snapshot")), disk)
    _remove([path for path in (folder / "index").glob("*") if path.is_file()], disk)
    num_media = _erase_media(folder / "media", log, erase, disk)
    gone = frozenset(erase.sequences)
    for path in segment_paths(folder / "log")[:-1]:
        bury(path, gone, disk)
    done = Erased(group_ids=erase.group_ids, sequences=erase.sequences, num_rollouts=erase.num_rollouts)
    log.append(*encode(done))
    log.commit()
    return Erasure(num_rollouts=erase.num_rollouts, num_records=len(erase.sequences), num_media=num_media)


def _erase_media(folder: Path, log: Log, erase: Erase, disk: Disk) -> int:
    """Remove the pictures that no rollout that stays refers to. Returns how many went."""
    gone, doomed = frozenset(erase.sequences), set(erase.media)
    if not doomed or not folder.is_dir():
        return 0
    for frame in log.frames(kinds=frozenset({Kind.ROLLOUT})):
        if frame.sequence not in gone:
            doomed.difference_update(ref.digest for ref in rollout_keys(bytes(frame.body))[0].media)
    for path in sorted(folder.glob("[0-9]*.pack")):
        held = Pack(path).entries()
        if not doomed.isdisjoint(held):
            leave_out(path, doomed, disk)
    _remove([path for digest in doomed if (path := folder / digest[:2] / digest).is_file()], disk)
    return len(doomed)


def _remove(paths: list[Path], disk: Disk) -> None:
    for path in paths:
        disk.unlink(path)
    for folder in {path.parent for path in paths}:
        disk.sync_folder(folder)
