"""Curiosity: gates, bounds, and the noisy television."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fakes.values import an_executed_call
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from common.types import ExecutedCall, Observation, ToolCall
from learner.config import CuriosityConfig
from learner.curiosity import (
    ACTION_SIZE,
    Curiosity,
    Transition,
    action_features,
    episode,
    gates,
    repeats,
    unit,
)

SIZE = 16


def zoom(box: tuple[int, int, int, int], *, error: bool = False) -> ExecutedCall:
    call = ToolCall(name="ZOOM", arguments={"image": "image_1", "box": list(box)})
    observation = Observation(text="{}", error="empty_box" if error else None)
    return ExecutedCall(call=call, observation=observation, source="image_1", footprint=box)


def a_transition(
    before: NDArray[np.float32],
    after: NDArray[np.float32],
    *,
    tool: str = "ZOOM",
    numbers: NDArray[Any] | None = None,
    gate: bool = True,
) -> Transition:
    action = np.zeros(ACTION_SIZE, np.float32)
    action[0] = tool == "ZOOM"
    action[7:11] = 0.0 if numbers is None else numbers
    return Transition(before=before, after=after, action=action, tool=tool, gate=gate)


def vectors(seed: int, count: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(count, SIZE)).astype(np.float32)


def test_an_identical_call_is_a_repeat_and_earns_nothing() -> None:
    calls = [zoom((0, 0, 10, 10)), zoom((50, 50, 90, 90)), zoom((0, 0, 10, 10))]
    assert repeats(calls) == [False, False, True]
    assert gates(calls, overlap=0.7) == [True, True, False]


def test_an_error_and_a_second_look_at_the_same_place_earn_nothing() -> None:
    assert gates([zoom((0, 0, 10, 10), error=True)], overlap=0.7) == [False]
    assert gates([zoom((0, 0, 10, 10)), zoom((0, 0, 10, 11))], overlap=0.7) == [True, False]  # IoU 10/11
    assert gates([zoom((0, 0, 10, 10)), zoom((0, 0, 10, 20))], overlap=0.7) == [True, True]  # IoU 1/2
    assert gates([zoom((0, 0, 10, 10)), an_executed_call("OCR")], overlap=0.7) == [True, True]


def test_a_call_becomes_its_tool_its_numbers_and_its_words() -> None:
    features = action_features(ToolCall(name="ZOOM", arguments={"image": "image_1", "box": [250, 300, 450, 400]}))
    assert features[0] == 1.0
    np.testing.assert_allclose(features[7:11], [0.25, 0.3, 0.45, 0.4])
    other = action_features(ToolCall(name="ZOOM", arguments={"image": "image_2", "box": [250, 300, 450, 400]}))
    assert (features != other).any()
    assert action_features(ToolCall(name="FLY", arguments={}))[6] == 1.0


def test_a_gated_call_earns_nothing_and_no_reward_leaves_its_range() -> None:
    curiosity = Curiosity(CuriosityConfig(), feature_size=SIZE, seed=0)
    data = vectors(0, 64)
    items = [a_transition(data[i], data[63 - i], gate=i % 2 == 0) for i in range(32)]
    for _ in range(5):
        found = curiosity.rewards(items)
        assert (found[1::2] == 0).all()
        assert ((found >= 0) & (found <= 1)).all()
        curiosity.learn(items)


def test_asking_twice_gives_the_same_and_order_does_not_matter() -> None:
    curiosity = Curiosity(CuriosityConfig(), feature_size=SIZE, seed=0)
    data = vectors(1, 20)
    items = [a_transition(data[i], data[19 - i]) for i in range(10)]
    curiosity.learn(items)
    first = curiosity.rewards(items)
    np.testing.assert_array_equal(first, curiosity.rewards(items))
    np.testing.assert_allclose(curiosity.rewards(items[::-1])[::-1], first, atol=1e-5)


@given(st.floats(0.01, 100))
def test_rewards_ignore_the_scale_of_features(scale: float) -> None:
    curiosity = Curiosity(CuriosityConfig(), feature_size=SIZE, seed=0)
    data = vectors(2, 12)
    items = [a_transition(data[i], data[11 - i]) for i in range(6)]
    scaled = [
        replace(item, before=item.before * np.float32(scale), after=item.after * np.float32(scale)) for item in items
    ]
    np.testing.assert_allclose(curiosity.rewards(scaled), curiosity.rewards(items), atol=1e-3)


def test_features_of_zero_are_no_nan() -> None:
    curiosity = Curiosity(CuriosityConfig(), feature_size=SIZE, seed=0)
    nothing = np.zeros(SIZE, np.float32)
    assert np.isfinite(curiosity.rewards([a_transition(nothing, nothing)])).all()
    assert np.linalg.norm(unit(vectors(3, 1)[0])) == pytest.approx(1.0, abs=1e-6)


def test_a_dull_call_more_never_makes_an_episode_richer() -> None:
    assert episode([]) == 0.0
    assert episode([0.6, 0.0]) <= episode([0.6])
    assert episode([0.6, 0.2]) <= max(episode([0.6]), episode([0.2]))


def _share_of_noise(epistemic: float) -> float:
    """A greedy chooser between places that can be learned and a patch of noise: share of noise in the last 100 of
    500 updates."""
    curiosity = Curiosity(CuriosityConfig(epistemic=epistemic), feature_size=SIZE, seed=0)
    generator = np.random.default_rng(0)
    start, rule = vectors(4, 1)[0], np.random.default_rng(5).normal(size=(4, SIZE)).astype(np.float32)
    taken: list[bool] = []
    value = {False: 1.0, True: 1.0}
    for step in range(500):
        explore = step < 20 or generator.random() < 0.1
        noise = bool(generator.random() < 0.5) if explore else value[True] > value[False]
        items = []
        for _ in range(8):
            place = generator.uniform(-1, 1, 4).astype(np.float32)
            shown = generator.normal(size=SIZE) if noise else np.sin(3 * place @ rule)
            items.append(a_transition(start, shown.astype(np.float32), numbers=np.full(4, -1.0) if noise else place))
        value[noise] += 0.1 * (float(curiosity.rewards(items).mean()) - value[noise])
        curiosity.learn(items)
        taken.append(noise)
    return float(np.mean(taken[-100:]))


def test_noise_stops_paying_because_the_ensemble_agrees_about_it() -> None:
    gated, ungated = _share_of_noise(2.0), _share_of_noise(0.0)
    assert gated < 0.2, f"noise chosen {gated:.2f} of the time"
    assert ungated > 0.5, f"without the gate {ungated:.2f}"
