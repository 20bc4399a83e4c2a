"""One reward from a rollout's facts and signals.

The answer decides; curiosity, coherence and efficiency only rank rollouts that answer alike. The intrinsic terms
are bounded, paid in full to right rollouts and at most a quarter to wrong but valid ones, so right and dull always
beats wrong and curious.
"""

from __future__ import annotations

from dataclasses import dataclass

from learner.config import RewardConfig
from learner.efficiency import penalty


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """What the learner derived for one rollout: curiosity and coherence, each in [0, 1]."""

    curiosity: float
    coherence: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reward:
    """The terms as they enter the total."""

    answer: float
    curiosity: float
    coherence: float
    efficiency: float

    @property
    def total(self) -> float:
        return self.answer + self.curiosity + self.coherence - self.efficiency


def combine(
    *, answer: float, valid: bool, num_calls: int, optimum: int | None, signals: Signals, config: RewardConfig
) -> Reward:
    """R = answer + grant·min(limit, a_c·C + a_k·K) − answer·min(e_limit, a_e·max(0, n − n*)).

    grant = max(answer, wrong_share if valid else 0). answer: the score in [0, 1], or agreement with the vote where
    no truth is known. A term of weight 0 is exactly absent.
    """
    curious, coherent = config.curiosity * signals.curiosity, config.coherence * signals.coherence
    total = curious + coherent
    scale = min(1.0, config.intrinsic_limit / total) if total > 0 else 0.0
    grant = scale * max(answer, config.wrong_share if valid else 0.0)
    spent = penalty(num_calls, optimum, right=answer, rate=config.efficiency, limit=config.efficiency_limit)
    return Reward(answer=answer, curiosity=grant * curious, coherence=grant * coherent, efficiency=spent)
