"""Curiosity-coherence reward fine-tuning, one step.

anchor pass → step features → curiosity, coherence → rewards → group-relative advantages → clipped surrogate +
β·KL(policy ‖ anchor).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from common.errors import ContractError
from common.types import Rollout
from learner.advantages import group_advantages
from learner.anchor import Anchor, Reference
from learner.batch import Row
from learner.coherence import Band
from learner.config import RftConfig
from learner.curiosity import Curiosity
from learner.divergence import next_beta
from learner.improvement import Improvement, Penalty, improve
from learner.rewards import Reward, Signals, combine
from learner.schedule import learning_rate
from learner.signals import Pooled, signals_of, step_features
from learner.trainer import Trainer


class Reinforcement:
    """Holds what lasts over the phase: the dynamics ensemble, the coherence band and β."""

    def __init__(
        self,
        trainer: Trainer,
        anchor: Anchor,
        config: RftConfig,
        *,
        feature_size: int,
        pooled: Pooled | None,
        seed: int,
    ) -> None:
        self._trainer = trainer
        self._anchor = anchor
        self._config = config
        self._feature_size = feature_size
        self._pooled = pooled
        self.curiosity = Curiosity(config.curiosity, feature_size=feature_size, seed=seed)
        band = config.coherence
        self.band = Band(centre=band.centre, width=band.width, neutral=band.neutral)
        self.beta = config.kl.beta

    def step(
        self, rollouts: Sequence[Rollout], rows: Sequence[Row], *, fresh: Sequence[bool], step: int
    ) -> dict[str, float]:
        """Learn from whole groups. Collective. Raises ContractError for a rollout without a score."""
        references = self._anchor.look(rows)
        signals, error = self._signals(rollouts, references)
        rewards = [reward_of(rollout, found, self._config) for rollout, found in zip(rollouts, signals, strict=True)]
        advantages = group_advantages(
            [reward.total for reward in rewards],
            [rollout.group_id for rollout in rollouts],
            standardise=self._config.standardise,
        )
        wanted = Improvement(
            rows=rows,
            advantages=advantages.tolist(),
            imitation=[0.0] * len(rows),
            fresh=fresh,
            sampled=[True] * len(rows),
        )
        penalty = Penalty(name="anchor", beta=self.beta, references=references)
        lr = learning_rate(step, self._config.schedule)
        metrics = improve(self._trainer, wanted, [penalty], self._config.surrogate, lr=lr)
        metrics |= {
            "beta": self.beta,
            "curiosity_error": error,
            **reward_metrics(rewards, signals, advantages.tolist()),
        }
        self.beta = next_beta(self.beta, metrics["kl_anchor"], self._config.kl)
        return metrics

    def _signals(self, rollouts: Sequence[Rollout], references: dict[str, Reference]) -> tuple[list[Signals], float]:
        features = step_features(
            rollouts,
            references,
            feature_size=self._feature_size,
            pooled=self._pooled,
            total=self._trainer.engine.total,
        )
        return signals_of(rollouts, features, curiosity=self.curiosity, band=self.band, config=self._config.curiosity)


def reward_of(rollout: Rollout, signals: Signals, config: RftConfig) -> Reward:
    """The reward of one scored rollout. Raises ContractError where no truth was known."""
    facts = rollout.facts
    if facts.score is None:
        raise ContractError(f"rollout {rollout.rollout_id}: it has no score, and this phase learns from scores")
    return combine(
        answer=facts.score,
        valid=facts.valid,
        num_calls=facts.num_calls,
        optimum=len(rollout.chain) if rollout.chain else None,
        signals=signals,
        config=config.reward,
    )


def reward_metrics(
    rewards: Sequence[Reward], signals: Sequence[Signals], advantages: Sequence[float]
) -> dict[str, float]:
    """Means of the terms, and each term's standard deviation over the total's (what decides the ranking)."""
    terms = {
        "answer": [reward.answer for reward in rewards],
        "curiosity": [reward.curiosity for reward in rewards],
        "coherence": [reward.coherence for reward in rewards],
        "efficiency": [reward.efficiency for reward in rewards],
    }
    totals = np.array([reward.total for reward in rewards])
    spread = float(totals.std()) or 1.0
    found = {f"reward_{name}": float(np.mean(values)) for name, values in terms.items()}
    found |= {f"reward_{name}_spread": float(np.std(values)) / spread for name, values in terms.items()}
    return found | {
        "reward": float(totals.mean()),
        "signal_curiosity": float(np.mean([item.curiosity for item in signals])),
        "signal_coherence": float(np.mean([item.coherence for item in signals])),
        "advantage_abs": float(np.abs(advantages).mean()),
    }
