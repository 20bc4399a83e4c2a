"""What a draw looks at: sums that are those of their groups, and draws that are those of a look at every group."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from dataclasses import replace

import pytest
from fakes.replay_pools import check_sums, chosen_by_looking_at_all, pool_of
from hypothesis import given
from hypothesis import strategies as st

from common.columns import RolloutKeys
from replay.candidates import Candidates
from replay.config import Drawing
from replay.pool import BITS, LEVELS, Shares, owner
from replay.records import Admit, Begin
from replay.selectors import MIN_PRIORITY, MOST_DOUBLINGS, priority, selector_of, share_of
from replay.state import Group, Member, State

NUMBERS = st.one_of(st.integers(0, 40), st.integers(0, 1 << 12), st.integers(0, (1 << BITS * LEVELS) - 1))
DRAWINGS = (
    Drawing(),
    Drawing(selector="in_order"),
    Drawing(selector="uniform", seed=3),
    Drawing(selector="windowed", window=4),
    Drawing(selector="prioritised", exponent=1.5),
    Drawing(selector="mixture", fresh=0.5, max_reuse=2),
)


def a_group(number: int, *, spread: float = 0.5, drawn: bool = False) -> Group:
    members = tuple(
        Member(rollout_id=f"{number}/{i}", sequence=i, oldest_version=0, score=score, quarantined=False)
        for i, score in enumerate((0.0, 2 * spread))
    )
    return Group(number=number, group_id=f"g{number}", size=2, members=members, draws=(0,) if drawn else ())


class Counting(dict[object, object]):
    """A dictionary that counts how often it is looked at."""

    num_looks = 0

    def __getitem__(self, key: object) -> object:
        Counting.num_looks += 1
        return super().__getitem__(key)

    def get(self, key: object, default: object = None) -> object:
        Counting.num_looks += 1
        return super().get(key, default)

    def __iter__(self) -> Iterator[object]:
        Counting.num_looks += len(self)
        return super().__iter__()

    values = items = None  # type: ignore[assignment]


@given(changes=st.lists(st.tuples(NUMBERS, st.integers(0, 1 << 70)), max_size=40))
def test_sums_are_those_of_what_is_kept_whatever_came_and_went(changes: list[tuple[int, int]]) -> None:
    shares, kept = Shares(), dict[int, int]()
    for number, share in changes:
        shares.put(number, share)
        kept[number] = share
    kept = {number: share for number, share in kept.items() if share}
    check_sums(shares, kept)


@given(
    first=st.dictionaries(NUMBERS, st.integers(1, 5), min_size=1, max_size=12),
    second=st.dictionaries(NUMBERS, st.integers(1, 5), max_size=12),
)
def test_every_place_of_two_lines_belongs_to_the_number_that_covers_it(
    first: dict[int, int], second: dict[int, int]
) -> None:
    lines = Shares(), Shares()
    for line, kept in zip(lines, (first, second), strict=True):
        for number, share in kept.items():
            line.put(number, share)
    covered = [number for number in sorted({*first, *second}) for _ in range(first.get(number, 0))]
    covered = sorted([*covered, *(number for number, share in second.items() for _ in range(share))])
    assert [owner(place, *lines) for place in range(len(covered))] == covered


@pytest.mark.parametrize("drawing", DRAWINGS, ids=lambda drawing: drawing.selector)
@given(
    groups=st.dictionaries(NUMBERS, st.tuples(st.booleans(), st.booleans(), st.floats(0, 4)), max_size=14),
    count=st.integers(1, 4),
    step=st.integers(0, 5),
)
def test_selectors_take_what_a_look_at_every_group_takes(
    drawing: Drawing, groups: dict[int, tuple[bool, bool, float]], count: int, step: int
) -> None:
    def ready(group: Group) -> bool:
        return groups[group.number][0]

    pool = [a_group(number, drawn=drawn, spread=spread) for number, (_, drawn, spread) in groups.items()]
    chosen = selector_of(drawing, "rft").select(pool_of(pool, drawing=drawing, ready=ready), count=count, step=step)
    assert chosen == chosen_by_looking_at_all(pool, ready, drawing, phase="rft", count=count, step=step)


@pytest.mark.parametrize("drawing", DRAWINGS, ids=lambda drawing: drawing.selector)
def test_a_draw_looks_at_the_groups_that_it_takes_however_many_there_are(drawing: Drawing) -> None:
    def num_looks(num_groups: int) -> int:
        state = State()
        state.apply(Begin(phase="rft", groups_per_step=3, max_policy_lag=9, votes=False, step=0, version=0))
        assert state.phase is not None
        state.phase = replace(state.phase, drawing=drawing)
        for number in range(num_groups):
            state.apply(Admit(number=number, group_id=f"g{number}"))
            state.groups[f"g{number}"] = a_group(number, drawn=number % 2 == 0)
        candidates = Candidates(state, configured=drawing)
        candidates.renew()
        state.groups = Counting(state.groups)  # type: ignore[assignment]
        for shares in (candidates.pool.waiting, candidates.pool.fresh, candidates.pool.drawn):
            shares.sums = [Counting(sums) for sums in shares.sums]  # type: ignore[misc]
        Counting.num_looks = 0
        chosen = candidates.choose(0)
        assert chosen is not None and len(chosen) == 3
        return Counting.num_looks

    few, many = num_looks(100), num_looks(5000)
    assert 3 <= few < 3 * 2 * LEVELS << BITS
    assert many < 3 * 2 * LEVELS << BITS


def test_the_candidates_follow_each_change_of_a_group() -> None:
    state = State()
    state.apply(Begin(phase="rft", groups_per_step=1, max_policy_lag=9, votes=False, step=0, version=0))
    candidates = Candidates(state, configured=Drawing())
    candidates.renew()
    candidates.apply(Admit(number=0, group_id="g0"))
    assert (len(candidates.pool.waiting), candidates.choose(0)) == (1, None)
    for sibling in range(2):
        candidates.add(_keys(sibling), sibling)
    assert (len(candidates.pool.waiting), len(candidates.pool.fresh)) == (0, 1)
    assert candidates.choose(0) == [state.groups["g0"]]


def _keys(sibling: int) -> RolloutKeys:
    return RolloutKeys(
        rollout_id=f"g0/{sibling}",
        producer="actor-0",
        epoch=0,
        sequence=sibling,
        group_id="g0",
        group_size=2,
        phase="rft",
        oldest_version=0,
        score=float(sibling),
        quarantined=False,
        media=(),
    )


@pytest.mark.parametrize(("exponent", "spread", "doublings"), [(1.0, 0.01, 0), (1.0, 0.02, 1), (3.0, 0.04, 6)])
def test_a_share_is_the_power_of_the_spread(exponent: float, spread: float, doublings: int) -> None:
    drawing = Drawing(selector="prioritised", exponent=exponent)
    assert share_of(a_group(0, spread=spread), drawing) == pytest.approx(2 ** (53 + doublings))
    assert share_of(a_group(0, spread=spread), Drawing()) == 1


@pytest.mark.parametrize("spread", [math.inf, math.nan, 1e308])
@pytest.mark.parametrize("exponent", [0.0, 1.0])
def test_scores_that_no_spread_is_known_of_have_the_least_share(spread: float, exponent: float) -> None:
    assert share_of(a_group(0, spread=spread), Drawing(selector="prioritised", exponent=exponent)) == 1 << 53


@given(scores=st.lists(st.floats(0, 1), min_size=1, max_size=16))
def test_a_priority_is_the_standard_deviation(scores: list[float]) -> None:
    members = tuple(
        Member(rollout_id=f"g/{i}", sequence=i, oldest_version=0, score=score, quarantined=False)
        for i, score in enumerate(scores)
    )
    group = Group(number=0, group_id="g", size=len(scores), members=members)
    assert priority(group) == pytest.approx(max(statistics.pstdev(scores), MIN_PRIORITY))


def test_a_share_stays_an_integer_of_bounded_size_whatever_the_exponent() -> None:
    share = share_of(a_group(0, spread=0.5), Drawing(selector="prioritised", exponent=1e6))
    assert share == 1 << MOST_DOUBLINGS + 53
