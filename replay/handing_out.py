"""From the record of a draw to what the learner gets: its rollouts in one buffer, their pictures in the live store.

Reading ahead: while the learner works on one draw, the rollouts that the next would take if it were decided now are
read. Nothing is decided by that: the draw is decided when it is asked for, and what was read ahead is thrown away
unless it is of exactly the records that it names. At most one draw is held.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.errors import MediaError, ReplayError
from common.schema import merge_rollouts, rollout_columns
from common.types import Draw, MediaRef
from replay.log import Log
from replay.records import Drawn
from replay.segments import Frame
from replay.state import Group

if TYPE_CHECKING:
    from replay.media import DurableMedia

NUM_NOTED = 1 << 12
"""Rollouts whose pictures are noted when they come."""


@dataclass(frozen=True, slots=True)
class _Read:
    """The rollouts of some records in one buffer, and the pictures that they show, where pictures are kept."""

    rollouts: bytes
    media: tuple[MediaRef, ...]


class HandingOut:
    """Reads draws from the log, in threads. media: where pictures lie that the live store has forgotten.

    num_ahead: draws that were handed out as they had been read ahead.
    """

    def __init__(self, log: Log, media: DurableMedia | None) -> None:
        self._log = log
        self._media = media
        self._reading = Counter[int]()
        self._shown = OrderedDict[int, tuple[MediaRef, ...]]()
        self._ahead: tuple[tuple[int, ...], asyncio.Task[_Read | None]] | None = None
        self._tasks = set[asyncio.Task[_Read | None]]()
        self.num_ahead = 0

    @property
    def reading(self) -> frozenset[int]:
        """The records that are being read now; they must stay."""
        return frozenset(self._reading)

    @property
    def is_ahead(self) -> bool:
        return self._ahead is not None

    def note(self, sequence: int, media: tuple[MediaRef, ...]) -> None:
        """The pictures that a rollout shows, so that they need not be looked for when it is drawn soon."""
        self._shown[sequence] = media
        if len(self._shown) > NUM_NOTED:
            self._shown.popitem(last=False)

    async def draw(self, drawn: Drawn, groups: Sequence[Group], durable: Awaitable[None]) -> Draw:
        """What was drawn from `groups`, when its record is durable. Raises LogDamaged or MediaError for what is no
        longer as it was written.
        """
        ahead, self._ahead = self._ahead, None
        self._reading.update(drawn.sequences)
        try:
            await durable
            read = await asyncio.shield(ahead[1]) if ahead is not None and ahead[0] == drawn.sequences else None
            self.num_ahead += read is not None
            if read is None:
                read = await asyncio.to_thread(self._read, drawn.sequences)
            await asyncio.to_thread(self._restore, read)
        finally:
            self._reading -= Counter(drawn.sequences)
        return Draw(
            step=drawn.step,
            watermark=drawn.watermark,
            rollout_ids=drawn.rollout_ids,
            rollouts=read.rollouts,
            consensus=tuple(group.consensus for group in groups if group.consensus is not None),
        )

    def read_ahead(self, groups: Sequence[Group], durable: Awaitable[None]) -> None:
        """Begin to read what a draw of these groups would hand out, when their records are durable."""
        sequences = tuple(member.sequence for group in groups for member in group.usable)
        task = asyncio.get_running_loop().create_task(self._before(sequences, durable))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._ahead = (sequences, task)

    async def close(self) -> None:
        """Wait for what is being read ahead; nobody gets it."""
        self._ahead = None
        await asyncio.gather(*self._tasks)

    async def _before(self, sequences: tuple[int, ...], durable: Awaitable[None]) -> _Read | None:
        """None where it cannot be read; whoever draws reads it again and is told why."""
        self._reading.update(sequences)
        try:
            await durable
            read = await asyncio.to_thread(self._read, sequences)
            await asyncio.to_thread(self._restore, read)
        except (ReplayError, MediaError):
            return None
        finally:
            self._reading -= Counter(sequences)
        return read

    def _read(self, sequences: Sequence[int]) -> _Read:
        frames = self._log.mapped(sequences)
        media = dict[str, MediaRef]()
        for frame in frames if self._media is not None else ():
            media |= {ref.digest: ref for ref in self._shown_by(frame)}
        return _Read(merge_rollouts([frame.body for frame in frames]), tuple(media.values()))

    def _shown_by(self, frame: Frame) -> tuple[MediaRef, ...]:
        noted = self._shown.pop(frame.sequence, None)
        if noted is not None:
            return noted
        [columns] = rollout_columns(frame.body)
        return columns.media[0]

    def _restore(self, read: _Read) -> None:
        """The live store may have forgotten pictures since they were read ahead."""
        if self._media is not None:
            self._media.restore(read.media)
