"""What the replay says of itself."""

from __future__ import annotations

from dataclasses import dataclass

from replay.log import Log
from replay.rules import ready
from replay.state import State


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayStats:
    """A picture of the replay. Rollouts: inserted = live + spent + expired + quarantined + erased, always.

    duplicates: refused since this process started. spent_reasons: rollouts by reason ("drawn" among them). step: the
    learner's. admitted, returned: groups of this phase. open_groups: those that wait for rollouts or a vote.
    lost_records, cut_bytes: what opening the log found damaged, and the torn tail that it cut. snapshot_error: why the
    last snapshot was not written ("" when it was); the log is whole all the same, and opens more slowly.
    retention_error: why the last pruning while running was not finished; the next one goes on.
    """

    inserted: int
    live: int
    spent: int
    expired: int
    quarantined: int
    erased: int
    duplicates: int
    spent_reasons: dict[str, int]
    phase: str
    step: int
    admitted: int
    returned: int
    open_groups: int
    ready_groups: int
    num_draws: int
    max_policy_lag_seen: int
    phase_policy_lag: int
    num_experiences: int
    log_bytes: int
    num_records: int
    epoch: int
    lost_records: int
    cut_bytes: int
    snapshot_error: str
    retention_error: str


def stats_of(
    state: State, log: Log, *, duplicates: int, num_records: int, num_experiences: int, retention_error: str
) -> ReplayStats:
    num_ready = sum(ready(state, group) for group in state.groups.values())
    return ReplayStats(
        inserted=state.inserted,
        live=state.live,
        spent=sum(state.spent.values()),
        expired=state.expired,
        quarantined=state.quarantined,
        erased=state.erased,
        duplicates=duplicates,
        spent_reasons={reason: count for reason, count in sorted(state.spent.items()) if count},
        phase="" if state.phase is None else state.phase.phase,
        step=state.step,
        admitted=state.admitted,
        returned=state.returned,
        open_groups=len(state.groups) - num_ready,
        ready_groups=num_ready,
        num_draws=state.num_draws,
        max_policy_lag_seen=state.max_policy_lag_seen,
        phase_policy_lag=max((draw.lag for draw in state.draws.values()), default=0),
        num_experiences=num_experiences,
        log_bytes=log.num_bytes,
        num_records=num_records,
        epoch=log.epoch,
        lost_records=sum(loss.stop_sequence - loss.first_sequence for loss in log.recovery.losses),
        cut_bytes=log.recovery.cut_bytes,
        snapshot_error=log.snapshot_error,
        retention_error=retention_error,
    )
