"""Selectors: against a brute force of what they say, by the frequencies they have, and inside a whole run."""

from __future__ import annotations

import asyncio
import itertools
import math
import random
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fakes.replay_pools import chosen_by_looking_at_all, pool_of
from fakes.replays import a_buffer, a_phase, balanced, put, random_run
from fakes.values import a_consensus, a_group
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from common.errors import ConfigError
from replay.config import Drawing, ReplayConfig
from replay.folding import follow
from replay.limiter import Limiter
from replay.log import Log
from replay.pool import Pool
from replay.records import Drawn, Kind, decode
from replay.rules import ready
from replay.selectors import MIN_PRIORITY, Mixture, Prioritised, Selector, Uniform, priority, selector_of
from replay.state import Group, Member, State

NUM_TRIALS = 4000


def too_old(state: State, step: int) -> list[str]:
    """The groups that may be drawn but for their age at `step`, each of them looked at."""
    assert state.phase is not None
    lags = {name: state.lag(group, step) for name, group in state.groups.items() if ready(state, group)}
    return [name for name, lag in lags.items() if lag is None or lag > state.phase.max_policy_lag]


def groups(*spreads: float, drawn: tuple[int, ...] = ()) -> list[Group]:
    """One group a spread: two siblings whose scores have that standard deviation; numbers in `drawn` were drawn."""
    return [
        Group(
            number=n,
            group_id=f"g{n}",
            size=2,
            members=[
                Member(rollout_id=f"g{n}/{i}", sequence=2 * n + i, oldest_version=0, score=score, quarantined=False)
                for i, score in enumerate((0.0, 2 * spread))
            ],
            draws=[0] if n in drawn else [],
        )
        for n, spread in enumerate(spreads)
    ]


def frequencies(make: Callable[[int], Selector], pool: Pool, count: int) -> Counter[tuple[int, ...]]:
    """How often each set of numbers was taken, over steps and seeds."""
    found: Counter[tuple[int, ...]] = Counter()
    for trial in range(NUM_TRIALS):
        taken = make(trial // 100).select(pool, count=count, step=trial % 100)
        assert taken is not None
        found[tuple(taken)] += 1
    return found


def agrees(found: Counter[tuple[int, ...]], expected: dict[tuple[int, ...], float]) -> None:
    """Every set has the frequency it should have: a χ² test at 0.1 % whose trials are the same at every run."""
    assert set(found) <= set(expected)
    assert math.isclose(sum(expected.values()), 1)
    sets = sorted(expected)
    test = chisquare([found[each] for each in sets], [NUM_TRIALS * expected[each] for each in sets])
    assert test.pvalue > 0.001


def successive(weights: list[float], count: int) -> dict[tuple[int, ...], float]:
    """Brute force: take one after another in proportion to the weights of those that are left; sum over all orders."""
    expected: Counter[tuple[int, ...]] = Counter()
    for order in itertools.permutations(range(len(weights)), count):
        left, chance = sum(weights), 1.0
        for number in order:
            chance *= weights[number] / left
            left -= weights[number]
        expected[tuple(sorted(order))] += chance  # type: ignore[assignment]
    return dict(expected)


def test_uniform_takes_every_set_as_often_as_any_other() -> None:
    found = frequencies(lambda seed: Uniform(seed=seed, phase="rft"), pool_of(groups(*[0.5] * 5)), 2)
    agrees(found, successive([1.0] * 5, 2))


def test_windowed_is_uniform_over_the_newest() -> None:
    found = frequencies(lambda seed: Uniform(seed=seed, phase="rft", window=3), pool_of(groups(*[0.5] * 6)), 2)
    agrees(found, dict.fromkeys(itertools.combinations((3, 4, 5), 2), 1 / 3))


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
def test_prioritised_takes_in_proportion_to_spread(exponent: float) -> None:
    spreads = [0.5, 0.25, 0.125, 0.4]
    pool = pool_of(groups(*spreads), drawing=Drawing(selector="prioritised", exponent=exponent))
    found = frequencies(lambda seed: Prioritised(seed=seed, phase="rft"), pool, 2)
    agrees(found, successive([spread**exponent for spread in spreads], 2))


def test_the_mixture_takes_the_oldest_fresh_ones_and_any_of_those_drawn_before() -> None:
    pool = pool_of(groups(*[0.5] * 7, drawn=(0, 2, 3, 6)))
    found = frequencies(lambda seed: Mixture(seed=seed, phase="rft", fresh=0.4), pool, 4)
    assert math.ceil(0.4 * 4) == 2
    agrees(found, {tuple(sorted((1, 4, *old))): 1 / 6 for old in itertools.combinations((0, 2, 3, 6), 2)})


def test_the_mixture_fills_up_with_fresh_ones_and_waits_for_them() -> None:
    mixture = Mixture(seed=0, phase="rft", fresh=0.25)
    assert mixture.select(pool_of(groups(*[0.5] * 5, drawn=(4,))), count=4, step=0) == [0, 1, 2, 4]
    assert mixture.select(pool_of(groups(*[0.5] * 5, drawn=(0, 1, 2, 3, 4))), count=4, step=0) is None


def test_a_priority_is_the_spread_of_scores_or_of_agreement() -> None:
    [group, alike] = groups(0.5, 0.0)
    assert priority(group) == 0.5
    assert priority(alike) == MIN_PRIORITY
    voted = Group(number=0, group_id="g0", consensus=a_consensus(0, num_siblings=4))
    assert priority(voted) == pytest.approx(math.sqrt(0.75 * 0.25))


def test_only_ready_groups_are_taken_and_the_choice_is_that_of_phase_and_step() -> None:
    pool = pool_of(groups(*[0.5] * 8), ready=lambda group: group.number % 2 == 0)
    for drawing in (
        Drawing(selector="uniform"),
        Drawing(selector="prioritised"),
        Drawing(selector="windowed", window=4),
        Drawing(selector="mixture", fresh=0.5, max_reuse=2),
    ):
        selector = selector_of(drawing, "rft")
        taken = [selector.select(pool, count=3, step=step) for step in range(20)]
        assert all(each is not None and {*each} < {0, 2, 4, 6} for each in taken)
        assert taken == [selector_of(drawing, "rft").select(pool, count=3, step=step) for step in range(20)]
        assert selector.select(pool, count=5, step=0) is None


REUSING = [
    Drawing(max_reuse=2, samples_per_insert=2.0),
    Drawing(selector="in_order", max_reuse=3),
    Drawing(selector="uniform", seed=5),
    Drawing(selector="uniform", max_reuse=3, samples_per_insert=1.5, error_budget=2),
    Drawing(selector="windowed", window=4, max_reuse=2),
    Drawing(selector="prioritised", exponent=0.5, max_reuse=2, min_groups=3),
    Drawing(selector="mixture", fresh=0.5, max_reuse=4, samples_per_insert=2.0),
]


@settings(max_examples=3, deadline=None)
@pytest.mark.parametrize("drawing", REUSING, ids=lambda drawing: drawing.selector)
@given(seed=st.integers(0, 2**32), lag=st.integers(0, 3))
def test_any_run_keeps_lag_and_reuse_and_every_draw_can_be_taken_again_from_the_log_before_it(
    tmp_path_factory: pytest.TempPathFactory, drawing: Drawing, seed: int, lag: int
) -> None:
    folder = tmp_path_factory.mktemp("run")
    groups_per_step = 2

    async def run() -> tuple[State, bool]:
        async with a_buffer(folder, drawing=drawing) as buffer:
            await a_phase(buffer, groups_per_step=groups_per_step, lag=lag + 1)
            draws = await random_run(buffer, random.Random(seed), groups_per_step=groups_per_step, lag=lag + 1)
            assert len(draws) >= 5
            return State.unpack(buffer.state.pack()), balanced(await buffer.stats())

    state, is_balanced = asyncio.run(run())
    assert is_balanced
    assert state.max_policy_lag_seen <= lag + 1
    times = Counter(name for draw in state.draws.values() for name in draw.group_ids)
    assert max(times.values()) <= drawing.max_reuse
    assert all(len(set(draw.group_ids)) == groups_per_step for draw in state.draws.values())
    _take_again(folder / "log", groups_per_step)


def _take_again(folder: Path, groups_per_step: int) -> None:
    """Fold the log; before each draw, take the decision again from what is known then."""
    log, state, num_draws = Log(folder), State(), 0
    for frame in log.frames():
        record = None if frame.kind == Kind.ROLLOUT else decode(frame.kind, bytes(frame.body))
        if isinstance(record, Drawn):
            assert state.phase is not None and state.phase.drawing is not None
            assert too_old(state, record.step) == []
            assert record.watermark == frame.sequence - 1
            chosen = chosen_by_looking_at_all(
                list(state.groups.values()),
                partial(ready, state),
                state.phase.drawing,
                phase=state.phase.phase,
                count=groups_per_step,
                step=record.step,
            )
            assert chosen == [state.groups[name].number for name in record.group_ids]
            num_draws += 1
        follow(state, frame)
    log.close()
    assert num_draws == state.num_draws > 0


async def test_a_group_is_drawn_as_often_as_it_may_and_a_rewind_takes_each_use_back(tmp_path: Path) -> None:
    async with a_buffer(tmp_path, drawing=Drawing(max_reuse=2)) as buffer:
        await a_phase(buffer, lag=5)
        await buffer.admit("g0")
        await buffer.admit("g1")
        await put(buffer, *a_group(0), *a_group(1))
        for step, name in enumerate(("g0", "g0", "g1")):
            assert (await buffer.sample(step)).rollout_ids == (f"{name}/0", f"{name}/1")
            await buffer.advance(step + 1, step + 1)
        stats = await buffer.stats()
        assert (stats.live, stats.spent_reasons) == (2, {"drawn": 2})
        await buffer.rewind(1, version=4)
        assert [group.draws for group in buffer.state.groups.values()] == [(0,), ()]
        stats = await buffer.stats()
        assert (stats.live, stats.spent) == (4, 0)
        for step, name in enumerate(("g0", "g1", "g1"), 1):
            assert (await buffer.sample(step)).rollout_ids == (f"{name}/0", f"{name}/1")
            await buffer.advance(step + 1, step + 4)
        assert balanced(await buffer.stats())
        assert (await buffer.stats()).spent_reasons == {"drawn": 4}


async def test_a_group_that_was_drawn_and_grew_old_is_spent_and_comes_back_with_its_draw(tmp_path: Path) -> None:
    async with a_buffer(tmp_path, drawing=Drawing(max_reuse=2)) as buffer:
        await a_phase(buffer, lag=0)
        await buffer.admit("g0")
        await put(buffer, *a_group(0))
        await buffer.sample(0)
        await buffer.advance(1, 1)
        await buffer.admit("g1")
        await put(buffer, *a_group(1, version=1))
        assert (await buffer.sample(1)).rollout_ids == ("g1/0", "g1/1")
        stats = await buffer.stats()
        assert (stats.expired, stats.spent_reasons, stats.live) == (0, {"drawn": 2}, 2)
        await buffer.rewind(0, version=2)
        assert (await buffer.sample(0)).rollout_ids == ("g0/0", "g0/1")
        assert balanced(await buffer.stats())


# ── what would wait for ever ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"selector": "windowed", "window": 2}, "more groups than it may look at"),
        ({"selector": "windowed"}, "more groups than it may look at"),
        ({"min_groups": 7}, "too old whenever their turn came"),
    ],
)
async def test_draws_that_would_wait_for_ever_are_refused_at_the_start(
    tmp_path: Path, settings: dict[str, Any], reason: str
) -> None:
    async with a_buffer(tmp_path, drawing=Drawing(**settings)) as buffer:
        with pytest.raises(ConfigError, match=reason):
            await a_phase(buffer, groups_per_step=3, lag=1)


@pytest.mark.parametrize(
    "settings",
    [
        {"max_reuse": 0},
        {"samples_per_insert": 0.5},
        {"samples_per_insert": 2.0},
        {"error_budget": -1},
        {"selector": "mixture", "fresh": 0.5},
        {"selector": "newest"},
    ],
)
def test_values_that_mean_nothing_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter({*settings} - {"selector"}), "selector")):
        ReplayConfig(folder=Path(), drawing=Drawing(**settings))


@given(
    groups_per_step=st.integers(1, 4),
    lag=st.integers(0, 3),
    reuse=st.integers(1, 4),
    extras=st.tuples(st.floats(0, 1), st.integers(0, 3), st.integers(0, 4)),
    seed=st.integers(0, 2**32),
)
def test_whatever_is_drawn_the_learner_never_starves(
    groups_per_step: int, lag: int, reuse: int, extras: tuple[float, int, int], seed: int
) -> None:
    """A simulation that knows no algebra: everything that may start does and ends or is returned; the learner takes any
    groups that are left, each at most `reuse` times, and groups drawn or not may grow old at any time."""
    share, budget, least = extras
    drawing = Drawing(
        max_reuse=reuse,
        samples_per_insert=1 + share * (reuse - 1),
        error_budget=budget,
        min_groups=min(least, (lag + 1) * groups_per_step),
    )
    limiter = Limiter(groups_per_step=groups_per_step, max_policy_lag=lag, drawing=drawing)
    chance, uses = random.Random(seed), dict[int, int]()
    number = drawn = returned = 0
    for _ in range(25):
        while limiter.may_start(number, drawn=drawn, returned=returned):
            if chance.random() < 0.2:
                returned += 1
            else:
                uses[number] = 0
            number += 1
        assert len(uses) >= max(groups_per_step, drawing.min_groups), "the learner waits for groups that may not start"
        for each in chance.sample(sorted(uses), groups_per_step):
            drawn += uses[each] == 0
            uses[each] += 1
        for each in [each for each in uses if uses[each] == reuse or chance.random() < 0.1]:
            returned += uses.pop(each) == 0
