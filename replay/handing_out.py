"""From the record of a draw to what the learner gets: its rollouts in one buffer, their pictures in the live store."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING

from common.schema import merge_rollouts, rollout_keys
from common.types import Draw
from replay.log import Log
from replay.records import Drawn
from replay.state import Group

if TYPE_CHECKING:
    from replay.media import DurableMedia


class HandingOut:
    """Reads draws from the log, in threads. media: where pictures lie that the live store has forgotten."""

    def __init__(self, log: Log, media: DurableMedia | None) -> None:
        self._log = log
        self._media = media
        self._reading = Counter[int]()

    @property
    def reading(self) -> frozenset[int]:
        """The records that are being read now; they must stay."""
        return frozenset(self._reading)

    async def draw(self, drawn: Drawn, groups: Sequence[Group], durable: Awaitable[None]) -> Draw:
        """What was drawn from `groups`, when its record is durable. Raises LogDamaged or MediaError for what is no
        longer as it was written.
        """
        self._reading.update(drawn.sequences)
        try:
            await durable
            rollouts = await asyncio.to_thread(self._read, drawn.sequences)
        finally:
            self._reading -= Counter(drawn.sequences)
        return Draw(
            step=drawn.step,
            watermark=drawn.watermark,
            rollout_ids=drawn.rollout_ids,
            rollouts=rollouts,
            consensus=tuple(group.consensus for group in groups if group.consensus is not None),
        )

    def _read(self, sequences: Sequence[int]) -> bytes:
        merged = merge_rollouts([frame.body for frame in self._log.mapped(sequences)])
        if self._media is not None:
            for keys in rollout_keys(merged):
                self._media.restore(keys.media)
        return merged
