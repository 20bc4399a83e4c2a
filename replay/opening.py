"""Opening a replay: read the log back into a state, and build the buffer over it."""

from __future__ import annotations

from collections.abc import Iterator

from common.media import FolderMediaStore
from replay.buffer import ReplayBuffer
from replay.config import ReplayConfig
from replay.disk import Disk
from replay.erasure import finish_erasure
from replay.folding import fold
from replay.index import NeighbourIndex
from replay.log import Log
from replay.media import DurableMedia
from replay.records import Experience, Kind, decode
from replay.retention import Pruner, asked_for
from replay.state import FOLD_VERSION, State


def open_replay(config: ReplayConfig, *, verify: bool = False, disk: Disk | None = None) -> ReplayBuffer:
    """The buffer of `config.folder`, as its log left it; an erasure that was cut short is finished first. Raises
    LogLocked when somebody else writes it, RunFolderError when it is of another version.

    verify: walk and fold the whole log, whatever a snapshot says.
    """
    disk = disk or Disk()
    log, state = _open_log(config, verify, disk)
    if state.erasing is not None:
        log.close()
        finish_erasure(config.folder, disk=disk)
        log, state = _open_log(config, verify, disk)
    index = None
    if config.index is not None:
        index = NeighbourIndex(
            config.folder / "index", encoder=config.index.encoder, dimension=config.index.dimension, disk=disk
        )
    media = None
    if config.live_media is not None:
        live = FolderMediaStore(config.live_media)
        media = DurableMedia(
            config.folder / "media",
            live=live,
            sync=config.durability.mode != "os",
            pack_bytes=config.pack_bytes,
            disk=disk,
        )
    pruner = Pruner(config.folder, log, config.retention, media=media, segment_bytes=config.segment_bytes, disk=disk)
    pruner.finish()
    if pruner.prune(asked_for(state), log.segments).num_rollouts:
        log.checkpoint(state.pack(), fold=FOLD_VERSION)
    if index is not None:
        catch_up(index, log, last=state.last_experience)
    return ReplayBuffer(config, log=log, state=state, media=media, index=index, pruner=pruner)


def _open_log(config: ReplayConfig, verify: bool, disk: Disk) -> tuple[Log, State]:
    log = Log(
        config.folder / "log",
        segment_bytes=config.segment_bytes,
        segment_age_s=config.segment_age_s,
        fold=None if verify else FOLD_VERSION,
        disk=disk,
    )
    return log, fold(log)


def catch_up(index: NeighbourIndex, log: Log, *, last: int) -> None:
    """Let the index follow the experiences of the log up to record `last`; all of them where it does not agree."""
    if index.sequence > last:
        index.reset()
    for frame in _experiences(log, after=index.sequence) if index.sequence < last else ():
        index.follow(*frame)
    if len(index) != index.num_entries:
        index.reset()
        for frame in _experiences(log, after=-1):
            index.follow(*frame)


def _experiences(log: Log, *, after: int) -> Iterator[tuple[Experience, int]]:
    for frame in log.frames(after + 1, kinds=frozenset({Kind.EXPERIENCE})):
        record = decode(frame.kind, bytes(frame.body))
        assert isinstance(record, Experience)
        yield record, frame.sequence
