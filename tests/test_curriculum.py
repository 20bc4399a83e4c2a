"""The curriculum: what is drawn when, and the way back when earlier levels are lost."""

from __future__ import annotations

import json
from collections.abc import Collection

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ContractError
from learner.config import Curriculum, RollbackConfig, ScheduleConfig, SftConfig
from learner.curriculum import Ratchet, choose, earlier_levels, entry_at, is_held_out

STEPS = 60
ENTRIES = (Curriculum(levels=(1,), until=1 / 3), Curriculum(levels=(2,), until=2 / 3))


def sft(batch_size: int = 20, num_steps: int = 100, curriculum: tuple[Curriculum, ...] = ENTRIES) -> SftConfig:
    schedule = ScheduleConfig(lr=1e-3, num_steps=num_steps)
    return SftConfig(schedule=schedule, batch_size=batch_size, curriculum=curriculum)


def test_the_curriculum_draws_allowed_levels_and_repeats_exactly() -> None:
    config = sft(curriculum=(Curriculum(levels=(1,), until=0.3), Curriculum(levels=(1, 2), until=0.6)))
    levels = [1, 2, 3] * 5
    seen = {step: {levels[i] for i in choose(levels, step=step, config=config, seed=0)} for step in (0, 29, 30, 80)}
    assert seen == {0: {1}, 29: {1}, 30: {1, 2}, 80: {1, 2, 3}}
    assert choose(levels, step=5, config=config, seed=0) == choose(levels, step=5, config=config, seed=0)
    assert choose(levels, step=5, config=config, seed=0) != choose(levels, step=6, config=config, seed=0)
    assert choose([3, 3], step=0, config=config, seed=0)  # nothing of level 1 yet: all are drawn from
    with pytest.raises(ContractError, match="no traces"):
        choose([], step=0, config=config, seed=0)


def test_entries_follow_one_another_and_name_what_came_before() -> None:
    assert [entry_at(ENTRIES, progress) for progress in (0.0, 0.33, 0.34, 0.66, 0.67, 1.0)] == [0, 0, 1, 1, 2, 2]
    assert [earlier_levels(ENTRIES, entry) for entry in (0, 1, 2)] == [[], [1], [1, 2]]


def test_a_share_of_earlier_levels_is_drawn_beside_the_present_one() -> None:
    levels = [1] * 10 + [2] * 10
    config = sft(batch_size=4000)
    picks = [levels[i] for i in choose(levels, step=50, config=config, seed=0, share=0.25)]
    assert picks.count(1) == pytest.approx(1000, abs=120)  # four standard deviations
    first = [levels[i] for i in choose(levels, step=5, config=config, seed=0, share=0.25)]
    assert set(first) == {1}  # before the first advance there is nothing earlier
    assert choose(levels, step=50, config=config, seed=0, share=0.0) == choose(levels, step=50, config=config, seed=0)


def test_held_out_traces_are_a_fixed_share() -> None:
    held = {f"t{i}" for i in range(4000) if is_held_out(f"t{i}", 0.1, 3)}
    assert len(held) == pytest.approx(400, abs=80)
    assert held == {f"t{i}" for i in range(4000) if is_held_out(f"t{i}", 0.1, 3)}
    assert held != {f"t{i}" for i in range(4000) if is_held_out(f"t{i}", 0.1, 4)}


class FakeTrainer:
    """A learner whose whole state is its accuracy by level. A step raises the level that it draws and lowers the ones
    before by what `forgets` says, less where a share of them is in the batch."""

    def __init__(self, forgets: float = 0.0) -> None:
        self.accuracy = {1: 0.5, 2: 0.5, 3: 0.5}
        self.forgets = forgets
        self.kept: dict[int, float] | None = None
        self.returns: list[dict[int, float]] = []

    def learn(self, level: int, share: float) -> None:
        for number in self.accuracy:
            change = 0.02 if number == level else -self.forgets * max(0.0, 1 - 2 * share) if number < level else 0.0
            self.accuracy[number] = min(1.0, max(0.0, self.accuracy[number] + change))

    def measure(self, levels: Collection[int]) -> dict[int, float]:
        return {level: self.accuracy[level] for level in levels}

    def keep(self) -> None:
        self.kept = dict(self.accuracy)

    def go_back(self) -> None:
        assert self.kept is not None
        self.accuracy = dict(self.kept)
        self.returns.append(dict(self.accuracy))

    def let_go(self) -> None:
        self.kept = None


def a_ratchet(**changes: float) -> Ratchet:
    config = RollbackConfig(**({"every": 5, "tolerance": 0.06} | changes))  # type: ignore[arg-type]
    return Ratchet(config, ENTRIES, num_steps=STEPS)


def drive(ratchet: Ratchet, trainer: FakeTrainer, steps: range = range(STEPS)) -> list[dict[str, float]]:
    """Train on level 1, 2, 3 for a third of the steps each; the metrics of the steps that measured."""
    found = []
    for step in steps:
        ratchet.before(step, trainer)
        trainer.learn(1 + entry_at(ENTRIES, step / STEPS), ratchet.share)
        found.append(ratchet.after(step, trainer))
    return [metrics for metrics in found if metrics]


def test_a_learner_that_forgets_goes_back_and_keeps_more_of_what_was_before() -> None:
    ratchet, trainer = a_ratchet(), FakeTrainer(forgets=0.02)
    before = drive(ratchet, FakeTrainer(forgets=0.02), range(20))
    assert before == []  # nothing was learned before the first level
    ratchet = a_ratchet()
    metrics = drive(ratchet, trainer)
    # .02 a step falls by .10 in five; half kept at a share of .25 (.05, accepted after 5 steps, .10 after 10)
    assert [m["rollbacks"] for m in metrics][:4] == [1, 1, 2, 2]
    assert trainer.returns[0] == {1: pytest.approx(0.9), 2: 0.5, 3: 0.5}
    assert ratchet.share == pytest.approx(1 - 0.75**ratchet.num_rollbacks)
    assert trainer.accuracy[1] > 0.7
    plain = FakeTrainer(forgets=0.02)
    drive(a_ratchet(every=0), plain)
    assert plain.accuracy[1] == pytest.approx(0.1)


def test_a_learner_that_forgets_nothing_never_goes_back() -> None:
    ratchet, trainer = a_ratchet(), FakeTrainer()
    metrics = drive(ratchet, trainer)
    assert len(metrics) == 8  # every fifth of the forty steps after the first advance
    assert trainer.returns == []
    assert ratchet.share == 0.0


def test_without_it_nothing_is_measured_or_kept() -> None:
    trainer = FakeTrainer(forgets=0.1)
    assert drive(a_ratchet(every=0), trainer) == []
    assert trainer.kept is None


FORGETS = st.floats(0, 0.1)
EVERY = st.integers(1, 12)


@given(FORGETS, EVERY, st.integers(0, 4), st.floats(0, 0.3))
def test_rollbacks_are_bounded_and_only_follow_a_fall(
    forgets: float, every: int, max_rollbacks: int, tolerance: float
) -> None:
    ratchet = a_ratchet(every=every, max_rollbacks=max_rollbacks, tolerance=tolerance)
    trainer = FakeTrainer(forgets)
    metrics = drive(ratchet, trainer)
    assert len(trainer.returns) == ratchet.num_rollbacks <= max_rollbacks
    assert sum(m["earlier_fall"] > tolerance for m in metrics) == ratchet.num_rollbacks
    assert 0 <= ratchet.share < 1
    shares = [m["earlier_share"] for m in metrics]
    assert shares == sorted(shares)


@given(FORGETS, EVERY, st.integers(0, STEPS))
def test_a_ratchet_put_down_and_taken_up_goes_on_as_it_would_have(forgets: float, every: int, cut: int) -> None:
    whole, apart = a_ratchet(every=every), a_ratchet(every=every)
    one, two = FakeTrainer(forgets), FakeTrainer(forgets)
    expected = drive(whole, one)
    found = drive(apart, two, range(cut))
    resumed = a_ratchet(every=every)
    resumed.load_state(json.loads(json.dumps(apart.state())))
    found += drive(resumed, two, range(cut, STEPS))
    assert found == expected
    assert two.accuracy == one.accuracy
    assert resumed.state() == whole.state()


@pytest.mark.parametrize(
    ("name", "value"), [("every", -1), ("held_out", 0.0), ("held_out", 1.0), ("share", 1.0), ("tolerance", -0.1)]
)
def test_a_way_back_that_cannot_be_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        RollbackConfig(**{name: value})  # type: ignore[arg-type]
