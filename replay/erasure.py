"""Erasing a source: its rollouts, the votes over their groups, its experiences, its pictures, and what was derived.

The run is stopped. An Erase record says what goes; then snapshots and the index go (they are derived), the pictures
that no other rollout shows are left out of their packs, tombstones take the place of the records, and an Erased record
says that it is done. Each step replaces whole files and may be done twice, so a process that is killed leaves an
erasure that the next opening finishes.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from common.media import content_digest
from common.schema import rollout_columns, rollout_keys
from replay.disk import Disk, refusal
from replay.folding import fold
from replay.frames import TOMBSTONE
from replay.log import Log, locked
from replay.orphans import finish, remove, remove_media, unneeded
from replay.packs import PackedMedia
from replay.records import Drawn, Erase, Erased, Experience, Kind, Pruned, Settle, Spend, decode, encode
from replay.segments import Frame, read_frames, segment_paths
from replay.state import State
from replay.tombstones import replace_records


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasure:
    """What went. num_records: of all kinds, the rollouts among them."""

    num_rollouts: int
    num_records: int
    num_media: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreseen:
    """What erasing a source would take. num_draws: that handed out one of its rollouts and go on without it.

    num_bytes: of the records' bodies. num_media, media_bytes: of pictures that no other rollout shows.
    """

    num_rollouts: int
    num_experiences: int
    num_votes: int
    num_draws: int
    num_bytes: int
    num_media: int
    media_bytes: int


def foresee(folder: Path, source: str) -> Foreseen:
    """What `erase_source` would take; changes nothing. Raises as that does."""
    logs = folder / "log"
    if not segment_paths(logs):
        raise UserError(f"{folder} holds no log")
    with locked(logs):
        erase = _find(lambda kinds: read_frames(logs, kinds=kinds), source)
        if not erase.sequences:
            raise UserError(_nothing(folder, source))
        gone, kinds, num_bytes, num_draws = set(erase.sequences), Counter[int](), 0, 0
        needed = set[str]()
        for frame in read_frames(logs):
            if frame.sequence in gone:
                kinds[frame.kind] += 1
                num_bytes += len(frame.body)
            elif frame.kind == Kind.ROLLOUT:
                needed.update(ref.digest for ref in rollout_keys(frame.body)[0].media)
            elif frame.kind == Kind.DRAW:
                drawn = decode(frame.kind, bytes(frame.body))
                assert isinstance(drawn, Drawn)
                num_draws += not gone.isdisjoint(drawn.sequences)
        sizes = dict(PackedMedia(folder / "media").sizes())
        going = [sizes[digest] for digest in erase.media if digest in sizes and digest not in needed]
    return Foreseen(
        num_rollouts=erase.num_rollouts,
        num_experiences=kinds[Kind.EXPERIENCE],
        num_votes=kinds[Kind.SETTLE],
        num_draws=num_draws,
        num_bytes=num_bytes,
        num_media=len(going),
        media_bytes=sum(going),
    )


def erase_source(folder: Path, source: str, *, disk: Disk | None = None) -> Erasure:
    """Erase everything of `source`, the source of rollouts or experiences, a producer's name or a query's id, from the
    replay in `folder`.

    Raises LogLocked while a run writes it, UserError when there is no log or nothing of the source in it, ReplayError
    when the disk refuses: then it has not begun, or the next opening finishes it.
    """
    disk = disk or Disk()
    if not segment_paths(folder / "log"):
        raise UserError(f"{folder} holds no log")
    with _opened(folder, disk) as (log, state):
        if state.erasing is None:
            return _erase(folder, log, state, source, disk)
        _finish(folder, log, state.erasing, disk)
    with _opened(folder, disk) as (log, state):
        return _erase(folder, log, state, source, disk)


def finish_erasure(folder: Path, *, disk: Disk | None = None) -> None:
    """Finish the erasure that a killed process began, if there is one."""
    disk = disk or Disk()
    with _opened(folder, disk) as (log, state):
        if state.erasing is not None:
            _finish(folder, log, state.erasing, disk)


@contextlib.contextmanager
def _opened(folder: Path, disk: Disk) -> Iterator[tuple[Log, State]]:
    """The log and its fold; closed in order when all went well. Raises ReplayError when the disk refuses."""
    log = Log(folder / "log", disk=disk)
    try:
        yield log, fold(log)
        log.close()
    except UserError:
        log.close()
        raise
    except OSError as error:
        raise refusal(folder, "the erasure is not finished; the next opening goes on", error) from error
    finally:
        log.abandon()


def _erase(folder: Path, log: Log, state: State, source: str, disk: Disk) -> Erasure:
    erase = _find(lambda kinds: log.frames(kinds=kinds), source)
    if not erase.sequences:
        raise UserError(_nothing(folder, source))
    _announce(log, state, erase)
    return _finish(folder, log, erase, disk)


def _nothing(folder: Path, source: str) -> str:
    return f"{folder} holds nothing of {source}: no source or producer of that name and no query of that id"


def _find(frames: Callable[[frozenset[int]], Iterator[Frame]], source: str) -> Erase:
    """frames: the records of some kinds. Raises UserError for a source without a name."""
    if not source:
        raise UserError("give the source that is to be erased a name; what has none is this project's own")
    rollouts, others = list[int](), list[int]()
    groups, media = dict[str, None](), dict[str, None]()
    for frame in frames(frozenset({Kind.ROLLOUT, Kind.PRUNED, Kind.EXPERIENCE})):
        body = bytes(frame.body)
        if frame.kind == Kind.ROLLOUT:
            [columns] = rollout_columns(body)
            [keys], [query_id] = columns.read_keys(), columns.query_ids()
            names = (keys.producer, query_id, keys.source)
        else:
            record = decode(frame.kind, body)
            if isinstance(record, Experience):
                others += [frame.sequence] if source in (record.query_id, record.source) else []
                continue
            assert isinstance(record, Pruned)
            keys, names = record.keys(), (record.producer, record.query_id, record.source)
        if source in names:
            rollouts.append(frame.sequence)
            groups[keys.group_id] = None
            media.update((ref.digest, None) for ref in keys.media)
    for frame in frames(frozenset({Kind.SETTLE})):
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
    finish(folder / "media", log, disk)
    media = unneeded(log, erase.media, frozenset(erase.sequences)) if (folder / "media").is_dir() else set[str]()
    remove_media(folder / "media", media, disk)
    tombstones = dict.fromkeys(erase.sequences, (TOMBSTONE, b""))
    for path in segment_paths(folder / "log")[:-1]:
        replace_records(path, tombstones, disk)
    done = Erased(group_ids=erase.group_ids, sequences=erase.sequences, num_rollouts=erase.num_rollouts)
    log.append(*encode(done))
    log.commit()
    return Erasure(num_rollouts=erase.num_rollouts, num_records=len(erase.sequences), num_media=len(media))
