"""Learning rates over the steps of a phase."""

from __future__ import annotations

import math

from learner.config import ScheduleConfig


def learning_rate(step: int, schedule: ScheduleConfig) -> float:
    """lr·(step+1)/warmup at first, then lr·(f + (1−f)·½(1 + cos πt)) with t from 0 to 1 at `num_steps` and f =
    `final_share`."""
    if step < schedule.warmup_steps:
        return schedule.lr * (step + 1) / schedule.warmup_steps
    span = max(1, schedule.num_steps - schedule.warmup_steps)
    progress = min(1.0, (step - schedule.warmup_steps) / span)
    fall = 0.5 * (1 + math.cos(math.pi * progress))
    return schedule.lr * (schedule.final_share + (1 - schedule.final_share) * fall)
