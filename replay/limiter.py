"""The limiter: how far acting may run ahead of learning.

One inequality over counters. A draw takes G = groups_per_step groups. Of the groups started so far, u were drawn for a
step that the learner has done, and r were returned: spent or expired without ever being drawn. Group n (numbered from 0
in the order of admission) may start when

    n < u + r + B,    B = max(min_groups, G, (max_policy_lag + 1) · ⌈G / samples_per_insert⌉) + error_budget

so at most B groups are under way that no finished step has learned from. Without reuse u = s · G at step s and, with no
minimum and no budget, this is n < (s + max_policy_lag + 1) · G + r.

**No group is older than the bound, drawn in order.** Without reuse, minimum and budget: when n starts, r of the groups
0 … n−1 will never be drawn, so at most n − r are drawn before it, and it is drawn at step ⌊(n − r)/G⌋ ≤ s +
max_policy_lag at the latest. It was sampled under the policy of step s or a later one, so its lag at the draw is at
most max_policy_lag. Groups returned later only bring its draw forward. Drawn out of order (a slow group is overtaken,
or the selector is random) it may come later; it is then expired, which returns its credit, never learned from.

**No deadlock.** If the learner waits for the draw of step s, all drawn groups count in u, so B groups that were never
drawn may start or have started. All of them end and are ready, or one is returned and r grows and another may start. So
max(min_groups, G) ≤ B ready groups that were never drawn come together, and every selector is content with those. So it
is enough that every started group ends or is abandoned, and that not every group is returned by construction;
`check_group_size` and `check_drawing` refuse what would be.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from common.errors import ConfigError
from replay.config import Drawing


@dataclass(frozen=True, slots=True, kw_only=True)
class Limiter:
    """groups_per_step: groups a learner step draws, at least 1. max_policy_lag: learner steps, at least 0."""

    groups_per_step: int
    max_policy_lag: int
    drawing: Drawing = field(default_factory=Drawing)

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
        check_drawing(self.drawing, groups_per_step=self.groups_per_step, max_policy_lag=self.max_policy_lag)

    @property
    def num_ahead(self) -> int:
        """B: groups that may be under way without a finished step having learned from them."""
        fresh = math.ceil(self.groups_per_step / self.drawing.samples_per_insert)
        most = max(self.drawing.min_groups, self.groups_per_step, (self.max_policy_lag + 1) * fresh)
        return most + self.drawing.error_budget

    def may_start(self, number: int, *, drawn: int, returned: int) -> bool:
        """Whether group `number` may start. drawn: groups that a finished step learned from; returned: see above."""
        return number < drawn + returned + self.num_ahead


def check_drawing(drawing: Drawing, *, groups_per_step: int, max_policy_lag: int) -> None:
    """Refuse what the learner would wait for in vain. Raises ConfigError."""
    if drawing.selector == "windowed" and drawing.window < groups_per_step:
        raise ConfigError(
            f"drawing.window = {drawing.window} is less than groups_per_step = {groups_per_step}: a draw would wait "
            "for ever for more groups than it may look at"
        )
    most = (max_policy_lag + 1) * groups_per_step
    if drawing.min_groups > most:
        raise ConfigError(
            f"drawing.min_groups = {drawing.min_groups} is more than (max_policy_lag + 1) · groups_per_step = {most}: "
            "the rest would be too old whenever their turn came; lower it, or raise max_policy_lag"
        )


def check_group_size(group_size: int, *, votes: bool, drop_zero_variance: bool) -> None:
    """Refuse groups that would all be returned: the learner would wait for ever. Raises ConfigError."""
    if group_size < 1:
        raise ConfigError(f"group_size must be at least 1, got {group_size}")
    if group_size == 1 and drop_zero_variance and not votes:
        raise ConfigError(
            "a group of one rollout has no variance and would be dropped, so the learner would wait for ever: "
            "raise group_size to 2 or more, or set drop_zero_variance to false"
        )
