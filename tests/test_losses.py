"""Losses against numbers worked out by hand or published by others, and laws."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from learner.losses import (
    box_loss,
    clipped,
    clipped_surrogate,
    entropy,
    giou,
    interval_iou,
    point_loss,
    processed_logprobs,
    ratios,
    span_loss,
    weighted_nll,
)

ADVANTAGES = torch.tensor([1.0, -1.0, 2.0], dtype=torch.float64)
OLD = torch.full((3,), -1.0, dtype=torch.float64)
NEW = OLD + torch.log(torch.tensor([0.5, 1.0, 1.5], dtype=torch.float64))


def surrogate(
    new: Tensor, old: Tensor, advantages: Tensor, *, low: float = 0.2, high: float = 0.2, dual: float = 1e9
) -> Tensor:
    return clipped_surrogate(new, old, advantages, num_tokens=len(new), clip_low=low, clip_high=high, dual_clip=dual)


def test_the_clipped_surrogate_gives_the_published_mean() -> None:
    # tokens −.5, 1, −2.4 (NeMo-RL's tests assert the same)
    assert surrogate(NEW, OLD, ADVANTAGES).item() == pytest.approx(-0.633333, abs=1e-6)


def test_clip_higher_lets_a_good_token_rise_further() -> None:
    assert surrogate(NEW, OLD, ADVANTAGES, high=0.28).item() == pytest.approx(-0.686667, abs=1e-6)


def test_the_dual_clip_bounds_a_bad_token_that_became_likely() -> None:
    ratio = torch.tensor([0.5, 1.0, 10.0], dtype=torch.float64)
    advantages = torch.tensor([1.0, -1.0, -4.0], dtype=torch.float64)
    loss = clipped_surrogate(
        ratio.log(), torch.zeros(3), advantages, num_tokens=1, clip_low=0.2, clip_high=0.2, dual_clip=3.0
    )
    assert loss.item() == pytest.approx(12.5)  # −.5 + 1 + 12 (SkyRL)


def test_the_dual_clip_of_one_and_a_half_gives_the_published_tokens() -> None:
    ratio = torch.tensor([2.0, 2.0, 0.5], dtype=torch.float64)
    advantages = torch.tensor([2.0, -2.0, 2.0], dtype=torch.float64)
    tokens = [
        surrogate(ratio[i : i + 1].log(), torch.zeros(1), advantages[i : i + 1], dual=1.5).item() for i in range(3)
    ]
    assert tokens == pytest.approx([-2.4, 3.0, -1.0])  # slime


def test_on_policy_the_gradient_is_the_plain_policy_gradient() -> None:
    logprobs = OLD.clone().requires_grad_(True)
    surrogate(logprobs, OLD, ADVANTAGES).backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(logprobs.grad, -ADVANTAGES / 3)


@pytest.mark.parametrize(
    ("ratio", "advantage", "held"), [(1.5, 1.0, True), (0.5, -1.0, True), (1.5, -1.0, False), (1.1, 1.0, False)]
)
def test_a_clipped_token_has_no_gradient(ratio: float, advantage: float, held: bool) -> None:
    logprobs = torch.tensor([math.log(ratio)], dtype=torch.float64, requires_grad=True)
    advantages = torch.tensor([advantage], dtype=torch.float64)
    surrogate(logprobs, torch.zeros(1), advantages).backward()  # type: ignore[no-untyped-call]
    assert logprobs.grad is not None
    assert (logprobs.grad.item() == 0) == held
    assert clipped(ratios(logprobs, torch.zeros(1)), advantages, clip_low=0.2, clip_high=0.2).tolist() == [held]


@pytest.mark.parametrize("log_ratio", [-100.0, 100.0])
def test_an_absurd_ratio_stays_finite(log_ratio: float) -> None:
    logprobs = torch.tensor([log_ratio], requires_grad=True)
    loss = surrogate(logprobs, torch.zeros(1), torch.tensor([-1.0]), dual=3.0)
    loss.backward()  # type: ignore[no-untyped-call]
    assert logprobs.grad is not None
    assert torch.isfinite(loss)
    assert torch.isfinite(logprobs.grad).all()


def test_zero_advantages_teach_nothing() -> None:
    logprobs = NEW.clone().requires_grad_(True)
    surrogate(logprobs, OLD, torch.zeros(3)).backward()  # type: ignore[no-untyped-call]
    assert logprobs.grad is not None
    assert logprobs.grad.abs().max() == 0


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.floats(-3, 0), st.floats(-3, 0), st.floats(-2, 2)), min_size=2, max_size=12), st.data())
def test_splitting_a_batch_leaves_the_gradient_unchanged(
    rows: list[tuple[float, float, float]], data: st.DataObject
) -> None:
    values = torch.tensor(rows, dtype=torch.float64)
    cut = data.draw(st.integers(0, len(rows)))

    def gradient(parts: list[slice]) -> Tensor:
        new = values[:, 0].clone().requires_grad_(True)
        for part in parts:
            clipped_surrogate(
                new[part],
                values[part, 1],
                values[part, 2],
                num_tokens=len(rows),
                clip_low=0.2,
                clip_high=0.28,
                dual_clip=3.0,
            ).backward()  # type: ignore[no-untyped-call]
        assert new.grad is not None
        return new.grad

    torch.testing.assert_close(gradient([slice(None)]), gradient([slice(0, cut), slice(cut, None)]))


def test_equal_weights_are_plain_cross_entropy() -> None:
    logits = torch.randn(6, 9, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0, 3, 8, 2, 2, 5])
    logprobs = torch.log_softmax(logits, dim=1).gather(1, targets[:, None])[:, 0]
    for weight in (1.0, 2.5):
        loss = weighted_nll(logprobs, torch.full((6,), weight), total_weight=6 * weight)
        torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(logits, targets))


def test_the_weighted_mean_divides_by_the_sum_of_weights() -> None:
    # 2·1 + 1·4 over 3
    loss = weighted_nll(torch.tensor([-1.0, -4.0]), torch.tensor([2.0, 1.0]), total_weight=3.0)
    assert loss.item() == pytest.approx(2.0)


def test_a_token_without_weight_has_no_gradient() -> None:
    logprobs = torch.tensor([-1.0, -2.0], requires_grad=True)
    weighted_nll(logprobs, torch.tensor([0.0, 1.0]), total_weight=1.0).backward()  # type: ignore[no-untyped-call]
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == [0.0, -1.0]


def test_bans_and_temperature_shape_the_distribution_as_the_sampler_does() -> None:
    logits = torch.log(torch.tensor([[1.0, 4.0, 100.0]]))
    found = processed_logprobs(logits, torch.tensor([2.0]), torch.tensor([2])).exp()
    torch.testing.assert_close(found, torch.tensor([[1 / 3, 2 / 3, 0.0]]))  # √1 : √4


def test_a_bias_of_minus_one_hundred_equals_a_ban() -> None:
    logits = torch.randn(5, 50, generator=torch.Generator().manual_seed(1)) * 3
    biased = logits.clone()
    biased[:, [3, 7]] -= 100
    banned = processed_logprobs(logits, torch.ones(5), torch.tensor([3, 7]))
    kept = [i for i in range(50) if i not in (3, 7)]
    torch.testing.assert_close(banned[:, kept], torch.log_softmax(biased, dim=1)[:, kept], atol=1e-6, rtol=0)


def test_entropy_of_a_coin_is_log_two_whatever_is_banned() -> None:
    logprobs = torch.tensor([[math.log(0.5), math.log(0.5), -math.inf]], requires_grad=True)
    value = entropy(logprobs)
    assert value.item() == pytest.approx(math.log(2))


def test_giou_of_equal_and_of_apart_boxes() -> None:
    box = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    apart = torch.tensor([[2.0, 0.0, 3.0, 1.0]])
    assert giou(box, box).item() == pytest.approx(1.0)
    assert giou(box, apart).item() == pytest.approx(-1 / 3)  # hull 3, union 2
    half = torch.tensor([[0.0, 0.0, 1.0, 0.5]])
    assert giou(box, half).item() == pytest.approx(0.5)


def test_the_box_loss_is_zero_on_the_box_and_grows_away_from_it() -> None:
    target = torch.tensor([[0.2, 0.2, 0.5, 0.5]])
    losses = [box_loss(target + shift, target, num_targets=1).item() for shift in (0.0, 0.05, 0.1, 0.3)]
    assert losses[0] == pytest.approx(0.0, abs=1e-6)
    assert losses == sorted(losses)


BOX = st.tuples(*[st.floats(0, 1, width=32)] * 4).map(
    lambda v: (min(v[0], v[2]), min(v[1], v[3]), max(v[0], v[2]) + 0.01, max(v[1], v[3]) + 0.01)
)


@given(BOX, BOX)
def test_giou_is_torchvisions(a: tuple[float, ...], b: tuple[float, ...]) -> None:
    from torchvision.ops import generalized_box_iou_loss

    one, two = torch.tensor([a], dtype=torch.float64), torch.tensor([b], dtype=torch.float64)
    torch.testing.assert_close(1 - giou(one, two), generalized_box_iou_loss(one, two, eps=0.0), atol=1e-9, rtol=0)


def test_the_gradient_of_giou_is_torchvisions() -> None:
    from torchvision.ops import generalized_box_iou_loss

    corners = torch.rand(2, 200, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mine, target = corners.sort(dim=2).values.flatten(2)
    mine = mine.requires_grad_(True)
    (1 - giou(mine, target)).sum().backward()  # type: ignore[no-untyped-call]
    theirs = mine.detach().clone().requires_grad_(True)
    generalized_box_iou_loss(theirs, target, eps=0.0).sum().backward()
    torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-9, rtol=1e-9)


INTERVAL = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(lambda v: (min(v), max(v) + 0.01))


def test_intervals_share_what_they_share() -> None:
    a = torch.tensor([[0.0, 0.5], [0.0, 0.5], [0.0, 0.2]])
    b = torch.tensor([[0.0, 0.5], [0.25, 0.75], [0.6, 0.8]])
    assert interval_iou(a, b).tolist() == pytest.approx([1.0, 1 / 3, -0.5])  # apart: a gap of .4 in a hull of .8


@given(INTERVAL, INTERVAL)
def test_the_iou_of_intervals_is_that_of_boxes_of_height_one(a: tuple[float, float], b: tuple[float, float]) -> None:
    one, two = torch.tensor([a], dtype=torch.float64), torch.tensor([b], dtype=torch.float64)
    tall = [torch.tensor([[v[0], 0.0, v[1], 1.0]], dtype=torch.float64) for v in (a, b)]
    torch.testing.assert_close(interval_iou(one, two), giou(*tall), atol=1e-6, rtol=0)


def test_point_and_span_losses_are_worked_out_by_hand() -> None:
    # off by .3 and .05 with a knee at .1: (.3 − .05 + .05²/.2) / 2
    point = point_loss(torch.tensor([[0.5, 0.25]]), torch.tensor([[0.2, 0.2]]), num_targets=2)
    assert point.item() == pytest.approx((0.25 + 0.0125) / 2 / 2)
    # both ends off by .2: .15, and an IoU of .2 / .6
    span = span_loss(torch.tensor([[0.4, 0.8]]), torch.tensor([[0.2, 0.6]]), num_targets=1)
    assert span.item() == pytest.approx(0.15 + 1 - 1 / 3)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.floats(-4, 4), st.floats(-4, 4), st.floats(0.1, 5)), min_size=1, max_size=8),
    st.floats(0.01, 100),
)
def test_the_weighted_loss_is_invariant_to_the_scale_of_weights_and_so_is_its_gradient(
    rows: list[tuple[float, float, float]], scale: float
) -> None:
    values = torch.tensor(rows, dtype=torch.float64)

    def gradient(weights: Tensor) -> tuple[Tensor, Tensor]:
        logits = values[:, :2].clone().requires_grad_(True)
        logprobs = torch.log_softmax(logits, dim=1)[:, 0]
        loss = weighted_nll(logprobs, weights, total_weight=float(weights.sum()))
        loss.backward()  # type: ignore[no-untyped-call]
        assert logits.grad is not None
        return loss.detach(), logits.grad

    for mine, theirs in zip(gradient(values[:, 2]), gradient(values[:, 2] * scale), strict=True):
        torch.testing.assert_close(mine, theirs)
    # By torch: each token's cross-entropy, weighted, over the sum of weights.
    nll = torch.nn.functional.cross_entropy(values[:, :2], torch.zeros(len(rows), dtype=torch.int64), reduction="none")
    torch.testing.assert_close(gradient(values[:, 2])[0], (values[:, 2] * nll).sum() / values[:, 2].sum())
