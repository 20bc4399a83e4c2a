"""Advantages, efficiency, coherence and the combination: hand-checkable numbers, then laws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.advantages import group_advantages
from learner.coherence import Band, adjacent_cosines, band_score, coherence, fit_band
from learner.config import RewardConfig
from learner.efficiency import penalty
from learner.rewards import Signals, combine

UNIT = st.floats(0, 1)
BAND = Band(centre=0.6, width=0.4)


def total(
    answer: float = 1.0, *, valid: bool = True, num_calls: int = 2, optimum: int | None = 2, **signals: float
) -> float:
    found = Signals(curiosity=signals.get("curiosity", 0.0), coherence=signals.get("coherence", 0.0))
    return combine(
        answer=answer, valid=valid, num_calls=num_calls, optimum=optimum, signals=found, config=RewardConfig()
    ).total


def test_rewards_of_one_nought_nought_one_give_a_half() -> None:
    assert group_advantages([1, 0, 0, 1], ["a"] * 4).tolist() == [0.5, -0.5, -0.5, 0.5]


def test_standardised_advantages_are_the_published_numbers() -> None:
    four = group_advantages([1, 0, 0, 1], ["a"] * 4, standardise=True)
    np.testing.assert_allclose(four, [0.866024, -0.866024, -0.866024, 0.866024], atol=1e-6)
    eight = group_advantages([1] + [0] * 7, ["a"] * 8, standardise=True, epsilon=0.0)
    np.testing.assert_allclose(eight, [2.474874] + [-0.353553] * 7, atol=1e-6)


def test_a_vote_of_five_in_eight_gives_the_published_numbers() -> None:
    votes = [7, 7, 7, 5, 3, 7, 5, 7]
    found = group_advantages([float(v == 7) for v in votes], ["a"] * 8, standardise=True, epsilon=0.0)
    np.testing.assert_allclose(sorted(set(found.round(6))), [-1.207615, 0.724569], atol=4e-6)


def test_a_lone_rollout_has_zero_advantage() -> None:
    assert group_advantages([0.7], ["a"]).tolist() == [0.0]
    assert group_advantages([0.7], ["a"], standardise=True).tolist() == [0.0]


@given(
    st.lists(st.tuples(st.floats(-2, 2), st.sampled_from("abc")), min_size=1, max_size=20),
    st.floats(-5, 5),
    st.booleans(),
)
def test_advantages_sum_to_zero_in_every_group_and_ignore_a_shift(
    rows: list[tuple[float, str]], shift: float, scaled: bool
) -> None:
    rewards, groups = [r for r, _ in rows], [g for _, g in rows]
    found = group_advantages(rewards, groups, standardise=scaled)
    for name in set(groups):
        assert abs(found[[g == name for g in groups]].sum()) < 1e-6
    if not scaled:
        np.testing.assert_allclose(group_advantages([r + shift for r in rewards], groups), found, atol=1e-9)


def test_a_call_beyond_the_optimum_costs_a_right_rollout_only() -> None:
    assert penalty(4, 2, right=1.0, rate=0.05, limit=0.3) == pytest.approx(0.1)
    assert penalty(4, 2, right=0.0, rate=0.05, limit=0.3) == 0.0
    assert penalty(1, 2, right=1.0, rate=0.05, limit=0.3) == 0.0
    assert penalty(100, 2, right=1.0, rate=0.05, limit=0.3) == 0.3
    assert penalty(4, None, right=1.0, rate=0.05, limit=0.3) == 0.0


@given(st.integers(0, 50), st.integers(0, 50))
def test_efficiency_never_rises_with_calls(few: int, more: int) -> None:
    low, high = sorted((few, more))
    assert total(num_calls=high) <= total(num_calls=low)


def test_a_right_dull_rollout_earns_its_answer_alone() -> None:
    assert total() == 1.0


@given(UNIT, UNIT, st.integers(0, 100))
def test_right_and_dull_always_beats_wrong_and_curious(curiosity: float, coherent: float, num_calls: int) -> None:
    assert total(1.0, num_calls=num_calls) > total(0.0, curiosity=curiosity, coherence=coherent)


@given(UNIT, UNIT)
def test_intrinsic_terms_are_bounded_and_a_quarter_when_wrong(curiosity: float, coherent: float) -> None:
    right = total(1.0, curiosity=curiosity, coherence=coherent) - 1.0
    wrong = total(0.0, curiosity=curiosity, coherence=coherent)
    assert 0 <= right <= 0.3 + 1e-9
    assert wrong == pytest.approx(right / 4)
    assert total(0.0, valid=False, curiosity=curiosity, coherence=coherent) == 0.0


@given(UNIT, UNIT)
def test_the_total_rises_with_the_answer_and_with_curiosity(low: float, high: float) -> None:
    low, high = sorted((low, high))
    assert total(low, curiosity=0.5) <= total(high, curiosity=0.5) + 1e-12
    assert total(curiosity=low) <= total(curiosity=high) + 1e-12


@given(UNIT, UNIT)
def test_a_term_of_weight_nought_is_exactly_absent(curiosity: float, coherent: float) -> None:
    config = RewardConfig(curiosity=0.0)
    common = {"answer": 1.0, "valid": True, "num_calls": 2, "optimum": 2, "config": config}
    with_it = combine(signals=Signals(curiosity=curiosity, coherence=coherent), **common)  # type: ignore[arg-type]
    without = combine(signals=Signals(curiosity=0.0, coherence=coherent), **common)  # type: ignore[arg-type]
    assert with_it.total == without.total


def test_the_band_peaks_at_its_centre_and_punishes_copies() -> None:
    scores = band_score(np.array([0.2, 0.4, 0.6, 0.8, 1.0, -1.0]), BAND)
    np.testing.assert_allclose(scores, [0.0, 0.5, 1.0, 0.5, 0.0, 0.0], atol=1e-12)


@pytest.mark.parametrize("num_steps", [0, 1])
def test_an_episode_of_nought_or_one_step_is_neutral(num_steps: int) -> None:
    assert coherence(np.zeros((num_steps, 4), np.float32), [False] * num_steps, BAND) == 0.5


def test_a_repeated_step_earns_nothing() -> None:
    steps = np.array([[1, 0, 0], [0.9, 0.5, 0], [0.9, 0.5, 0]], np.float32)
    band = Band(centre=1.0, width=0.5)
    fresh = coherence(steps, [False, False, False], band)
    again = coherence(steps, [False, False, True], band)
    assert fresh > again
    assert again == pytest.approx(band_score(adjacent_cosines(steps[:2]), band)[0] / 2)


@settings(max_examples=50)
@given(st.integers(0, 10_000), st.floats(0.01, 100), st.integers(2, 6))
def test_cosines_ignore_scale_and_are_finite_on_zero_vectors(seed: int, scale: float, num_steps: int) -> None:
    steps = np.random.default_rng(seed).normal(size=(num_steps, 8)).astype(np.float32)
    np.testing.assert_allclose(adjacent_cosines(steps * np.float32(scale)), adjacent_cosines(steps), atol=1e-4)
    steps[0] = 0
    assert np.isfinite(adjacent_cosines(steps)).all()
    assert 0 <= coherence(steps, [False] * num_steps, BAND) <= 1


def test_a_band_is_fitted_to_the_median_and_spread_of_good_chains() -> None:
    cosines = np.linspace(0.3, 0.7, 41)
    band = fit_band(cosines, fallback=BAND)
    assert band.centre == pytest.approx(0.5)
    assert band.width == pytest.approx(2 * 0.16)
    assert fit_band(cosines[:7], fallback=BAND) is BAND
