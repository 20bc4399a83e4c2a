"""The losses, as functions of tensors.

Every mean divides by a count of the whole batch on every rank, given by the caller, so that splitting the batch over
micro-batches or ranks leaves the gradient unchanged.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

MAX_LOG_RATIO = 20.0
"""Log-ratios are clamped to ±20 before exp, so that an absurd one stays finite (as verl does)."""


def processed_logprobs(logits: Tensor, temperature: Tensor, banned: Tensor) -> Tensor:
    """Log-softmax after bans and temperature, exactly as the sampler draws.

    logits: (token, vocabulary). temperature: (token,), positive. banned: ids that may never be written; theirs is −inf.
    Returns (token, vocabulary), float32, nats.
    """
    scaled = logits.float().index_fill(1, banned, -torch.inf) / temperature[:, None]
    return torch.log_softmax(scaled, dim=-1)


def weighted_nll(logprobs: Tensor, weights: Tensor, *, total_weight: float) -> Tensor:
    """−Σ w log π / total_weight over tokens; with equal weights, plain cross-entropy.

    logprobs, weights: (token,). total_weight: Σ w over the whole batch on every rank.
    """
    return -(weights * logprobs).sum() / total_weight


def ratios(logprobs: Tensor, behaviour_logprobs: Tensor) -> Tensor:
    """ρ = π(a)/μ(a), the log-ratio clamped."""
    return (logprobs - behaviour_logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()


def clipped_surrogate(
    logprobs: Tensor,
    behaviour_logprobs: Tensor,
    advantages: Tensor,
    *,
    num_tokens: int,
    clip_low: float,
    clip_high: float,
    dual_clip: float,
) -> Tensor:
    """−Σ s / num_tokens with s = min(ρA, clip(ρ, 1−low, 1+high)A), and s ≥ dual_clip·A where A < 0
    (arXiv:1707.06347, 1912.09729).

    All (token,) over trained tokens only. num_tokens counts those of the whole batch on every rank.
    """
    ratio = ratios(logprobs, behaviour_logprobs)
    surrogate = torch.minimum(ratio * advantages, ratio.clamp(1 - clip_low, 1 + clip_high) * advantages)
    bounded = torch.where(advantages < 0, torch.maximum(surrogate, dual_clip * advantages), surrogate)
    return -bounded.sum() / num_tokens


def clipped(ratio: Tensor, advantages: Tensor, *, clip_low: float, clip_high: float) -> Tensor:
    """Which tokens the clip holds back, shape (token,), bool."""
    return ((ratio > 1 + clip_high) & (advantages > 0)) | ((ratio < 1 - clip_low) & (advantages < 0))


def giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU of boxes (x0, y0, x1, y1), shape (box, 4) → (box,), in [−1, 1] (arXiv:1902.09630)."""
    area_a = (a[:, 2] - a[:, 0]).clamp(min=0) * (a[:, 3] - a[:, 1]).clamp(min=0)
    area_b = (b[:, 2] - b[:, 0]).clamp(min=0) * (b[:, 3] - b[:, 1]).clamp(min=0)
    inner = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0)
    outer = torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])
    shared = inner[:, 0] * inner[:, 1]
    union = area_a + area_b - shared
    hull = outer[:, 0] * outer[:, 1]
    return shared / union.clamp(min=1e-9) - (hull - union) / hull.clamp(min=1e-9)


def interval_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of intervals (start, stop), shape (interval, 2) → (interval,), in [−1, 1]: |a ∩ b| / |hull|, and apart minus
    the gap's share of the hull, so that the way back has a gradient. In one dimension the hull of intervals that meet
    is their union, so this is also the generalised IoU up to what it says of those apart.
    """
    shared = torch.minimum(a[:, 1], b[:, 1]) - torch.maximum(a[:, 0], b[:, 0])
    hull = torch.maximum(a[:, 1], b[:, 1]) - torch.minimum(a[:, 0], b[:, 0])
    return shared / hull.clamp(min=1e-9)


def box_loss(predicted: Tensor, target: Tensor, *, num_targets: int) -> Tensor:
    """Σ (SmoothL1 + 1 − GIoU) / num_targets. Boxes relative to the picture, shape (box, 4); num_targets counts those
    of the whole batch on every rank."""
    return (_smooth_l1(predicted, target) + 1 - giou(predicted, target)).sum() / num_targets


def point_loss(predicted: Tensor, target: Tensor, *, num_targets: int) -> Tensor:
    """Σ SmoothL1 / num_targets. Points relative to the picture, shape (point, 2)."""
    return _smooth_l1(predicted, target).sum() / num_targets


def span_loss(predicted: Tensor, target: Tensor, *, num_targets: int) -> Tensor:
    """Σ (SmoothL1 + 1 − IoU) / num_targets. Time spans relative to the clip, shape (span, 2)."""
    return (_smooth_l1(predicted, target) + 1 - interval_iou(predicted, target)).sum() / num_targets


def _smooth_l1(predicted: Tensor, target: Tensor) -> Tensor:
    """The mean over coordinates, (n, k) → (n,); quadratic under a tenth of the side."""
    return functional.smooth_l1_loss(predicted, target, reduction="none", beta=0.1).mean(dim=1)


def entropy(logprobs: Tensor) -> Tensor:
    """H = −Σ p log p over the vocabulary, (token, vocabulary) → (token,), nats; banned tokens (−inf) add nothing."""
    return -(logprobs.exp() * logprobs.masked_fill(logprobs == -torch.inf, 0.0)).sum(dim=-1)
