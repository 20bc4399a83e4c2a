"""The replay against a model of it (fakes/replay_model): whatever is called in whatever order, both say the same."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections import Counter
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pytest
from fakes.replay_model import Group, Model
from fakes.values import a_consensus, a_query, a_rollout, an_answer_turn
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from common.errors import ConfigError, ContractError
from common.schema import encode_rollouts
from common.types import Draw, Rollout
from replay.buffer import ReplayBuffer
from replay.config import Drawing, Durability, ReplayConfig
from replay.folding import fold
from replay.log import Log
from replay.opening import open_replay
from replay.records import Rewind

R = TypeVar("R")
SELECTORS = ("fifo", "in_order", "fifo", "in_order", "uniform", "windowed", "prioritised", "mixture")


@st.composite
def drawings(draw: st.DrawFn) -> Drawing:
    max_reuse = draw(st.integers(1, 3))
    return Drawing(
        selector=draw(st.sampled_from(SELECTORS)),  # type: ignore[arg-type]
        seed=draw(st.integers(0, 9)),
        max_reuse=max_reuse,
        samples_per_insert=draw(st.sampled_from((1.0, float(max_reuse)))),
        window=3,
        min_groups=draw(st.integers(0, 1)),
        error_budget=draw(st.integers(0, 1)),
        fresh=0.5 if max_reuse > 1 else 1.0,
    )


class Replays(RuleBasedStateMachine):
    """A real buffer on files, and the model.

    open: opens the buffer, so that a test can give a bad one. reached: how often what did happen.
    """

    reached: ClassVar[Counter[str]] = Counter()

    @staticmethod
    def open(config: ReplayConfig, *, verify: bool) -> ReplayBuffer:
        return open_replay(config, verify=verify)

    @initialize(
        groups_per_step=st.integers(1, 2),
        lag=st.integers(0, 2),
        drawing=drawings(),
        votes=st.booleans(),
        drop=st.booleans(),
        keep=st.sampled_from((2, 3, 1024)),
    )
    def start(self, *, groups_per_step: int, lag: int, drawing: Drawing, votes: bool, drop: bool, keep: int) -> None:
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp(prefix="replay-model-"))
        self.config = ReplayConfig(
            folder=self.folder,
            segment_bytes=1 << 14,
            snapshot_bytes=1 << 15,
            keep_draws=keep,
            durability=Durability(mode="os"),
            drawing=drawing,
            drop_zero_variance=drop,
        )
        self.model = Model(groups_per_step=groups_per_step, lag=lag, drawing=drawing, votes=votes, drop=drop, keep=keep)
        self.offered: list[Rollout] = []
        self.phase, self.version, self.sequence, self.duplicates = 0, 0, 0, 0
        self.buffer = self.open(self.config, verify=False)
        self.run(self._begin(0))

    def run(self, work: Coroutine[Any, Any, R]) -> R:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        if hasattr(self, "buffer"):
            self.reached.update(self.model.counts())
            self.run(self.buffer.close())
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
            self.loop.close()
            shutil.rmtree(self.folder)

    async def _begin(self, step: int) -> None:
        await self.buffer.begin(
            f"rft{self.phase}",
            groups_per_step=self.model.groups_per_step,
            max_policy_lag=self.model.lag,
            votes=self.model.votes,
            step=step,
            version=self.version,
        )

    def _new_version(self) -> int:
        self.version += 1
        return self.version

    @rule(size=st.integers(2, 3))
    def admit(self, size: int) -> None:
        if not self.model.may_admit():
            self.run(self._waits(self.buffer.admit()))
            return
        number = self.run(self.buffer.admit())
        assert number == len(self.model.groups)
        self.model.groups[f"rft{self.phase}/{number}"] = Group(number, size)

    async def _waits(self, call: Coroutine[Any, Any, Any]) -> None:
        """It has not ended after all that could be done was done; then it is given up."""
        task = asyncio.ensure_future(call)
        for _ in range(5):
            await asyncio.sleep(0)
        assert not task.done()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    @precondition(lambda self: self.model.groups)
    @rule(which=st.integers(0), age=st.sampled_from((0, 0, 0, 1, 2)), score=st.integers(0, 1), bad=st.integers(0, 9))
    def add(self, which: int, age: int, score: int, bad: int) -> None:
        """A rollout for a group that lacks one, or late for one that is over."""
        open_ones = [n for n, g in self.model.groups.items() if g.over or len(g.rollouts) < g.size]
        if not open_ones:
            return
        self._add(open_ones[which % len(open_ones)], age, score, bool(bad))

    def _add(self, name: str, age: int, score: int, good: bool) -> None:
        group = self.model.groups[name]
        version = max(self.version - age, min(self.model.published))
        rollout = a_rollout(
            name,
            rollout_id=f"{name}/{self.sequence}",
            sequence=self.sequence,
            group_size=group.size,
            phase=f"rft{self.phase}",
            score=float(score),
            query=a_query("q", images=()),
            turns=(an_answer_turn(version=version),),
            calls=(),
        )
        if not good:
            rollout = replace(rollout, turns=(), stop_reason="quarantined")
        self.sequence += 1
        self.offered.append(rollout)
        assert self.run(self.buffer.add(encode_rollouts([rollout])))
        self.model.num_inserted += 1
        self.model.num_quarantined += not good
        if name in self.model.live():
            group.rollouts[rollout.rollout_id] = (version, float(score)) if good else None
            self.model.judge(group)
        else:
            self.model.past["late"] += good

    @precondition(lambda self: self.offered)
    @rule(which=st.integers(0))
    def add_again(self, which: int) -> None:
        rollout = self.offered[which % len(self.offered)]
        assert not self.run(self.buffer.add(encode_rollouts([rollout])))
        self.duplicates += 1

    @precondition(lambda self: self.model.groups)
    @rule(which=st.integers(0), answer=st.sampled_from(("493", "493", None)))
    def settle(self, which: int, answer: str | None) -> None:
        self._settle(list(self.model.groups)[which % len(self.model.groups)], answer)

    def _settle(self, name: str, answer: str | None) -> None:
        vote = a_consensus(name, answer=answer)
        if not self.model.votes:
            with pytest.raises(ContractError, match="takes no votes"):
                self.run(self.buffer.settle(vote))
            return
        self.run(self.buffer.settle(vote))
        if name in self.model.live():
            self.model.groups[name].vote = answer or ""
            self.model.judge(self.model.groups[name])

    @rule(age=st.sampled_from((0, 0, 1)), same=st.booleans(), learns=st.booleans())
    def turn(self, age: int, same: bool, learns: bool) -> None:
        """What a run does: groups start while they may and are filled, and the learner draws, and learns."""
        while self.model.may_admit():
            self.admit(2)
        for name, group in list(self.model.live().items()):
            while len(group.rollouts) < group.size and not group.over:
                self._add(name, age, 1 if same and name.endswith("1") else len(group.rollouts), True)
            if self.model.votes and group.vote is None and not group.over:
                self._settle(name, "493")
        if self.model.next_step - self.model.step < 2:
            self._sample(self.model.next_step)
        if learns and self.model.step < self.model.next_step:
            self.advance()

    @precondition(lambda self: self.model.groups)
    @rule(which=st.integers(0))
    def abandon(self, which: int) -> None:
        name = list(self.model.groups)[which % len(self.model.groups)]
        self.run(self.buffer.abandon(name, "gone"))
        if name in self.model.live():
            self.model.groups[name].over = "gone"

    @precondition(lambda self: self.model.next_step - self.model.step < 2)
    @rule()
    def sample(self) -> None:
        self._sample(self.model.next_step)

    def _sample(self, step: int) -> None:
        pool, count, num_fresh = self.model.choices(step)
        if not pool:
            self.run(self._waits(self.buffer.sample(step)))
            return
        draw = self.run(self.buffer.sample(step))
        names = list(dict.fromkeys(name.rpartition("/")[0] for name in draw.rollout_ids))
        assert len(names) == count and set(names) <= set(pool)
        assert set(pool[:num_fresh]) <= set(names)
        assert names == sorted(names, key=lambda name: self.model.groups[name].number)
        self.reached["draws"] += 1
        self.reached["draws again"] += any(self.model.times(name) for name in names)
        self.model.drawn(step, names)
        self._whole(draw, names)

    def _whole(self, draw: Draw, names: list[str]) -> None:
        assert list(draw.rollout_ids) == [rollout for name in names for rollout in self.model.groups[name].usable]
        assert len(draw.consensus) == len(names) * self.model.votes

    @rule(back=st.integers(-1, 4))
    def sample_another(self, back: int) -> None:
        """A step that was drawn for, is forgotten, or has not come yet."""
        step = self.model.next_step - back
        if back and step in self.model.draws and step >= self.model.floor:
            self._whole(self.run(self.buffer.sample(step)), self.model.draws[step])
        elif back:
            with pytest.raises(ContractError, match="the next one is for"):
                self.run(self.buffer.sample(step))

    @precondition(lambda self: self.model.step < self.model.next_step)
    @rule()
    def advance(self) -> None:
        self.model.step += 1
        self.model.published[self._new_version()] = self.model.step
        self.run(self.buffer.advance(self.model.step, self.version))

    @rule(back=st.integers(0, 3), orphans=st.booleans())
    def rewind(self, back: int, orphans: bool) -> None:
        step = self.model.next_step - back
        if step < self.model.floor:
            with pytest.raises(ConfigError, match="the replay remembers steps"):
                self.run(self.buffer.rewind(step, version=self.version, orphans=orphans))
            return
        self.reached["draws taken back"] += step in self.model.draws
        self.model.rewind(step, self._new_version(), orphans)
        self.run(self.buffer.rewind(step, version=self.version, orphans=orphans))

    @rule(back=st.integers(0, 2))
    def release(self, back: int) -> None:
        """A checkpoint holds steps that the learner has done."""
        step = self.model.step - back
        self.run(self.buffer.release(f"rft{self.phase}", step))
        self.model.floor = max(self.model.floor, step)

    @rule(verify=st.booleans())
    def reopen(self, verify: bool) -> None:
        self.reached["reopened after draws"] += bool(self.model.draws)
        self.run(self.buffer.close())
        self.buffer, self.duplicates = self.open(self.config, verify=verify), 0

    @precondition(lambda self: self.model.step)
    @rule(step=st.integers(0, 3))
    def another_phase(self, step: int) -> None:
        self.phase += 1
        self.model.begin(step, self._new_version())
        self.run(self._begin(step))

    @invariant()
    def both_say_the_same(self) -> None:
        if not hasattr(self, "buffer"):
            return
        stats, model = self.run(self.buffer.stats()), self.model
        counts = model.counts()
        spent = {why: n for why, n in counts.items() if n and why not in ("live", "expired")}
        assert (stats.live, stats.expired, stats.spent_reasons) == (counts["live"], counts["expired"], spent)
        assert stats.inserted == model.num_inserted == counts.total() + stats.quarantined
        assert stats.quarantined == model.num_quarantined and stats.duplicates == self.duplicates
        assert (stats.step, stats.admitted) == (model.step, len(model.groups))
        state = self.buffer.state
        assert state.may_admit() == model.may_admit() and state.next_step == model.next_step
        assert list(state.groups) == list(model.live())
        assert {step: list(draw.group_ids) for step, draw in state.draws.items()} == {
            step: names for step, names in model.draws.items() if step >= model.floor
        }
        assert max(map(model.times, model.groups), default=0) <= model.drawing.max_reuse
        assert stats.phase_policy_lag <= model.lag


class Forgetful(Replays):
    """Opening forgets the last draw."""

    @staticmethod
    def open(config: ReplayConfig, *, verify: bool) -> ReplayBuffer:
        log = Log(config.folder / "log")
        state = fold(log)
        if state.draws:
            state.apply(Rewind(step=max(state.draws), version=max(state.versions), orphans=False))
        return ReplayBuffer(config, log=log, state=state)


def test_the_replay_and_its_model_say_the_same() -> None:
    Replays.reached = Counter()
    run_state_machine_as_test(
        Replays, settings=settings(max_examples=25, stateful_step_count=30, deadline=None, derandomize=True)
    )
    assert Replays.reached["draws"] > 0 and Replays.reached["reopened after draws"] > 0


def test_a_draw_that_opening_forgets_is_noticed() -> None:
    unshrunk = settings(
        max_examples=100,
        stateful_step_count=30,
        deadline=None,
        phases=[Phase.generate],
        derandomize=True,
        report_multiple_bugs=False,
    )
    with pytest.raises((AssertionError, ContractError, ConfigError)):
        run_state_machine_as_test(Forgetful, settings=unshrunk)
