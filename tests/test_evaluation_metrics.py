"""What outcomes come to, by hand, and the laws that figures keep."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fakes.outcomes import an_outcome, outcomes
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.actor import Outcome
from cluster.evaluation.arms import Measured
from cluster.evaluation.intervals import wilson
from cluster.evaluation.metrics import FIGURES, Effect, Figures, by_family, effect, figures, mean_of, ratio
from cluster.evaluation.results import Comparison, compare, to_be_read


def test_four_rollouts_by_hand() -> None:
    found = figures(
        [
            an_outcome(0),
            an_outcome(1, score=0.0, answer="498", tools=("ZOOM", "", "OCR"), num_errors=1, num_tokens=60),
            an_outcome(
                2, score=0.0, answer=None, parsed=False, tools=(), chained=False, composite=False, num_tokens=20
            ),
            an_outcome(3, tools=("OCR",), chained=False, composite=False, num_tokens=20),
        ],
        planned=True,
    )
    assert found.num_tasks == 4
    assert found.accuracy.value == 0.5
    assert (found.accuracy.low, found.accuracy.high) == pytest.approx((0.1500, 0.8500), abs=1e-4)  # Wilson, 2 of 4
    assert found.anls is not None and found.anls.value == pytest.approx((1 + 2 / 3 + 0 + 1) / 4)
    assert found.mra is None
    assert found.coverage.value == 0.75
    assert found.selective_accuracy is not None
    assert (found.selective_accuracy.value, found.selective_accuracy.num) == (2 / 3, 3)
    assert found.valid_calls is not None and found.valid_calls.value == 5 / 6
    assert (found.rapr.value, found.racpr.value) == (0.75, 0.5)
    assert found.calls.value == 1.5
    assert found.excess_calls is not None and found.excess_calls.value == 0.25  # one call too many in one rollout
    assert found.tokens.value == 35


def test_numbers_have_a_relative_accuracy_and_the_best_accepted_answer_counts() -> None:
    number = {"kind": "numeric", "truth": "10"}
    found = figures(
        [an_outcome(0, answer="9", score=0.9, **number), an_outcome(1, answer="20", accepted=("20",), **number)],
        planned=False,
    )
    assert found.mra is not None and found.mra.value == pytest.approx(0.95)
    assert found.accuracy.value == pytest.approx(0.95)
    assert (found.anls, found.excess_calls) == (None, None)
    text = figures([an_outcome(0, answer="nyc", truth="New York", accepted=("NYC",), kind="anls")], planned=False)
    assert text.anls is not None and text.anls.value == 1.0


def test_without_calls_or_answers_a_figure_is_missing_and_not_0() -> None:
    silent = an_outcome(0, tools=(), answer=None, parsed=False, score=0.0, composite=False, kind="choice")
    found = figures([silent], planned=True)
    assert (found.valid_calls, found.selective_accuracy, found.anls) == (None, None, None)
    assert found.coverage.value == 0.0
    assert (found.tokens.low, found.tokens.high) == (None, None)  # one task tells no spread


def test_gain_and_harm_by_hand() -> None:
    learned = outcomes([1, 1, 1, 0, 0, 1, 1])
    plain = outcomes([0, 0, 1, 1, 0, 0, 0], arm="no_tool")
    found = effect(learned, plain)
    assert (found.base, found.gain.value, found.harm.value) == ("no_tool", 4 / 7, 1 / 7)
    assert found.difference.value == pytest.approx(3 / 7)
    assert found.p_value == 2 * (1 + 5) / 2**5


def test_arms_on_other_tasks_are_not_compared() -> None:
    with pytest.raises(ValueError, match="same tasks"):
        effect(outcomes([1, 0]), outcomes([1, 0], arm="no_tool")[::-1])


pairs = st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 1.0])), min_size=1, max_size=25)


@given(pairs)
@settings(deadline=None, max_examples=50)
def test_gain_minus_harm_is_the_difference_in_accuracy(scores: list[tuple[float, float]]) -> None:
    learned, plain = outcomes([a for a, _ in scores]), outcomes([b for _, b in scores], arm="no_tool")
    found = effect(learned, plain)
    accuracies = [figures(arm, planned=True).accuracy.value for arm in (learned, plain)]
    assert found.gain.value - found.harm.value == pytest.approx(accuracies[0] - accuracies[1])
    assert found.difference.value == pytest.approx(accuracies[0] - accuracies[1])
    swapped = effect(plain, learned)
    assert (swapped.gain, swapped.harm, swapped.p_value) == (found.harm, found.gain, found.p_value)


@st.composite
def some_outcome(draw: st.DrawFn, number: int) -> Outcome:
    tools = tuple(draw(st.lists(st.sampled_from(["ZOOM", "OCR", ""]), max_size=4)))
    parsed = draw(st.booleans())
    return an_outcome(
        number,
        kind=draw(st.sampled_from(["exact", "choice", "numeric", "near", "anls"])),
        family=draw(st.sampled_from(["a", "b"])),
        score=draw(st.floats(0, 1)) if parsed else 0.0,
        answer=draw(st.sampled_from(["493", "49", "7"])) if parsed else None,
        parsed=parsed,
        tools=tools,
        num_errors=draw(st.integers(0, len(tools))),
        composite=len(set(tools) - {""}) > 1 and draw(st.booleans()),
        num_tokens=draw(st.integers(1, 300)),
    )


@st.composite
def some_outcomes(draw: st.DrawFn) -> list[Outcome]:
    return [draw(some_outcome(number)) for number in range(draw(st.integers(1, 8)))]


@given(made=some_outcomes(), planned=st.booleans(), data=st.data())
@settings(deadline=None, max_examples=40)
def test_no_figure_depends_on_the_order_and_shares_lie_in_0_to_1(made: list[Outcome], planned: bool, data) -> None:
    found = figures(made, planned=planned)
    mixed = figures(data.draw(st.permutations(made)), planned=planned)
    for name in FIGURES:
        figure, again = getattr(found, name), getattr(mixed, name)
        assert (figure is None) == (again is None)
        if figure is None:
            continue
        assert figure.num == again.num
        assert figure.value == pytest.approx(again.value)
        if figure.low is not None:
            assert (again.low, again.high) == pytest.approx((figure.low, figure.high))
            assert figure.low - 1e-9 <= figure.high + 1e-9
        if name not in ("calls", "excess_calls", "tokens"):
            assert 0 <= figure.value <= 1
    assert found.racpr.value <= found.rapr.value


@given(made=some_outcomes())
@settings(deadline=None, max_examples=25)
def test_the_whole_is_the_mean_of_its_families_by_their_size(made: list[Outcome]) -> None:
    families = by_family(made)
    assert sum(map(len, families.values())) == len(made)
    whole = figures(made, planned=True)
    for name in ("accuracy", "coverage", "rapr", "racpr", "calls", "excess_calls", "tokens"):
        parts = [(getattr(figures(some, planned=True), name).value, len(some)) for some in families.values()]
        assert getattr(whole, name).value == pytest.approx(sum(value * num for value, num in parts) / len(made))


def measured() -> Measured:
    learned = (*outcomes([1, 1, 0]), an_outcome(3, family="side", chain=(), tools=(), score=1.0, composite=False))
    plain = tuple(
        replace(o, arm="no_tool", tools=(), composite=False, score=float(o.family == "side")) for o in learned
    )
    return Measured(arms={"learned": learned, "no_tool": plain}, planned=True, wall_s=2.0, num_tokens=320)


def test_a_comparison_has_every_arm_and_family_and_reads_back_from_json() -> None:
    import json
    from dataclasses import asdict

    found = compare(measured())
    assert list(found.arms) == ["learned", "no_tool"]
    assert list(found.arms["learned"].families) == ["side", "tiny_text"]
    assert found.effects["no_tool"].families["tiny_text"].gain.value == pytest.approx(2 / 3)
    assert found.effects["no_tool"].families["side"].gain.value == 0.0
    assert Comparison.of(json.loads(json.dumps(asdict(found)))) == found
    assert isinstance(found.arms["no_tool"].overall, Figures)
    assert isinstance(found.effects["no_tool"].overall, Effect)


def test_tasks_to_be_read_say_what_each_arm_answered() -> None:
    shown = to_be_read(measured())
    assert [task.family for task in shown] == ["side", "tiny_text", "tiny_text", "tiny_text"]
    assert shown[1].right == {"learned": True, "no_tool": False}


def test_the_interval_of_a_share_of_calls_that_all_worked_is_not_a_point_and_its_ends_are_plain_floats() -> None:
    sure = ratio([2, 2, 2], [2, 2, 2], seed=0)
    assert (sure.value, sure.high) == (1.0, 1.0) and sure.low == pytest.approx(wilson(6, 6)[0])
    for found in (sure, ratio([1, 1, 1], [2, 2, 2], seed=0), mean_of([3.0, 3.0], seed=0)):
        assert type(found.low) is float and type(found.high) is float
