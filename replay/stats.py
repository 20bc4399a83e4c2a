"""What the replay says of itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayStats:
    """A picture of the replay. Rollouts: inserted = live + spent + expired + quarantined + erased, always.

    duplicates: refused since this process started. spent_reasons: rollouts by reason ("drawn" among them). step: the
    learner's. admitted, returned: groups of this phase. open_groups: those that wait for rollouts or a vote.
    lost_records, cut_bytes: what opening the log found damaged, and the torn tail that it cut. snapshot_error: why the
    last snapshot was not written ("" when it was); the log is whole all the same, and opens more slowly. waiting_for:
    what the disk says while it is full and everybody who writes waits, "" otherwise.
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
    waiting_for: str
