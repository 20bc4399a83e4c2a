"""KL to an anchor, and the controller that keeps it where it should be.

KL = KL(π_θ ‖ anchor) in nats, per token: exact over the vocabulary where that is affordable, else k3 on the
policy's samples.
"""

from __future__ import annotations

import torch
from torch import Tensor

from learner.config import CorridorConfig


def exact_kl(logprobs: Tensor, anchor_logprobs: Tensor) -> Tensor:
    """Σ_v π(v) (log π(v) − log anchor(v)), (token, vocabulary) twice → (token,). Tokens banned in both (−inf) add
    nothing."""
    banned = logprobs == -torch.inf
    difference = logprobs.masked_fill(banned, 0.0) - anchor_logprobs.masked_fill(banned, 0.0)
    return (logprobs.exp() * difference).sum(dim=-1)


def k3(logprobs: Tensor, anchor_logprobs: Tensor) -> Tensor:
    """r − 1 − log r with r = anchor(a)/π(a), (token,) twice → (token,); never negative, unbiased on the policy's
    own samples."""
    log_ratio = (anchor_logprobs - logprobs).clamp(-20.0, 20.0)
    return log_ratio.exp() - 1 - log_ratio


def next_beta(beta: float, kl: float, corridor: CorridorConfig) -> float:
    """β·factor above the corridor, β/factor below it, β inside, kept in [beta_min, beta_max].

    Below the lower edge only β relaxes: drift is allowed, never forced.
    """
    if kl > corridor.high:
        beta *= corridor.factor
    elif kl < corridor.low:
        beta /= corridor.factor
    return min(corridor.beta_max, max(corridor.beta_min, beta))
