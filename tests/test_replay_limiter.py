"""The limiter's inequality, checked against a brute force of everything that could happen in order."""

from __future__ import annotations

import pytest
from fakes.replay_pools import pool_of
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ConfigError
from replay.limiter import Limiter, check_group_size
from replay.selectors import Fifo
from replay.state import Group


def test_two_groups_a_step_and_lag_one_let_four_start_and_two_more_a_step() -> None:
    limiter = Limiter(groups_per_step=2, max_policy_lag=1)
    assert [limiter.may_start(n, drawn=0, returned=0) for n in (3, 4)] == [True, False]
    assert [limiter.may_start(n, drawn=2, returned=0) for n in (5, 6)] == [True, False]


def test_a_returned_group_lets_one_more_start() -> None:
    limiter = Limiter(groups_per_step=1, max_policy_lag=0)
    assert [limiter.may_start(n, drawn=0, returned=r) for n, r in ((1, 0), (1, 1), (2, 1))] == [False, True, False]


@given(
    groups_per_step=st.integers(1, 4),
    max_policy_lag=st.integers(0, 3),
    returned=st.lists(st.booleans(), min_size=60, max_size=60),
)
def test_drawn_in_order_no_group_is_older_than_the_bound_and_the_learner_never_starves(
    groups_per_step: int, max_policy_lag: int, returned: list[bool]
) -> None:
    """Start whatever may start; each group is drawn in order or returned. A simulation that knows no algebra."""
    limiter = Limiter(groups_per_step=groups_per_step, max_policy_lag=max_policy_lag)
    started: list[tuple[int, int]] = []
    number = step = num_returned = 0
    while number < len(returned):
        if limiter.may_start(number, drawn=step * groups_per_step, returned=num_returned):
            if returned[number]:
                num_returned += 1
            else:
                started.append((number, step))
            number += 1
            continue
        assert len(started) >= groups_per_step, "the learner waits for groups that may not start"
        batch, started = started[:groups_per_step], started[groups_per_step:]
        assert all(step - at <= max_policy_lag for _, at in batch)
        step += 1


@pytest.mark.parametrize(("size", "votes", "drop"), [(0, True, False), (1, False, True)])
def test_groups_that_could_never_be_drawn_are_refused(size: int, votes: bool, drop: bool) -> None:
    with pytest.raises(ConfigError):
        check_group_size(size, votes=votes, drop_zero_variance=drop)


@pytest.mark.parametrize(("size", "votes", "drop"), [(1, True, True), (1, False, False), (2, False, True)])
def test_groups_that_may_be_drawn_are_not(size: int, votes: bool, drop: bool) -> None:
    check_group_size(size, votes=votes, drop_zero_variance=drop)


def test_fifo_takes_the_lowest_ready_numbers_or_in_order_waits_for_the_lowest() -> None:
    pool = pool_of([Group(number=n, group_id=f"g{n}") for n in range(5)], ready=lambda group: group.number % 2 == 0)
    assert Fifo().select(pool, count=2) == [0, 2]
    assert Fifo().select(pool, count=4) is None
    assert Fifo(in_order=True).select(pool, count=2) is None
    assert Fifo(in_order=True).select(pool, count=1) == [0]
