"""What the buffer decides, as functions of the state: who may enter, what may be drawn, what is given up and why.

Nothing here changes anything; the buffer turns the answers into records.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from common.columns import RolloutKeys
from common.errors import ConfigError, ContractError
from replay.config import Drawing
from replay.limiter import check_group_size
from replay.records import Begin, Drawn
from replay.state import Group, State


def check_same(now: Begin, again: Begin) -> None:
    """Raise ConfigError where a phase that is under way is begun again with other settings."""
    assert again.drawing is not None
    old = (now.groups_per_step, now.max_policy_lag, now.votes, drawing_of(now, again.drawing))
    new = (again.groups_per_step, again.max_policy_lag, again.votes, again.drawing)
    if old != new:
        raise ConfigError(
            f"phase {now.phase} began with groups_per_step, max_policy_lag, votes, drawing = {old}; this run folder "
            f"cannot go on with {new}: use the old values or a new run folder"
        )


def drawing_of(phase: Begin, configured: Drawing) -> Drawing:
    """How a phase draws. A log of format 1 does not say whether it draws in order; the configuration does."""
    return phase.drawing or Drawing(selector=configured.selector, seed=configured.seed)


def ready(state: State, group: Group) -> bool:
    """All its rollouts are here and, in a phase that votes, so is the vote."""
    votes = state.phase is not None and state.phase.votes
    return group.complete and (not votes or group.consensus is not None)


def why_spend(state: State, group: Group, *, drop_zero_variance: bool) -> str:
    """Why a ready group teaches nothing; "" when it does.

    quarantined: fewer than two rollouts are left to compare. abstained: the vote gave no answer. zero_variance: all
    answers scored the same, where scores are the reward (that is, without votes).
    """
    assert state.phase is not None
    usable = group.usable
    if len(usable) < min(2, group.size):
        return "quarantined"
    if state.phase.votes:
        return "abstained" if group.consensus is not None and group.consensus.answer is None else ""
    same = len({member.score for member in usable}) == 1
    return "zero_variance" if drop_zero_variance and same else ""


def draw_of(state: State, groups: Sequence[Group], step: int, *, watermark: int) -> Drawn:
    """The record of drawing `groups`, none of them too old, for `step`."""
    members = [member for group in groups for member in group.usable]
    return Drawn(
        step=step,
        watermark=watermark,
        group_ids=tuple(group.group_id for group in groups),
        rollout_ids=tuple(member.rollout_id for member in members),
        sequences=tuple(member.sequence for member in members),
        lag=max(lag for lag in _lags(state, groups, step) if lag is not None),
    )


def _lags(state: State, groups: Iterable[Group], step: int) -> list[int | None]:
    return [state.lag(group, step) for group in groups]


def is_known(state: State, keys: RolloutKeys) -> bool:
    """The replay holds this rollout: by (producer, epoch, sequence), or by id in a live group (a call run twice)."""
    group = state.groups.get(keys.group_id)
    held = group is not None and any(member.rollout_id == keys.rollout_id for member in group.members)
    return held or state.is_duplicate(keys)


def check_admissible(state: State, keys: RolloutKeys, *, drop_zero_variance: bool) -> None:
    """Raise ContractError for a rollout that no group can take, ConfigError for one that would deadlock."""
    assert state.phase is not None
    group = state.groups.get(keys.group_id)
    if group is None:
        if keys.phase == state.phase.phase and not state.why_over(keys.group_id):
            raise ContractError(f"rollout {keys.rollout_id}: group {keys.group_id} was never admitted")
        return
    if group.size not in (0, keys.group_size) or group.complete:
        raise ContractError(
            f"rollout {keys.rollout_id} says group {group.group_id} has {keys.group_size} rollouts; "
            f"it has {len(group.members)} of {group.size}"
        )
    check_group_size(keys.group_size, votes=state.phase.votes, drop_zero_variance=drop_zero_variance)
