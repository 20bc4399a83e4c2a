"""The benchmark harness: medians of interleaved rounds, and promises that hold or do not."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

import pytest

from cluster.benchmarks.harness import Figure, Outcome, compared, in_turn, interleaved, measure, single, spread
from cluster.config import load
from cluster.progress import Silent
from common.errors import UserError


async def test_rounds_alternate_who_goes_first_and_drop_the_warm_up() -> None:
    order: list[str] = []

    def subject(name: str) -> Callable[[], Awaitable[float]]:
        async def run() -> float:
            order.append(name)
            return float(len(order))

        return run

    ours, peer = await interleaved(subject("a"), subject("b"), rounds=3)
    assert "".join(order) == "ab" + "ab" + "ba" + "ab"
    assert (ours, peer) == ([3.0, 6.0, 7.0], [4.0, 5.0, 8.0])


def test_the_ratio_is_the_median_of_ratios_of_neighbours_in_time() -> None:
    figure = compared("f", [9.0, 18.0, 90.0], [10.0, 20.0, 90.0], unit="tokens/s", against="vLLM", target=0.85)
    assert (figure.value, figure.peer_value, figure.ratio) == (18.0, 20.0, 0.9)
    assert figure.holds
    assert figure.spread == pytest.approx((0.95 - 0.9) / 0.9)


@pytest.mark.parametrize(
    ("better", "value", "holds"),
    [("lower", 0.9, True), ("lower", 1.1, False), ("higher", 1.1, True), ("higher", 0.9, False)],
)
def test_a_target_is_a_bound_on_the_good_side(better: str, value: float, holds: bool) -> None:
    assert single("f", [value], unit="s", target=1.0, better=better).holds is holds  # type: ignore[arg-type]


def test_no_promise_always_holds_and_no_number_never_does() -> None:
    assert Figure(name="f", value=5.0, unit="s").holds
    assert not Figure(name="f", value=math.nan, unit="s").holds
    outcome = Outcome(machine={}, figures=(Figure(name="f", value=2.0, unit="s", target=1.0, better="lower"),))
    assert not outcome.holds
    assert outcome.to_json()["figures"][0] == {
        "name": "f",
        "value": 2.0,
        "unit": "s",
        "peer": None,
        "peer_value": None,
        "ratio": None,
        "spread": 0.0,
        "noise": None,
        "target": 1.0,
        "better": "lower",
        "holds": False,
    }


def test_the_spread_is_the_middle_half_relative_to_the_median() -> None:
    assert spread([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx((4 - 2) / 3)
    assert spread([7.0]) == 0.0


async def test_the_peer_is_held_against_itself_in_every_round() -> None:
    values = iter([0.0, 0.0, 9.0, 10.0, 8.0, 20.0, 25.0, 18.0])  # a warm-up, then two rounds: peers 10, 8 and 20, 25

    async def next_value() -> float:
        return next(values)

    ours, peer, again = await in_turn(next_value, next_value, rounds=2)
    assert (ours, peer, again) == ([9.0, 18.0], [10.0, 20.0], [8.0, 25.0])
    figure = compared("f", ours, peer, unit="s", against="itself", again=again)
    assert figure.noise == pytest.approx(0.8 + 0.75 * (1.25 - 0.8) - 1)
    assert compared("f", [1.0], [1.0], unit="s", against="itself").noise is None


def test_an_unknown_suite_is_refused() -> None:
    with pytest.raises(UserError, match="no suite 'speed'"):
        measure(["speed"], load([]), Silent(), rounds=1)
