"""A history checker: what producers and consumers were told, against what the log holds.

`run_workload` lets several producers and a learner use one real buffer at once: producers repeat, race and cancel
their calls, the learner asks twice, rewinds and starts again over a closed log. Every call and its answer is kept in a
`History`, which knows nothing of the buffer's insides; `check` then reads the log and names every promise that was not
kept.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fakes.values import a_query, a_rollout, an_answer_turn

from common.errors import Stopped
from common.schema import decode_rollouts, encode_rollouts
from common.types import Rollout
from replay.buffer import ReplayBuffer
from replay.config import Drawing, Durability, ReplayConfig
from replay.opening import open_replay
from replay.records import Drawn, Kind, Rewind, decode
from replay.segments import read_frames


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """seed: of every choice. steps: learner steps at least. group_size: rollouts of a group."""

    seed: int
    steps: int = 8
    num_producers: int = 3
    groups_per_step: int = 2
    group_size: int = 2
    lag: int = 1
    in_order: bool = False


@dataclass(slots=True)
class History:
    """What was called and answered, in the order of the answers.

    offered: every rollout that anybody tried to add, by id. answers: of add, (rollout id, whether it was called new).
    learner: (what, step, the rollouts' ids or the version); ("erase", 0, ids) stands where a source was erased.
    unwritten: acknowledged and not in the log at that moment.
    """

    offered: dict[str, Rollout] = field(default_factory=dict)
    answers: list[tuple[str, bool]] = field(default_factory=list)
    learner: list[tuple[str, int, Any]] = field(default_factory=list)
    unwritten: list[str] = field(default_factory=list)
    num_cancelled: int = 0
    num_restarts: int = 0

    @property
    def erased(self) -> frozenset[str]:
        return frozenset(name for what, _, names in self.learner if what == "erase" for name in names)


class _Play:
    def __init__(self, folder: Path, load: Workload) -> None:
        self._config = ReplayConfig(
            folder=folder,
            segment_bytes=1 << 16,
            durability=Durability(mode="os"),
            drawing=Drawing(selector="in_order" if load.in_order else "fifo"),
            drop_zero_variance=False,
        )
        self._load = load
        self._random = random.Random(load.seed)
        self._learners = random.Random(f"{load.seed}/learner")  # of its own, so that no timing changes what it does
        self._cases = random.Random(f"{load.seed}/cases")
        self._buffer: ReplayBuffer
        self._back = asyncio.Event()
        self._work: asyncio.Queue[Rollout] = asyncio.Queue()
        self._sequences = [itertools.count() for _ in range(load.num_producers)]
        self._versions = itertools.count(1)
        self._version = 0
        self.history = History()

    async def run(self) -> History:
        self._open()
        await self._begin(0, 0)
        others = [asyncio.ensure_future(self._admit())]
        others += [asyncio.ensure_future(self._produce()) for _ in range(self._load.num_producers)]
        try:
            await self._learn()
        finally:
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            await self._buffer.close()
        return self.history

    def _open(self) -> None:
        self._buffer = open_replay(self._config)
        self._back.set()

    async def _begin(self, step: int, version: int) -> None:
        load = self._load
        await self._buffer.begin(
            "rft",
            groups_per_step=load.groups_per_step,
            max_policy_lag=load.lag,
            votes=False,
            step=step,
            version=version,
        )

    async def _admit(self) -> None:
        """Start groups while the limiter lets them, and deal their rollouts to the producers."""
        while True:
            buffer = await self._there()
            try:
                number = await buffer.admit()
            except Stopped:
                continue
            who = self._random.randrange(self._load.num_producers)
            for sibling in range(self._load.group_size):
                self._work.put_nowait(self._rollout(number, sibling, who))

    def _rollout(self, number: int, sibling: int, who: int) -> Rollout:
        rollout = a_rollout(
            f"rft/{number}",
            sibling,
            group_size=self._load.group_size,
            producer=f"actor-{who}",
            sequence=next(self._sequences[who]),
            query=a_query("q", images=()),
            turns=(an_answer_turn(version=self._version),),
            calls=(),
            score=float(sibling),
        )
        self.history.offered[rollout.rollout_id] = rollout
        return rollout

    async def _produce(self) -> None:
        """Hand rollouts in until each is acknowledged; sometimes twice at once, again, or with the call given up."""
        while True:
            rollout = await self._work.get()
            data = encode_rollouts([rollout])
            await self._pause()
            match self._cases.randrange(6):
                case 0:
                    await asyncio.gather(self._add(rollout, data), self._add(rollout, data))
                case 1:
                    await self._add(rollout, data)
                    await self._add(rollout, data)
                case 2:
                    given_up = asyncio.ensure_future(self._add(rollout, data))
                    await self._pause()
                    self.history.num_cancelled += given_up.cancel()
                    await asyncio.gather(given_up, return_exceptions=True)
                    await self._add(rollout, data)
                case _:
                    await self._add(rollout, data)

    async def _add(self, rollout: Rollout, data: bytes) -> None:
        while True:
            buffer = await self._there()
            try:
                new = await buffer.add(data)
            except Stopped:
                continue
            self.history.answers.append((rollout.rollout_id, new))
            if self._random.random() < 0.03 and rollout.rollout_id not in rollouts_of(self._config.folder):
                self.history.unwritten.append(rollout.rollout_id)
            return

    async def _learn(self) -> None:
        step = done = 0
        while done < self._load.steps:
            first, second = await asyncio.gather(self._buffer.sample(step), self._buffer.sample(step))
            for draw in (first, second):
                self.history.learner.append(("sample", step, draw.rollout_ids))
            await self._pause()
            self._version = next(self._versions)
            step, done = step + 1, done + 1
            await self._buffer.advance(step, self._version)
            self.history.learner.append(("advance", step, self._version))
            if self._learners.random() < 0.35:
                step = await self._go_back(self._learners.randint(max(0, step - 3), step))

    async def _go_back(self, step: int) -> int:
        """Restore the learner to `step`: with the replay alive, or all of it started again."""
        self._version = next(self._versions)
        if self._learners.random() < 0.5:
            await self._buffer.rewind(step, version=self._version, orphans=False)
        else:
            self._back.clear()
            await self._buffer.close()
            self._open()
            await self._begin(step, self._version)
            self.history.num_restarts += 1
        self.history.learner.append(("rewind", step, self._version))
        return step

    async def _there(self) -> ReplayBuffer:
        await self._back.wait()
        return self._buffer

    async def _pause(self) -> None:
        for _ in range(self._random.randrange(4)):
            await asyncio.sleep(0)


async def run_workload(folder: Path, load: Workload) -> History:
    """Play `load` on a new replay in `folder`."""
    return await _Play(folder, load).run()


def rollouts_of(folder: Path) -> Counter[str]:
    """How often the log holds each rollout, by id; of those that were pruned it holds the keys."""
    frames = [frame for frame in read_frames(folder / "log") if frame.kind in (Kind.ROLLOUT, Kind.PRUNED)]
    return Counter(
        name
        for frame in frames
        for name in (
            [rollout.rollout_id for rollout in decode_rollouts(bytes(frame.body))]
            if frame.kind == Kind.ROLLOUT
            else [getattr(decode(frame.kind, bytes(frame.body)), "rollout_id")]  # noqa: B009
        )
    )


def check(history: History, folder: Path, load: Workload, *, max_reuse: int = 1, killed: bool = False) -> list[str]:
    """Every promise that was not kept, one line each.

    killed: processes were, so a draw may have been logged that the learner never heard of.
    """
    return [
        *_check_arrivals(history, rollouts_of(folder)),
        *_check_draws(history, load, max_reuse=max_reuse),
        *_check_log(history, folder, killed=killed),
    ]


def _check_arrivals(history: History, held: Counter[str]) -> list[str]:
    told_new = Counter(name for name, new in history.answers if new)
    erased = history.erased
    broken = [f"{name} was acknowledged before it was written" for name in history.unwritten]
    broken += [
        f"{name} was acknowledged and is missing"
        for name, _ in history.answers
        if not held[name] and name not in erased
    ]
    broken += [f"{name} was erased and is there" for name in erased if held[name]]
    broken += [f"{name} is kept {times} times" for name, times in held.items() if times > 1]
    broken += [f"{name} was called new {times} times" for name, times in told_new.items() if times > 1]
    broken += [f"{name} is kept and nobody offered it" for name in held if name not in history.offered]
    return broken


def _check_draws(history: History, load: Workload, *, max_reuse: int) -> list[str]:
    """What the learner was handed, in its own order: lines, groups, lag. A draw that an erasure thinned out is only
    compared with what is left of it.
    """
    broken: list[str] = []
    line: dict[int, tuple[str, ...]] = {}
    published = {0: 0}
    thinned: set[int] = set()
    for what, step, value in history.learner:
        if what == "sample":
            if step not in line or step not in thinned:
                broken += _check_draw(history, load, step, value, published)
            if line.setdefault(step, value) != value:
                broken.append(f"step {step} was asked for twice and drawn differently")
        elif what == "advance":
            published[value] = step
        elif what == "erase":
            left = {at: tuple(name for name in ids if name not in value) for at, ids in line.items()}
            thinned |= {at for at in line if left[at] != line[at]}
            line = left
        else:
            thinned = {at for at in thinned if at < step}
            line = {at: ids for at, ids in line.items() if at < step}
            published = {version: min(at, step) for version, at in published.items()} | {value: step}
        times = Counter(name for ids in line.values() for name in ids)
        broken += [f"{name} is drawn {n} times in one line" for name, n in times.items() if n > max_reuse]
    return broken


def _check_draw(
    history: History, load: Workload, step: int, names: tuple[str, ...], published: dict[int, int]
) -> list[str]:
    broken = []
    rollouts = [history.offered[name] for name in names]
    siblings = Counter(rollout.group_id for rollout in rollouts)
    if set(siblings.values()) != {load.group_size} or len(siblings) != load.groups_per_step:
        broken.append(f"step {step} was not handed {load.groups_per_step} whole groups: {dict(siblings)}")
    for rollout in rollouts:
        lag = step - published[rollout.oldest_version]
        if lag > load.lag:
            broken.append(f"{rollout.rollout_id} was {lag} steps old when it was drawn for step {step}")
    return broken


def _check_log(history: History, folder: Path, *, killed: bool) -> list[str]:
    """The log's own draws that survive are those that the learner was handed."""
    told: dict[int, tuple[str, ...]] = {}
    for what, step, value in history.learner:
        told = {at: ids for at, ids in told.items() if at < step} if what == "rewind" else told
        told |= {step: value} if what == "sample" else {}
    logged: dict[int, tuple[str, ...]] = {}
    for frame in read_frames(folder / "log"):
        record = None if frame.kind == Kind.ROLLOUT else decode(frame.kind, bytes(frame.body))
        if isinstance(record, Drawn):
            logged[record.step] = record.rollout_ids
        elif isinstance(record, Rewind):
            logged = {at: ids for at, ids in logged.items() if at < record.step}
    heard = {step: ids for step, ids in logged.items() if step in told or not killed}
    if _without(history.erased, told) == _without(history.erased, heard):
        return []
    return [f"the surviving line was handed {sorted(told)} and the log holds {sorted(logged)}, or with other rollouts"]


def _without(erased: frozenset[str], line: dict[int, tuple[str, ...]]) -> dict[int, tuple[str, ...]]:
    return {step: tuple(name for name in ids if name not in erased) for step, ids in line.items()}
