"""The limiter: how far acting may run ahead of learning.

One inequality over counters. The learner draws G = groups_per_step groups a step and stands at step s (s steps are done
since the phase began); r groups were returned: spent or expired without ever being drawn. Group n (numbered from 0 in
the order of admission) may start when

    n < (s + max_policy_lag + 1) · G + r

**No group is older than the bound, drawn in order.** When n starts, r of the groups 0 … n−1 will never be drawn, so at
most n − r are drawn before it, and it is drawn at step ⌊(n − r)/G⌋ ≤ s + max_policy_lag at the latest. It was sampled
under the policy of step s or a later one, so its lag at the draw is at most max_policy_lag. Groups returned later only
bring its draw forward. Drawn out of order (a slow group is overtaken) it may come later; it is then expired, which
returns its credit, never learned from.

**No deadlock.** If the learner waits at step s, every group that was not returned and has a number below (s+1)·G + r
may start, and there are G of them that no earlier step has used: either all end and the learner goes on, or one is
returned and r grows. So it is enough that every started group ends or is abandoned, and that not every group is
returned by construction; `check_group_size` refuses what would be.
"""

from __future__ import annotations

from dataclasses import dataclass

from common.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Limiter:
    """groups_per_step: groups a learner step draws, at least 1. max_policy_lag: learner steps, at least 0."""

    groups_per_step: int
    max_policy_lag: int

    def __post_init__(self) -> None:
        if self.groups_per_step < 1:
            raise ConfigError(
                f"groups_per_step must be at least 1, got {self.groups_per_step}: no group could ever start"
            )
        if self.max_policy_lag < 0:
            raise ConfigError(
                f"max_policy_lag must be at least 0, got {self.max_policy_lag}: the learner would wait for groups that "
                "may not start before it has learned from them"
            )

    def may_start(self, number: int, *, step: int, returned: int) -> bool:
        """Whether group `number` may start while the learner stands at `step` and `returned` groups were returned."""
        return number < (step + self.max_policy_lag + 1) * self.groups_per_step + returned


def check_group_size(group_size: int, *, votes: bool, drop_zero_variance: bool) -> None:
    """Refuse groups that would all be returned: the learner would wait for ever. Raises ConfigError."""
    if group_size < 1:
        raise ConfigError(f"group_size must be at least 1, got {group_size}")
    if group_size == 1 and drop_zero_variance and not votes:
        raise ConfigError(
            "a group of one rollout has no variance and would be dropped, so the learner would wait for ever: "
            "raise group_size to 2 or more, or set drop_zero_variance to false"
        )
