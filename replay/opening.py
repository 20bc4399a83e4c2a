"""Opening a replay: read the log back into a state, and build the buffer over it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from common.media import FolderMediaStore
from replay.buffer import ReplayBuffer
from replay.config import ReplayConfig
from replay.disk import Disk, refusal
from replay.erasure import finish_erasure
from replay.folding import fold
from replay.index import NeighbourIndex
from replay.index.merging import Merge, Merging
from replay.log import Log
from replay.media import DurableMedia
from replay.records import Experience, Kind, decode
from replay.retention import Pruner, asked_for
from replay.state import FOLD_VERSION, State


def open_replay(
    config: ReplayConfig,
    *,
    verify: bool = False,
    disk: Disk | None = None,
    merging: Callable[[Path], Merge] = Merging,
) -> ReplayBuffer:
    """The buffer of `config.folder`, as its log left it; an erasure or a pruning that was cut short is finished first.
    Raises LogLocked when somebody else writes it, RunFolderError when it is of another version, ReplayError when the
    disk refuses.

    verify: walk and fold the whole log, whatever a snapshot says. merging: starts a merge of the neighbour index.
    """
    disk = disk or Disk()
    with contextlib.ExitStack() as stack:
        try:
            log, state = _tidied(config, verify, disk, stack)
            media = _media(config, disk, stack)
            pruner = _pruned(config, log, state, media, disk)
            index = _index(config, log, state, disk, merging)
        except OSError as error:
            raise refusal(config.folder, "the replay cannot be opened", error) from error
        stack.pop_all()
    return ReplayBuffer(config, log=log, state=state, media=media, index=index, pruner=pruner)


def _tidied(config: ReplayConfig, verify: bool, disk: Disk, stack: contextlib.ExitStack) -> tuple[Log, State]:
    """The log and its fold when everything is done that was to be done. Whatever fails lets the next writer in."""
    log, state = _open_log(config, verify, disk, stack)
    if state.erasing is not None:
        log.close()
        finish_erasure(config.folder, disk=disk)
        log, state = _open_log(config, verify, disk, stack)
    return log, state


def _pruned(config: ReplayConfig, log: Log, state: State, media: DurableMedia | None, disk: Disk) -> Pruner:
    """Who prunes from now on, when what is due was pruned and what was begun is finished."""
    pruner = Pruner(config.folder, log, config.retention, media=media, segment_bytes=config.segment_bytes, disk=disk)
    pruner.finish()
    if pruner.prune(asked_for(state), log.segments).num_rollouts:
        log.checkpoint(state.pack(), fold=FOLD_VERSION)
    return pruner


def _media(config: ReplayConfig, disk: Disk, stack: contextlib.ExitStack) -> DurableMedia | None:
    if config.live_media is None:
        return None
    media = DurableMedia(
        config.folder / "media",
        live=FolderMediaStore(config.live_media),
        sync=config.durability.mode != "os",
        pack_bytes=config.pack_bytes,
        disk=disk,
    )
    stack.callback(media.abandon)
    return media


def _index(
    config: ReplayConfig, log: Log, state: State, disk: Disk, merging: Callable[[Path], Merge]
) -> NeighbourIndex | None:
    if config.index is None:
        return None
    index = NeighbourIndex(config.folder / "index", config.index, disk=disk, merging=merging)
    catch_up(index, log, last=state.last_experience)
    return index


def _open_log(config: ReplayConfig, verify: bool, disk: Disk, stack: contextlib.ExitStack) -> tuple[Log, State]:
    log = Log(
        config.folder / "log",
        segment_bytes=config.segment_bytes,
        segment_age_s=config.segment_age_s,
        fold=None if verify else FOLD_VERSION,
        disk=disk,
    )
    stack.callback(log.abandon)
    return log, fold(log)


def catch_up(index: NeighbourIndex, log: Log, *, last: int) -> None:
    """Let the index follow the experiences of the log up to record `last`; all of them where it is ahead of the log."""
    if index.sequence > last:
        index.reset()
    for frame in _experiences(log, after=index.sequence) if index.sequence < last else ():
        index.follow(*frame)
        if index.merge_due(rebuilding=True):
            index.merge()


def _experiences(log: Log, *, after: int) -> Iterator[tuple[Experience, int]]:
    for frame in log.frames(after + 1, kinds=frozenset({Kind.EXPERIENCE})):
        record = decode(frame.kind, bytes(frame.body))
        assert isinstance(record, Experience)
        yield record, frame.sequence
