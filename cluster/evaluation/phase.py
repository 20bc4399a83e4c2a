"""The row that an evaluation is in a run's table of phases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from actors.actor import Outcome
from cluster.evaluation.arms import Measured, mean
from cluster.evaluation.results import compare
from cluster.summary import PhaseSummary


def phase_row(name: str, measured: Measured, *, seed: int, token_kl: float | None) -> PhaseSummary:
    """The measured columns of a phase's row. A chain is valid when every call worked and an answer ended it."""
    outcomes = measured.learned
    comparison = compare(measured, seed=seed)
    learned = comparison.arms["learned"]
    return PhaseSummary(
        name=name,
        accuracy=learned.overall.accuracy.value,
        accuracy_without_tools=comparison.arms["no_tool"].overall.accuracy.value,
        valid_chain_rate=mean([outcome.valid for outcome in outcomes]),
        mean_chain_length=learned.overall.calls.value,
        rapr=learned.overall.rapr.value,
        racpr=learned.overall.racpr.value,
        token_kl=token_kl,
        num_tasks=len(outcomes),
        seed=seed,
        rollout_tokens_per_s=measured.num_tokens / measured.wall_s,
        tools_share=share([o.tools_s for o in outcomes], outcomes),
        generation_share=share([o.generate_s for o in outcomes], outcomes),
        accuracy_by_family={family: figures.accuracy.value for family, figures in learned.families.items()},
        comparison=asdict(comparison),
    )


def share(seconds: Sequence[float], outcomes: Sequence[Outcome]) -> float:
    """Part of the rollouts' own time; waiting for each other counts where it happened."""
    whole = sum(outcome.tools_s + outcome.generate_s for outcome in outcomes)
    return sum(seconds) / whole if whole else 0.0
