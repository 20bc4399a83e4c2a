"""A small life of a replay that does a bit of everything, in several processes one after another, some of them killed.

Everything is drawn from a seed. `Play` tells every promise that it was given (fakes/promises) to whoever listens, the
moment it was given.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from fakes.disks import Killed
from fakes.merging_here import Mergers
from fakes.promises import SECRET, Erasing, Gone, Handed, Kept, Logged, Promise
from fakes.recording_disk import RecordingDisk
from fakes.values import a_consensus, a_query, a_rollout, an_answer_turn
from fakes.zooms import a_zoom

from common.errors import ReplayError, UserError
from common.media import FolderMediaStore, put_view
from common.schema import encode_rollouts
from common.types import Draw, Rollout, Turn
from replay.buffer import ReplayBuffer
from replay.config import Drawing, Durability, IndexConfig, ReplayConfig, Retention
from replay.disk import Disk
from replay.erasure import erase_source
from replay.opening import open_replay
from replay.records import Advance, Begin, Experience, Release, Rewind, Settle, Spend

INDEX = IndexConfig(encoder="e", dimension=3, merge_entries=2, ivf_entries=3)
"""Merged after every two experiences, beside the rest; an IVF of so few has one list, so it is exact."""
CROP = (0, 0, 4, 3)
"""Of whatever a rollout shows first."""


def a_config(root: Path, live: Path, chance: random.Random) -> ReplayConfig:
    """Small segments, packs and snapshots; how draws choose is drawn."""
    reuse = chance.choice((1, 1, 2))
    return ReplayConfig(
        folder=root / "run" / "replay",
        live_media=live,
        segment_bytes=chance.choice((12 << 10, 24 << 10)),
        snapshot_bytes=chance.choice((16 << 10, 48 << 10)),
        pack_bytes=4096,
        durability=Durability(mode=chance.choice(("group", "group", "always")), group_ms=0),
        drawing=Drawing(selector=chance.choice(("fifo", "uniform", "in_order")), max_reuse=reuse),
        index=INDEX,
    )


class Play:
    """One replay through its processes. alive: between an opening and a close or a kill.

    tell: takes every promise as it is given. name: of its producers and groups. hides: some of what it says is about
    SECRET, until that is erased.
    """

    def __init__(
        self,
        config: ReplayConfig,
        disk: Disk,
        chance: random.Random,
        tell: Callable[[Promise], None],
        *,
        name: str,
        hides: bool = True,
    ) -> None:
        self.config = config
        self.buffer: ReplayBuffer
        self._disk = disk
        self.mergers = Mergers(disk, name)
        self._chance = chance
        self._tell = tell
        self._name = name
        self._life = 0
        self.alive = False
        self._hidden = (SECRET,) if hides else ()
        self._numbers = itertools.count()
        self._versions = itertools.count(1)
        self._queries: dict[str, str] = {}

    def open(self) -> None:
        self._life += 1
        self._sequences = itertools.count()
        self.buffer = open_replay(self.config, disk=self._disk, merging=self.mergers)
        self.alive = True

    async def close(self) -> None:
        self.alive = False
        await self.buffer.close()

    async def leave(self) -> None:
        """As if the process had been killed: nothing more is written."""
        self.alive = False
        await self._leave_merge()
        with contextlib.suppress(ReplayError, Killed):
            await self.buffer._committer.close()
        if self.buffer._media is not None:
            self.buffer._media.abandon()
        self.buffer._log.abandon()

    async def merged(self) -> None:
        """Wait for the merge that is under way, if there is one."""
        assert self.buffer._index is not None
        await self.buffer._index.merged()

    async def _leave_merge(self) -> None:
        """The process of a merge ends with the one that started it."""
        memory = self.buffer._index
        assert memory is not None
        memory._closed = True
        if memory._merging is not None:
            memory._merging.stop()
        with contextlib.suppress(Killed):
            await self.merged()

    async def check_over(self) -> None:
        """After a failure nothing is acknowledged any more."""
        if not self.alive:
            return
        for call in (self.buffer.advance(10**6, 10**6), self.buffer.abandon("nothing", "over"), self.buffer.admit()):
            try:
                await call
            except ReplayError:
                continue
            raise AssertionError("a replay whose disk had failed went on")

    async def begin(self, phase: str, *, votes: bool = False) -> None:
        """The phase from its start, or from where a learner restored to a step that is remembered goes on."""
        state = self.buffer.state
        version = self._next_version()
        if state.phase is not None and state.phase.phase == phase:
            step = self._chance.randint(state.floor, state.next_step)
            self.step = step
            now = state.phase
            await self.buffer.begin(
                phase,
                groups_per_step=now.groups_per_step,
                max_policy_lag=now.max_policy_lag,
                votes=now.votes,
                step=step,
                version=version,
            )
            self._tell(Logged(Rewind(step=step, version=version, orphans=True)))
            return
        self.step = 0
        fields: dict[str, Any] = {"groups_per_step": self._chance.choice((1, 2)), "max_policy_lag": 1, "votes": votes}
        await self.buffer.begin(phase, version=version, **fields)
        drawing = self.config.drawing
        self._tell(Logged(Begin(phase=phase, step=0, version=version, drawing=drawing, **fields)))

    def _next_version(self) -> int:
        held = max(self.buffer.state.versions, default=0)
        return max(held + 1, next(self._versions))

    async def steps(self, count: int) -> None:
        """So many draws with all that belongs to them, and a few things that go wrong."""
        for _ in range(count):
            draw = await self.draw()
            self._tell(Handed(draw))
            for _ in range(self._chance.randrange(4)):
                await self.remember()
            version, self.step = self._next_version(), self.step + 1
            await self.buffer.advance(self.step, version)
            self._tell(Logged(Advance(step=self.step, version=version)))
            match self._chance.randrange(8):
                case 0:
                    await self._rewind()
                case 1:
                    await self._release()
                case 2:
                    await self.merged()
                case 3:
                    assert await self.buffer.sample(draw.step) == draw

    async def draw(self) -> Draw:
        """The draw for the learner's step, with as many groups brought in as it takes."""
        waiting = asyncio.ensure_future(self.buffer.sample(self.step))
        try:
            while not waiting.done():
                if self.buffer.state.may_admit():
                    await self._group()
                else:
                    await asyncio.sleep(0.001)
            return await waiting
        finally:
            waiting.cancel()

    async def _group(self) -> None:
        assert self.buffer.state.phase is not None
        phase = self.buffer.state.phase
        name = f"{self._name}/{phase.phase}/{next(self._numbers)}"
        await self.buffer.admit(name)
        query = self._chance.choice(("q0", "q1", "q2", "q3", *self._hidden))
        scores = self._chance.choice(((1.0, 0.0), (1.0, 0.0), (0.5, 0.0), (1.0, 1.0)))
        rollouts = [self._rollout(name, query, sibling, score) for sibling, score in enumerate(scores)]
        if self._chance.random() < 0.1:
            await self.add(rollouts[0])
            await self.buffer.abandon(name, "lost")
            self._tell(Logged(Spend(group_id=name, reason="lost"), query))
            return
        if self._chance.random() < 0.2:
            rollouts.append(rollouts[0])  # sent twice, at once
        await asyncio.gather(*map(self.add, rollouts))
        if phase.votes:
            vote = a_consensus(name, answer=None if self._chance.random() < 0.15 else f"answer to {query}")
            await self.buffer.settle(vote)
            self._tell(Logged(Settle(consensus=vote), query))

    def _rollout(self, group: str, query: str, sibling: int, score: float) -> Rollout:
        assert self.buffer.state.phase is not None and self.config.live_media is not None
        live = FolderMediaStore(self.config.live_media)
        own = (4, 4, 3) if query == SECRET else (8, 8, 3)  # a picture that only this query or many show
        pictures = (np.full(own, self._chance.randrange(8), np.uint8), np.full((8, 8, 3), 7, np.uint8))
        shown = tuple(put_view(live, picture) for picture in pictures)  # of one colour, so many have the same crop
        return a_rollout(
            group,
            sibling,
            score=score,
            query=a_query(query, images=()),
            turns=(
                Turn(role="tool", token_ids=(1, 3, 3, 2), images=shown),
                an_answer_turn(version=max(self.buffer.state.versions)),
            ),
            calls=(a_zoom(live, shown[0], CROP),) if self._chance.random() < 0.7 else (),
            answer=f"answer to {query}",
            phase=self.buffer.state.phase.phase,
            producer=f"{self._name}-{self._chance.randrange(3)}",
            epoch=self._life,
            sequence=next(self._sequences),
        )

    async def add(self, rollout: Rollout) -> bool:
        data = encode_rollouts([rollout])
        new = await self.buffer.add(data)
        self._tell(Kept(rollout.rollout_id, rollout.query.query_id, data))
        return new

    async def _rewind(self) -> None:
        step, version = self._chance.randint(self.buffer.state.floor, self.step), self._next_version()
        await self.buffer.rewind(step, version=version, orphans=False)
        self.step = step
        self._tell(Logged(Rewind(step=step, version=version, orphans=False)))

    async def _release(self) -> None:
        assert self.buffer.state.phase is not None
        step = self.step - 1
        if step > self.buffer.state.floor:
            await self.buffer.release(self.buffer.state.phase.phase, step)
            self._tell(Logged(Release(step=step)))

    async def remember(self) -> None:
        """An experience of a query that may have been remembered before."""
        query = self._chance.choice(("q0", "q1", "q2", "q3", *self._hidden))
        vector = np.eye(3, dtype=np.float32)[self._chance.randrange(3)]
        fields: dict[str, Any] = {"family": "f", "chain": (), "answer": f"answer to {query}", "confidence": 1.0}
        await self.buffer.remember(vector, query_id=query, **fields)
        kept = Experience(query_id=query, encoder=INDEX.encoder, vector=vector.astype("<f4").tobytes(), **fields)
        self._tell(Logged(kept, query))

    def erase(self) -> None:
        """Erase SECRET, if the log holds something of it."""
        self._hidden = ()
        self._tell(Erasing())
        try:
            erase_source(self.config.folder, SECRET, disk=self._disk)
        except UserError:
            return
        self._tell(Gone())

    def prune_from_here(self) -> None:
        self.config = dataclasses.replace(self.config, retention=Retention(keep_bytes=48 << 10))


async def live(play: Play, disk: RecordingDisk, chance: random.Random) -> None:
    """Three processes that learn, and one between them that erases. Each may be killed at any of its calls."""
    for number in range(4):
        if chance.random() < 0.6:
            disk.calls_left = chance.randrange(120 if number != 2 else 40)
        try:
            await one_life(play, number, steps=chance.randint(1, 3), close=chance.random() < 0.6)
        except (Killed, ReplayError):
            if disk.calls_left is None or disk.calls_left >= 0:
                raise
        disk.calls_left = None


async def one_life(play: Play, number: int, *, steps: int, close: bool) -> None:
    """Process `number` of four: 2 erases, the others learn; 3 votes, and prunes when it opens."""
    if number == 2:
        play.erase()
        return
    if number == 3:
        play.prune_from_here()
    play.open()
    try:
        await play.begin("rft")
        if number == 3:  # what was drawn before is taken back or applied, so this phase may end
            await play.begin("ttrl", votes=True)
        await play.steps(steps)
        if close:
            await play.close()
    except ReplayError:
        await play.check_over()
        raise
    finally:
        await play.leave()
