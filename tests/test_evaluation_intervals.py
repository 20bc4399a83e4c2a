"""Intervals and the test for pairs, against published cases, closed forms and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.evaluation.intervals import bootstrap, mcnemar, wilson


def test_wilson_agrees_with_published_cases() -> None:
    # R. G. Newcombe, Statistics in Medicine 17 (1998), table I, method 3
    for (successes, num), (low, high) in {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0.0, 0.1611),
        (1, 29): (0.0061, 0.1718),
    }.items():
        assert wilson(successes, num) == pytest.approx((low, high), abs=5e-5)


@given(num=st.integers(1, 400), share=st.floats(0, 1))
@settings(deadline=None)
def test_wilson_agrees_with_scipy(num: int, share: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    successes = round(share * num)
    wanted = stats.binomtest(successes, num).proportion_ci(method="wilson")
    assert wilson(successes, num) == pytest.approx((wanted.low, wanted.high), abs=1e-12)


@given(num=st.integers(1, 400), share=st.floats(0, 1))
def test_wilson_lies_in_0_to_1_around_the_share_and_mirrors(num: int, share: float) -> None:
    successes = round(share * num)
    low, high = wilson(successes, num)
    assert 0 <= low <= successes / num <= high <= 1
    assert high - low > 0
    mirrored = wilson(num - successes, num)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-12)


def test_wilson_refuses_what_is_no_proportion() -> None:
    for successes, num in ((1, 0), (3, 2), (-1, 2)):
        with pytest.raises(ValueError, match="needs 0 <= successes"):
            wilson(successes, num)


def test_mcnemar_by_hand() -> None:
    assert mcnemar(1, 6) == 2 * (1 + 7) / 2**7 == 0.125
    assert mcnemar(0, 5) == 2 / 32
    assert mcnemar(0, 0) == mcnemar(3, 3) == 1.0


@given(gained=st.integers(0, 300), lost=st.integers(0, 300))
@settings(deadline=None)
def test_mcnemar_is_the_binomial_test_of_the_pairs_that_differ(gained: int, lost: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    wanted = 1.0 if gained + lost == 0 else stats.binomtest(gained, gained + lost).pvalue
    assert mcnemar(gained, lost) == pytest.approx(wanted, rel=1e-9)
    assert mcnemar(gained, lost) == mcnemar(lost, gained)


def test_of_two_items_the_bootstrap_spans_them() -> None:
    # a quarter of the resamples holds only one of the two, so both ends lie beyond 2.5 %
    assert bootstrap([0.0, 1.0]) == (0.0, 1.0)
    assert bootstrap([1.0]) is None
    assert bootstrap([]) is None


def test_the_bootstrap_of_a_mean_agrees_with_the_normal_interval_of_many_items() -> None:
    values = np.random.default_rng(0).gamma(2.0, size=4000)
    low, high = bootstrap(values.tolist())
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)


def test_the_bootstrap_covers_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    covered = 0
    for _ in range(300):
        low, high = bootstrap(random.exponential(size=80).tolist())
        covered += low <= 1.0 <= high
    assert 0.89 <= covered / 300 <= 0.98  # the percentile interval of a skewed mean covers a little less than 0.95


@given(values=st.lists(st.floats(0, 1), min_size=2, max_size=40), seed=st.integers(0, 5), data=st.data())
@settings(deadline=None, max_examples=50)
def test_the_bootstrap_does_not_depend_on_the_order_and_stays_among_the_values(values, seed, data) -> None:
    low, high = bootstrap(values, seed=seed)
    assert bootstrap(data.draw(st.permutations(values)), seed=seed) == (low, high)
    assert min(values) - 1e-12 <= low <= high <= max(values) + 1e-12


@given(
    pairs=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)).map(sorted), min_size=2, max_size=30),
    data=st.data(),
)
@settings(deadline=None, max_examples=50)
def test_a_ratio_is_resampled_by_items_that_keep_both_their_parts(pairs, data) -> None:
    found = bootstrap([a for a, _ in pairs], [b for _, b in pairs])
    if not any(b for _, b in pairs):
        assert found is None
        return
    mixed = data.draw(st.permutations(pairs))
    assert bootstrap([a for a, _ in mixed], [b for _, b in mixed]) == found
    assert found is not None and 0 <= found[0] <= found[1] <= 1  # no part is larger than its whole
