"""From the record of a draw to what the learner gets: its rollouts in one buffer, their pictures in the live store."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
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

    async def draw(self, drawn: Drawn, groups: Sequence[Group]) -> Draw:
        """What was drawn from `groups`. Raises LogDamaged or MediaError for what is no longer as it was written."""
        return Draw(
            step=drawn.step,
            watermark=drawn.watermark,
            rollout_ids=drawn.rollout_ids,
            rollouts=await asyncio.to_thread(self._read, drawn.sequences),
            consensus=tuple(group.consensus for group in groups if group.consensus is not None),
        )

    def _read(self, sequences: Sequence[int]) -> bytes:
        merged = merge_rollouts([bytes(self._log.read(sequence).body) for sequence in sequences])
        if self._media is not None:
            for keys in rollout_keys(merged):
                self._media.restore(keys.media)
        return merged
