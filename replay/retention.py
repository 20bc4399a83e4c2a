"""Keeping less: rollouts that nothing asks for any more are pruned to their keys, and their pictures go.

A rollout is asked for while its group may be drawn, or a draw of it may be repeated or taken back; of every other only
the keys are needed, for the fold. So what is pruned changes neither the state nor the count, and the chain still links.

A pass replaces segments whole, the oldest first, while the log is larger or they are older than they should be; then it
removes the pictures that no rollout with a body refers to. Readers and the writer go on meanwhile. A process that is
killed leaves each file as it was or as it should be, and the next opening goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from common.errors import LogDamaged
from common.schema import rollout_columns
from replay.config import Retention
from replay.disk import Disk
from replay.frames import PRUNED, Bytes
from replay.log import Log
from replay.media import DurableMedia
from replay.orphans import announce, announced, remove_announced, remove_media, unneeded
from replay.records import Kind, Pruned, encode
from replay.segments import Segment, frames_of
from replay.state import State

SHARE = 8
"""A pass looks at every rollout that is left for the pictures that it shows, so it waits until an eighth is due."""
MEDIA_AT_ONCE = 1 << 17
"""Digests that a pass looks for; what shows more is for the next one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruning:
    """What went: rollouts pruned to their keys, pictures, and bytes of the log. damage: a segment that holds some stays
    as it is, and so do pictures, because nobody knows which of them a damaged rollout shows; "" where there is none.
    """

    num_rollouts: int = 0
    num_media: int = 0
    num_bytes: int = 0
    damage: str = ""


class Pruner:
    """Prunes the replay in `folder`, whose open log this is. media: who writes its pictures; None when nobody does.

    segment_bytes: the least that a pass while running waits for. One pass at a time, in any thread.
    """

    def __init__(
        self,
        folder: Path,
        log: Log,
        retention: Retention,
        *,
        media: DurableMedia | None = None,
        segment_bytes: int = 0,
        disk: Disk | None = None,
    ) -> None:
        self._folder = folder
        self._log = log
        self._retention = retention
        self._media = media
        self._disk = disk or Disk()
        self._slack = max(segment_bytes, retention.keep_bytes // SHARE)
        self._num_bare = 0
        self._damage = ""
        self._wait()

    def due(self) -> bool:
        """Whether a pass is worth its while; to be asked when a segment was sealed."""
        if self._retention.keep_bytes and self._log.num_bytes >= self._next_bytes:
            return True
        aged = sum(segment.created_ns < self._oldest_ns() for segment in self._log.segments[self._num_bare :])
        return aged - self._num_aged > (self._log.num_sealed - self._num_bare) // SHARE

    def prune(
        self, needed: Set[int], segments: Sequence[Segment], *, stop: Callable[[], bool] = lambda: False
    ) -> Pruning:
        """One pass over `segments`, the first of the log. needed: records that are asked for; every other rollout in
        these segments is not and never will be. stop: asked between segments; what is left is for the next pass.

        Raises OSError as the disk does.
        """
        self._damage = ""
        folder, num_rollouts, num_bytes = self._folder / "media", 0, 0
        shown = set(announced(folder))
        excess = self._log.num_bytes - self._retention.keep_bytes if self._retention.keep_bytes else 0
        oldest_ns = self._oldest_ns()
        for number in range(self._num_bare, len(segments)):
            segment = segments[number]
            if stop() or len(shown) > MEDIA_AT_ONCE:
                break
            if excess <= 0 and segment.created_ns >= oldest_ns:
                continue
            try:
                keys, num_left = self._keys(segment, needed, shown)
            except LogDamaged as error:
                self._damage = str(error)
                continue
            if keys and folder.is_dir():
                announce(folder, shown, self._disk)
            gained = self._log.replace(segment, {sequence: (PRUNED, body) for sequence, body in keys.items()})
            num_rollouts, num_bytes, excess = num_rollouts + len(keys), num_bytes + gained, excess - gained
            self._num_bare += number == self._num_bare and not num_left
        num_media = 0 if stop() else self.finish()
        self._wait()
        return Pruning(num_rollouts=num_rollouts, num_media=num_media, num_bytes=num_bytes, damage=self._damage)

    def finish(self) -> int:
        """Remove the announced pictures that no rollout with a body refers to; how many they were. One that was asked
        for meanwhile stays announced, for the next pass; so do all where the log is damaged.
        """
        try:
            return self._finish(self._folder / "media")
        except LogDamaged as error:
            self._damage = str(error)
            return 0

    def _finish(self, folder: Path) -> int:
        shown = announced(folder)
        if not shown:
            return 0
        if self._media is None:
            gone, stayed = unneeded(self._log, shown), set[str]()
            remove_media(folder, gone, self._disk)
        else:
            gone, stayed = self._media.remove(lambda: unneeded(self._log, shown))
        if stayed:
            announce(folder, stayed, self._disk)
        else:
            remove_announced(folder, stayed, self._disk)
        return len(gone)

    def _keys(self, segment: Segment, needed: Set[int], shown: set[str]) -> tuple[dict[int, bytes], int]:
        """What is left of the rollouts that go, and how many stay. Their pictures are added to `shown`."""
        keys, num_left = dict[int, bytes](), 0
        for frame in frames_of(self._log.folder, segment, kinds=frozenset({Kind.ROLLOUT})):
            if frame.sequence in needed:
                num_left += 1
                continue
            pruned, media = keys_of(frame.body)
            keys[frame.sequence] = encode(pruned)[1]
            shown.update(media)
        return keys, num_left

    def _oldest_ns(self) -> int:
        return time.time_ns() - int(self._retention.keep_age_s * 1e9) if self._retention.keep_age_s else 0

    def _wait(self) -> None:
        """Until there is more to do than after this pass."""
        self._next_bytes = max(self._retention.keep_bytes, self._log.num_bytes) + self._slack
        aged = (segment.created_ns < self._oldest_ns() for segment in self._log.segments[self._num_bare :])
        self._num_aged = sum(aged)


def asked_for(state: State) -> set[int]:
    """The records of rollouts that may be drawn, or a draw of which may be repeated or taken back."""
    groups = (*state.groups.values(), *state.used.values())
    return {member.sequence for group in groups for member in group.members}


def keys_of(body: Bytes) -> tuple[Pruned, tuple[str, ...]]:
    """What is kept of a rollout, and the digests of its pictures."""
    [columns] = rollout_columns(body)
    [keys], [query_id] = columns.read_keys(), columns.query_ids()
    fields = {name: getattr(keys, name) for name in Pruned.__dataclass_fields__ if name != "query_id"}
    return Pruned(**fields, query_id=query_id), tuple(ref.digest for ref in keys.media)
