"""KL, its estimator, the controller, the average and the learning rate."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learner.average import Average
from learner.config import CorridorConfig, EngineConfig, RewardConfig, ScheduleConfig, SurrogateConfig
from learner.divergence import exact_kl, k3, next_beta
from learner.schedule import learning_rate

CORRIDOR = CorridorConfig(low=0.1, high=0.2, beta=1.0)


def test_k3_gives_the_published_values() -> None:
    found = k3(torch.full((2,), -1.0), torch.tensor([0.0, -15.0]))
    torch.testing.assert_close(found, torch.tensor([0.718282, 13.000001]))


def test_exact_kl_agrees_with_torch_and_skips_banned_tokens() -> None:
    logits = torch.randn(2, 4, 7, generator=torch.Generator().manual_seed(0))
    logits[:, :, 2] = -math.inf
    policy, anchor = torch.log_softmax(logits, dim=-1)
    kept = [0, 1, 3, 4, 5, 6]
    expected = torch.nn.functional.kl_div(anchor[:, kept], policy[:, kept], log_target=True, reduction="none").sum(1)
    torch.testing.assert_close(exact_kl(policy, anchor), expected)


def test_exact_kl_has_a_finite_gradient_with_bans() -> None:
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    policy = torch.log_softmax(logits.index_fill(1, torch.tensor([1]), -math.inf), dim=-1)
    exact_kl(policy, policy.detach().roll(0)).sum().backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    torch.testing.assert_close(logits.grad, torch.zeros_like(logits), atol=1e-6, rtol=0)


def test_k3_estimates_the_exact_kl_on_the_policys_own_samples() -> None:
    generator = torch.Generator().manual_seed(0)
    policy, anchor = torch.log_softmax(torch.randn(2, 1, 6, generator=generator), dim=-1)
    picks = torch.multinomial(policy[0].exp(), 200_000, replacement=True, generator=generator)
    estimate = k3(policy[0, picks], anchor[0, picks]).mean()
    assert estimate.item() == pytest.approx(exact_kl(policy, anchor).item(), rel=0.02)


def test_beta_rises_above_the_corridor_relaxes_below_and_rests_inside() -> None:
    assert next_beta(1.0, 0.3, CORRIDOR) == 1.5
    assert next_beta(1.0, 0.05, CORRIDOR) == pytest.approx(1 / 1.5)
    assert next_beta(1.0, 0.15, CORRIDOR) == 1.0


@given(st.lists(st.floats(0, 10), max_size=60))
def test_beta_stays_within_its_bounds(kls: list[float]) -> None:
    beta = CORRIDOR.beta
    for kl in kls:
        beta = next_beta(beta, kl, CORRIDOR)
    assert CORRIDOR.beta_min <= beta <= CORRIDOR.beta_max


def test_the_average_of_a_constant_drift_lags_by_a_constant_while_the_anchor_is_left_behind() -> None:
    average = Average({"w": torch.zeros(1)}, momentum=0.9)
    for step in range(1, 201):
        average.update([("w", torch.tensor([float(step)]))])
    lag = 200 - average.tensors["w"].item()
    assert lag == pytest.approx(9.0, abs=0.01)  # v·m/(1−m); the distance to a fixed anchor at 0 is 200


def test_a_small_update_survives_in_the_average() -> None:
    average = Average({"w": torch.ones(1)}, momentum=0.999)
    average.update([("w", torch.tensor([1.01], dtype=torch.bfloat16))])
    assert average.tensors["w"].item() != 1.0
    with pytest.raises(ValueError, match="float32"):
        Average({"w": torch.ones(1, dtype=torch.bfloat16)}, momentum=0.9)


def test_the_learning_rate_warms_up_then_falls_to_its_final_share() -> None:
    schedule = ScheduleConfig(lr=1.0, num_steps=110, warmup_steps=10, final_share=0.1)
    assert learning_rate(0, schedule) == 0.1
    assert learning_rate(9, schedule) == 1.0
    assert learning_rate(60, schedule) == pytest.approx(0.55)
    assert learning_rate(110, schedule) == pytest.approx(0.1)
    assert learning_rate(500, schedule) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SurrogateConfig(clip_low=1.2), "clip_low must be in \\(0, 1\\), got 1.2"),
        (lambda: EngineConfig(zero_stage=4), "zero_stage must be 0, 1, 2 or 3, got 4"),
        (lambda: CorridorConfig(low=0.3, high=0.2, beta=1.0), "low must be in"),
        (lambda: RewardConfig(wrong_share=1.0, intrinsic_limit=1.0), "right and dull"),
        (lambda: ScheduleConfig(lr=0.0, num_steps=1), "lr must be positive, got 0.0"),
        (lambda: EngineConfig(dtype="bfloat16", backend="torch"), "needs backend deepspeed"),
    ],
)
def test_an_impossible_value_is_refused_with_what_to_change(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]
