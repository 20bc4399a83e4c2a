"""Keeping less: rollouts that nothing asks for any more are pruned to their keys, and their pictures go.

A rollout is asked for while its group may be drawn, or a draw of it may be repeated or taken back; of every other only
the keys are needed, for the fold. So what is pruned changes neither the state nor the count, and the chain still links.
Segments are rewritten whole, the oldest first, while the log is larger or they are older than they should be; a process
that is killed leaves each segment as it was or as it should be, and the next opening goes on.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from common.schema import decode_rollouts, rollout_keys
from replay.config import Retention
from replay.disk import Disk
from replay.frames import PRUNED
from replay.log import Log
from replay.orphans import announce, finish, remove, remove_announced, unneeded
from replay.records import Kind, Pruned, encode
from replay.segments import Segment, frames_of
from replay.state import State
from replay.tombstones import replace_records


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruning:
    """What went: rollouts pruned to their keys, pictures, and bytes of the log."""

    num_rollouts: int = 0
    num_media: int = 0
    num_bytes: int = 0


def prune(folder: Path, log: Log, state: State, retention: Retention, *, disk: Disk | None = None) -> Pruning:
    """Prune what `retention` asks for from the replay in `folder`, whose open log and fold these are.

    Where anything went, the log must be closed and opened again before it is read.
    """
    disk = disk or Disk()
    finish(folder / "media", log, disk)
    doomed, shown = _due(folder, log, state, retention)
    if not doomed:
        return Pruning()
    remove((folder / "log").glob("*.snapshot"), disk)
    gone = frozenset(sequence for sequences in doomed.values() for sequence in sequences)
    media = unneeded(log, shown, gone) if (folder / "media").is_dir() else set()
    announce(folder / "media", media, disk)
    before = log.num_bytes
    for segment, sequences in doomed.items():
        path, wanted = folder / "log" / segment.name, frozenset(sequences)
        frames = frames_of(folder / "log", segment, kinds=frozenset({Kind.ROLLOUT}))
        keys = {frame.sequence: keys_of(bytes(frame.body)) for frame in frames if frame.sequence in wanted}
        replace_records(path, {sequence: (PRUNED, encode(left)[1]) for sequence, left in keys.items()}, disk)
        before += path.stat().st_size - segment.num_bytes
    if media:
        remove_announced(folder / "media", media, disk)
    return Pruning(num_rollouts=len(gone), num_media=len(media), num_bytes=log.num_bytes - before)


def _due(folder: Path, log: Log, state: State, retention: Retention) -> tuple[dict[Segment, list[int]], set[str]]:
    """What goes: rollouts by segment, the oldest first, and the pictures that they show."""
    held = (*state.groups.values(), *state.used.values())
    needed = frozenset(member.sequence for group in held for member in group.members)
    excess = log.num_bytes - retention.keep_bytes if retention.keep_bytes else 0
    oldest_ns = time.time_ns() - int(retention.keep_age_s * 1e9) if retention.keep_age_s else 0
    doomed, media = dict[Segment, list[int]](), set[str]()
    for segment in log.segments:
        if excess <= 0 and segment.created_ns >= oldest_ns:
            continue
        for frame in frames_of(folder / "log", segment, kinds=frozenset({Kind.ROLLOUT})):
            if frame.sequence not in needed:
                doomed.setdefault(segment, []).append(frame.sequence)
                media.update(ref.digest for ref in rollout_keys(bytes(frame.body))[0].media)
                excess -= len(frame.body)
    return doomed, media


def keys_of(body: bytes) -> Pruned:
    """What is kept of a rollout."""
    [keys] = rollout_keys(body)
    fields = {name: getattr(keys, name) for name in Pruned.__dataclass_fields__ if name != "query_id"}
    return Pruned(**fields, query_id=decode_rollouts(body)[0].query.query_id)
