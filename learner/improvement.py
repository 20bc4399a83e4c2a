"""One policy-gradient step: clipped surrogate, KL penalties, and imitation of exemplars where asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from learner.anchor import Reference, divergence
from learner.batch import Row
from learner.config import SurrogateConfig
from learner.losses import clipped, clipped_surrogate, entropy, ratios
from learner.trainer import Pass, Trainer


@dataclass(frozen=True, slots=True, kw_only=True)
class Penalty:
    """β·mean KL(policy ‖ reference)."""

    name: str
    beta: float
    references: dict[str, Reference]


@dataclass(frozen=True, slots=True, kw_only=True)
class Improvement:
    """What to learn from `rows`.

    advantages: one a row. imitation: weight of each row's own negative log-likelihood, one a row; the number of
    tokens in rows with such a weight divides it. fresh: rows sampled wholly under the weights now held, whose
    log-probs must agree with the sampler's. sampled: rows that were sampled as they stand; the others have no
    behaviour distribution and are only imitated.
    """

    rows: Sequence[Row]
    advantages: Sequence[float]
    imitation: Sequence[float]
    fresh: Sequence[bool]
    sampled: Sequence[bool]

    @property
    def num_tokens(self) -> int:
        return sum(len(row.trained) for row in self.rows)

    @property
    def num_sampled_tokens(self) -> int:
        return sum(len(row.trained) for row, sampled in zip(self.rows, self.sampled, strict=True) if sampled)


def improve(
    trainer: Trainer, wanted: Improvement, penalties: Sequence[Penalty], surrogate: SurrogateConfig, *, lr: float
) -> dict[str, float]:
    """One optimiser step. Collective. Returns metrics; kl_<name> is the mean over trained tokens before the step,
    in nats."""
    num_tokens, num_sampled = max(1, wanted.num_tokens), max(1, wanted.num_sampled_tokens)  # a grammar may shape all
    exemplar_tokens = max(
        1, sum(len(row.trained) for row, w in zip(wanted.rows, wanted.imitation, strict=True) if w > 0)
    )
    sums: list[Tensor] = []
    extremes = [0.0, 0.0]

    def loss(found: Pass) -> Tensor:
        advantages = found.spread(wanted.advantages)
        sampled = found.spread([float(value) for value in wanted.sampled]) > 0
        behaviour = torch.where(sampled, _behaviour(found), found.logprobs.detach())
        policy = clipped_surrogate(
            found.logprobs,
            behaviour,
            advantages,
            num_tokens=num_sampled,
            clip_low=surrogate.clip_low,
            clip_high=surrogate.clip_high,
            dual_clip=surrogate.dual_clip,
        )
        total = policy - (found.spread(wanted.imitation) * found.logprobs).sum() / exemplar_tokens
        kls = [divergence(found, penalty.references).sum() / num_tokens for penalty in penalties]
        for penalty, kl in zip(penalties, kls, strict=True):
            total = total + penalty.beta * kl
        with torch.no_grad():
            ratio = ratios(found.logprobs, behaviour)
            held = clipped(ratio, advantages, clip_low=surrogate.clip_low, clip_high=surrogate.clip_high)
            spread = entropy(found.all_logprobs).sum() / num_tokens
            sums.append(torch.stack([total, policy, held.sum() / num_sampled, spread, *kls]).detach())
            if found.members:
                fresh = found.spread([float(value) for value in wanted.fresh]) > 0
                extremes[0] = max(extremes[0], float(ratio.max()))
                extremes[1] = max(extremes[1], float(((found.logprobs - behaviour).abs() * fresh).max()))
        return total

    norm = trainer.descend(wanted.rows, loss, lr=lr)
    whole, policy, held, spread, *kls = trainer.total(list(torch.stack(sums).sum(dim=0)))
    return {
        "loss": whole,
        "policy_loss": policy,
        "clipped_share": held,
        "entropy": spread,
        "ratio_max": trainer.largest(extremes[0]),
        "logprob_mismatch_max": trainer.largest(extremes[1]),
        "grad_norm": norm,
        "lr": lr,
        "num_trained_tokens": num_sampled,
        "num_tokens": sum(row.length for row in wanted.rows),
        **{f"kl_{penalty.name}": kl for penalty, kl in zip(penalties, kls, strict=True)},
    }


@torch.no_grad()
def measure(trainer: Trainer, rows: Sequence[Row], penalties: Sequence[Penalty]) -> dict[str, float]:
    """Mean KL(policy ‖ reference) over trained tokens with the weights now held, by name. Collective."""
    num_tokens = max(1, sum(len(row.trained) for row in rows))
    sums = [
        torch.stack([divergence(found, penalty.references).sum() for penalty in penalties])
        for found in trainer.forward.passes(rows)
    ]
    totals = trainer.total(list(torch.stack(sums).sum(dim=0) / num_tokens))
    return {penalty.name: value for penalty, value in zip(penalties, totals, strict=True)}


def _behaviour(found: Pass) -> Tensor:
    return torch.cat([torch.from_numpy(row.behaviour_logprobs) for row in found.batch.rows]).to(found.logprobs.device)
