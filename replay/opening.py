"""Opening a replay: read the log back into a state, and build the buffer over it."""

from __future__ import annotations

from common.media import FolderMediaStore
from common.schema import rollout_keys
from replay.buffer import ReplayBuffer
from replay.config import ReplayConfig
from replay.index import NeighbourIndex
from replay.log import Log
from replay.media import DurableMedia
from replay.records import Experience, Kind, decode
from replay.state import State


def open_replay(config: ReplayConfig) -> ReplayBuffer:
    """The buffer of `config.folder`, as its log left it. Raises LogLocked when somebody else writes it, RunFolderError
    when it is of another version.
    """
    log = Log(config.folder / "log", segment_bytes=config.segment_bytes)
    index = None
    if config.index is not None:
        index = NeighbourIndex(config.folder / "index", encoder=config.index.encoder, dimension=config.index.dimension)
    media = None
    if config.live_media is not None:
        live = FolderMediaStore(config.live_media)
        media = DurableMedia(config.folder / "media", live=live, sync=config.durability.mode != "os")
    return ReplayBuffer(config, log=log, state=fold(log, index), media=media, index=index)


def fold(log: Log, index: NeighbourIndex | None = None) -> State:
    """The state after every record of `log`; `index` follows it, rebuilt when it holds what the log does not."""
    state = State()
    if index is not None and index.sequence >= log.next_sequence:
        index.reset()
    for frame in log.frames():
        if frame.kind == Kind.ROLLOUT:
            state.add(rollout_keys(bytes(frame.body))[0], frame.sequence)
            continue
        record = decode(frame.kind, bytes(frame.body))
        if not isinstance(record, Experience):
            state.apply(record)
        elif index is not None:
            index.follow(record, frame.sequence)
    state.lose(sum(loss.kinds.count(Kind.ROLLOUT) for loss in log.recovery.losses))
    if index is not None and len(index) != index.num_entries:
        index.reset()
        for frame in log.frames():
            if frame.kind == Kind.EXPERIENCE:
                record = decode(frame.kind, bytes(frame.body))
                assert isinstance(record, Experience)
                index.follow(record, frame.sequence)
    return state
