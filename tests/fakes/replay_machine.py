"""Whatever may be called of a replay, in whatever order, and what its model (fakes/replay_model) then says."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from fakes.replay_model import Group, Model
from fakes.replay_pools import check_candidates
from fakes.stalling import Stalled, StallingLoop
from fakes.values import a_consensus, a_query, a_rollout, an_answer_turn
from hypothesis import strategies as st
from hypothesis import target
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from common.errors import ConfigError, ContractError
from common.schema import encode_rollouts, rollout_keys
from common.types import Draw, Rollout
from replay.buffer import ReplayBuffer
from replay.config import Drawing, Durability, ReplayConfig
from replay.opening import open_replay
from replay.records import Begin

FLAWS = ("", "alike", "bad", "old", "partial", "unsettled", "alike", "bad")
SELECTORS = ("fifo", "in_order", "uniform", "windowed", "prioritised", "mixture")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What the runs of one search have in common; hypothesis chooses the rest."""

    max_reuse: int = 1
    lags: tuple[int, ...] = (0, 1, 2)
    votes: bool = False
    drop: bool = False


class Replays(RuleBasedStateMachine):
    """A real buffer on files, and the model.

    kind: of settings. open: opens the buffer, so that a test can give a bad one. past: rollouts that are in no group of
    the model, by what became of them. seen: how often what happened in this run; reached: in all, with all rollouts.
    """

    kind: ClassVar = Kind(drop=True)
    reached: ClassVar[Counter[str]] = Counter()

    @staticmethod
    def open(config: ReplayConfig, *, verify: bool) -> ReplayBuffer:
        return open_replay(config, verify=verify)

    @initialize(
        groups_per_step=st.integers(1, 2),
        selector=st.sampled_from(SELECTORS),
        seed=st.integers(0, 9),
        slow=st.booleans(),
        error_budget=st.integers(0, 1),
        keep_draws=st.sampled_from((1024, 3, 2, 1)),
        turns=st.integers(0, 4),
        flaw=st.sampled_from(FLAWS),
        learns=st.booleans(),
        data=st.data(),
    )
    def start(
        self,
        *,
        groups_per_step: int,
        selector: Any,
        seed: int,
        slow: bool,
        error_budget: int,
        keep_draws: int,
        turns: int,
        flaw: str,
        learns: bool,
        data: st.DataObject,
    ) -> None:
        lag = data.draw(st.sampled_from(self.kind.lags), "lag")
        self.loop = StallingLoop()
        self.folder = Path(tempfile.mkdtemp(prefix="replay-model-"))
        drawing = Drawing(
            selector=selector,
            seed=seed,
            max_reuse=self.kind.max_reuse,
            samples_per_insert=1.0 if slow else self.kind.max_reuse,
            window=3,
            min_groups=data.draw(st.integers(0, (lag + 1) * groups_per_step), "min_groups"),
            error_budget=error_budget,
            fresh=0.5 if self.kind.max_reuse > 1 else 1.0,
        )
        self.config = ReplayConfig(
            folder=self.folder,
            segment_bytes=1 << 14,
            snapshot_bytes=1 << 15,
            keep_draws=keep_draws,
            durability=Durability(mode="os"),
            drawing=drawing,
            drop_zero_variance=self.kind.drop,
        )
        self.past, self.seen, self.offered = Counter[str](), Counter[str](), list[Rollout]()
        self.version = self.num_sent = self.num_quarantined = self.num_duplicates = 0
        self.buffer = self.open(self.config, verify=False)
        self._begin(
            Begin(
                phase="rft0",
                groups_per_step=groups_per_step,
                max_policy_lag=lag,
                votes=self.kind.votes,
                step=0,
                version=0,
                drawing=drawing,
            )
        )
        self.train(flaw=flaw, learns=learns, turns=turns)

    def teardown(self) -> None:
        if hasattr(self, "buffer"):
            self.reached.update(self.seen + self.past + self.model.fates())
            target(float(self.seen["groups drawn again"]), label="groups drawn again")
            self.loop.run(self.buffer.close())
            self.loop.close()
            shutil.rmtree(self.folder)

    def must_wait(self, call: Coroutine[Any, Any, Any]) -> None:
        with pytest.raises(Stalled):
            self.loop.run(call)

    def _begin(self, phase: Begin) -> None:
        self._restore(phase)
        self.model, self.floor = Model(phase, drop=self.config.drop_zero_variance), phase.step

    def _restore(self, phase: Begin) -> None:
        """Begin a phase, or go back in the one under way."""
        self.loop.run(
            self.buffer.begin(
                phase.phase,
                groups_per_step=phase.groups_per_step,
                max_policy_lag=phase.max_policy_lag,
                votes=phase.votes,
                step=phase.step,
                version=phase.version,
            )
        )

    @property
    def next_step(self) -> int:
        """The step that the next draw is for."""
        drawn: dict[int, list[str]] = self.model.draws
        return max(drawn, default=self.model.phase.step - 1) + 1

    def _new_version(self) -> int:
        self.version += 1
        return self.version

    # ── groups and rollouts ──────────────────────────────────────────────────────────────────────────────────────────

    @rule(size=st.integers(2, 3))
    def admit(self, size: int) -> None:
        if not self.model.may_admit():
            self.seen["admissions that wait"] += 1
            self.must_wait(self.buffer.admit())
            return
        number = self.loop.run(self.buffer.admit())
        assert number == len(self.model.groups)
        vote = None if self.model.phase.votes else "none"
        self.model.groups[f"{self.model.phase.phase}/{number}"] = Group(size, vote)

    @precondition(lambda self: self._open())
    @rule(which=st.integers(0), age=st.sampled_from((0, 0, 0, 1, 2)), score=st.integers(0, 1), bad=st.integers(0, 9))
    def add(self, which: int, age: int, score: int, bad: int) -> None:
        """A rollout for a group that lacks one, or late for one that is over."""
        self._add(self._open()[which % len(self._open())], age, score, good=bad > 0)

    def _open(self) -> list[str]:
        return [n for n, group in self.model.groups.items() if group.num_missing or not self._lives(n)]

    def _lives(self, name: str) -> bool:
        return self.model.fate(name) == "live"

    def _add(self, name: str, age: int, score: int, *, good: bool) -> None:
        """Later rollouts have lower ids, so an order by arrival is another than by id. age: in versions; the oldest may
        be of an earlier phase.
        """
        group, version = self.model.groups[name], max(self.version - age, 0)
        rollout = a_rollout(
            name,
            rollout_id=f"{name}/{9_999 - self.num_sent}",
            sequence=self.num_sent,
            group_size=group.size,
            phase=self.model.phase.phase,
            score=float(score),
            query=a_query("q", images=()),
            turns=(an_answer_turn(version=version),),
            calls=(),
        )
        if not good:
            rollout = replace(rollout, turns=(), stop_reason="quarantined")
        late = not self._lives(name)
        assert self.loop.run(self.buffer.add(encode_rollouts([rollout])))
        self.offered.append(rollout)
        self.num_sent += 1
        self.num_quarantined += not good
        if late:
            self.past["late"] += good
        elif good:
            group.usable[rollout.rollout_id] = (version, float(score))
        else:
            group.num_quarantined += 1

    @precondition(lambda self: self.offered)
    @rule(which=st.integers(0))
    def add_again(self, which: int) -> None:
        rollout = self.offered[which % len(self.offered)]
        assert not self.loop.run(self.buffer.add(encode_rollouts([rollout])))
        self.num_duplicates += 1

    @precondition(lambda self: any(self.model.groups[name].usable for name in self.model.live()))
    @rule(which=st.integers(0))
    def add_as_another(self, which: int) -> None:
        """A call that ran twice: its rollout's id is in a live group, under another number of its producer."""
        held = {rollout for name in self.model.live() for rollout in self.model.groups[name].usable}
        copies = [rollout for rollout in self.offered if rollout.rollout_id in held]
        again = replace(copies[which % len(copies)], sequence=10_000)
        assert not self.loop.run(self.buffer.add(encode_rollouts([again])))
        self.num_duplicates += 1

    @precondition(lambda self: self.model.groups)
    @rule(which=st.integers(0), answer=st.sampled_from(("493", "493", None)))
    def settle(self, which: int, answer: str | None) -> None:
        self._settle(list(self.model.groups)[which % len(self.model.groups)], answer)

    def _settle(self, name: str, answer: str | None) -> None:
        """The first vote over a group counts."""
        vote, lives = a_consensus(name, answer=answer), self._lives(name)
        if not self.model.phase.votes:
            with pytest.raises(ContractError, match="takes no votes"):
                self.loop.run(self.buffer.settle(vote))
            return
        self.loop.run(self.buffer.settle(vote))
        if lives and self.model.groups[name].vote is None:
            self.model.groups[name].vote = answer or ""

    @precondition(lambda self: self.model.groups)
    @rule(which=st.integers(0))
    def abandon(self, which: int) -> None:
        """One that is over stays as it was."""
        name = list(self.model.groups)[which % len(self.model.groups)]
        self.loop.run(self.buffer.abandon(name, "gone"))
        if self._lives(name):
            self.model.groups[name].ended = "gone"

    # ── draws ────────────────────────────────────────────────────────────────────────────────────────────────────────

    @rule(
        flaw=st.sampled_from(FLAWS),
        learns=st.booleans(),
        turns=st.integers(1, 3),
    )
    def train(self, flaw: str, learns: bool, turns: int) -> None:
        """What a run does: groups start while they may and are filled, and the learner draws, and learns.

        flaw: what is wrong with the first group of each turn: its rollouts are "alike" and the vote abstains, one is
        "bad", they are of an "old" version, "partial": one is missing, or "unsettled": the vote is.
        """
        for _ in range(turns):
            while self.model.may_admit():
                self.admit(2)
            unfilled = [name for name in self.model.live() if not self.model.groups[name].ready]
            for name in unfilled:
                self._fill(name, flaw if name == unfilled[0] else "")
            self.sample()
            if learns and self.model.step < self.next_step:
                self.advance()

    def _fill(self, name: str, flaw: str) -> None:
        group = self.model.groups[name]
        for sibling in range(group.num_missing - (flaw == "partial")):
            self._add(name, 2 * (flaw == "old"), sibling * (flaw != "alike"), good=sibling > 0 or flaw != "bad")
        if group.vote is None and flaw != "unsettled" and self._lives(name):
            self._settle(name, None if flaw == "alike" else "493")

    @precondition(lambda self: self.model.groups)
    @rule()
    def sample(self) -> None:
        step = self.next_step
        self.model.expire(step)
        legal = self.model.legal_draws()
        if not legal:
            self.seen["draws that wait"] += 1
            self.must_wait(self.buffer.sample(step))
            return
        draw = self.loop.run(self.buffer.sample(step))
        names = list(dict.fromkeys(name.rpartition("/")[0] for name in draw.rollout_ids))
        assert names in legal
        assert self.buffer.state.draws[step].lag == max(self.model.age(name, step) for name in names)
        self.seen["draws"] += 1
        self.seen["groups drawn again"] += sum(self.model.times(name) > 0 for name in names)
        self.model.draws[step] = names
        self.floor = max(self.floor, self.next_step - self.config.keep_draws)
        self.seen["draws forgotten before they were learned"] += self.floor > self.model.step
        self._whole(draw, names)

    def _whole(self, draw: Draw, names: list[str]) -> None:
        """Every usable rollout of every group, in the order of their ids, and nothing else."""
        whole = [rollout for name in names for rollout in sorted(self.model.groups[name].usable)]
        assert [*draw.rollout_ids] == [keys.rollout_id for keys in rollout_keys(draw.rollouts)] == whole
        assert [vote.group_id for vote in draw.consensus] == names * self.model.phase.votes

    @precondition(lambda self: self.model.draws)
    @rule(back=st.integers(-1, 4))
    def sample_another(self, back: int) -> None:
        """A step that was drawn for, is forgotten, or has not come yet."""
        step = self.next_step - back
        if back and step in self.model.draws and step >= self.floor:
            self.seen["draws repeated"] += 1
            self._whole(self.loop.run(self.buffer.sample(step)), self.model.draws[step])
        elif back:
            with pytest.raises(ContractError, match="the next one is for"):
                self.loop.run(self.buffer.sample(step))

    @precondition(lambda self: self.model.step < self.next_step)
    @rule()
    def advance(self) -> None:
        self.model.step += 1
        self.model.published[self._new_version()] = self.model.step
        self.loop.run(self.buffer.advance(self.model.step, self.version))

    @precondition(lambda self: self.model.draws)
    @rule(back=st.integers(0, 3), how=st.sampled_from(("orphans", "none", "begin")))
    def rewind(self, back: int, how: str) -> None:
        """Most go back to a step that is remembered. begin: as a run does that was started again."""
        step, version = self.next_step - back, self._new_version()
        phase = replace(self.model.phase, step=step, version=version)
        if step < self.floor:
            self.seen["rewinds refused"] += 1
            with pytest.raises(ConfigError, match="the replay remembers steps"):
                self._restore(phase)
            return
        taken = [name for at, names in self.model.draws.items() if at >= step for name in names]
        again = [name for name in set(taken) if self.model.times(name) > 1]
        self.seen["draws taken back"] += step in self.model.draws
        kept = sum(self.model.times(name) > taken.count(name) for name in again)
        self.seen["groups drawn again and one draw taken back"] += kept
        self.seen["groups drawn again and all draws taken back"] += len(again) - kept
        self.model.rewind(step, version, orphans=how != "none")
        if how == "begin":
            self._restore(phase)
        else:
            self.loop.run(self.buffer.rewind(step, version=version, orphans=how == "orphans"))

    @rule(
        flaw=st.sampled_from(("", "partial", "unsettled")),
        turns=st.integers(1, 3),
        back=st.integers(1, 3),
        how=st.sampled_from(("orphans", "none", "begin")),
    )
    def train_and_fall_back(self, flaw: str, turns: int, back: int, how: str) -> None:
        self.train(flaw, True, turns)
        if self.model.draws:
            self.rewind(back, how)

    @precondition(lambda self: self.model.draws)
    @rule(back=st.integers(0, 2))
    def release(self, back: int) -> None:
        """A checkpoint holds steps that the learner has done."""
        step = self.model.step - back
        self.loop.run(self.buffer.release(self.model.phase.phase, step))
        self.floor = max(self.floor, step)

    @precondition(lambda self: self.offered)
    @rule(verify=st.booleans())
    def reopen(self, verify: bool) -> None:
        """And a learner that was killed meanwhile asks for the last draw again."""
        self.seen["reopened after draws"] += bool(self.model.draws)
        self.loop.run(self.buffer.close())
        self.buffer, self.num_duplicates = self.open(self.config, verify=verify), 0
        if self.model.draws:
            self.sample_another(1)

    @precondition(lambda self: self.model.step - self.model.phase.step > 2)
    @rule(step=st.integers(0, 3))
    def another_phase(self, step: int) -> None:
        for name in self.model.live():
            self.model.groups[name].ended = "phase_over"
        self.past += self.model.fates()
        number = int(self.model.phase.phase.removeprefix("rft")) + 1
        self._begin(replace(self.model.phase, phase=f"rft{number}", step=step, version=self._new_version()))

    @invariant()
    def both_say_the_same(self) -> None:
        if not hasattr(self, "buffer"):
            return
        stats, model, state = self.loop.run(self.buffer.stats()), self.model, self.buffer.state
        fates = self.past + model.fates()
        spent = {why: n for why, n in fates.items() if why not in ("live", "expired")}
        assert (stats.live, stats.expired, stats.spent_reasons) == (fates["live"], fates["expired"], spent)
        assert stats.inserted == self.num_sent == fates.total() + stats.quarantined
        assert (stats.quarantined, stats.duplicates) == (self.num_quarantined, self.num_duplicates)
        assert (stats.step, stats.admitted) == (model.step, len(model.groups))
        assert (state.may_admit(), state.next_step) == (model.may_admit(), self.next_step)
        assert list(state.groups) == model.live()
        assert all(closed.reason == model.fate(name) for name, closed in state.closed.items())
        kept = {step: names for step, names in model.draws.items() if step >= self.floor}
        assert {step: list(draw.group_ids) for step, draw in state.draws.items()} == kept
        assert max(map(model.times, model.groups), default=0) <= model.drawing.max_reuse
        assert stats.phase_policy_lag <= model.phase.max_policy_lag
        if not self.buffer._candidates.stale:
            self.seen["counts compared"] += 1
            check_candidates(self.buffer._candidates, model, state, self.next_step)
