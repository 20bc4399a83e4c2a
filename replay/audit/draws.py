"""A draw hands out whole groups, of what the log held before it, within the lag, and each rollout at most max_reuse
times.
"""

from __future__ import annotations

from replay.audit.erasures import Erasures
from replay.audit.findings import Findings
from replay.audit.ledger import Group, Ledger
from replay.reading import Place
from replay.records import Drawn


class Draws:
    """Watches draws; `ledger` is as it was before each."""

    def __init__(self, found: Findings, erasures: Erasures) -> None:
        self._found = found
        self._erasures = erasures

    def draw(self, record: Drawn, place: Place, ledger: Ledger) -> None:
        name = f"the draw for step {record.step}"
        if ledger.phase is None:
            self._found.add("group", f"{name}, before any phase began", place)
            return
        if len(record.group_ids) != ledger.phase.groups_per_step:
            wanted = ledger.phase.groups_per_step
            self._found.add("group", f"{name} holds {len(record.group_ids)} groups instead of {wanted}", place)
        groups = [self._group(group_id, name, place, ledger) for group_id in record.group_ids]
        known = [group for group in groups if group is not None]
        self._members(record, known, name, place, ledger)
        self._lag(record, known, place, ledger)

    def _group(self, group_id: str, name: str, place: Place, ledger: Ledger) -> Group | None:
        """The group, where the log holds one of this id; what keeps it from being drawn is reported. Of a group that
        lost a rollout or its vote to an erasure, nothing says any more whether it was whole.
        """
        group = ledger.groups.get(group_id)
        assert ledger.phase is not None
        if group is None:
            self._found.add(
                "group", f"{name}: group {group_id} was never admitted in phase {ledger.phase.phase}", place
            )
        elif group_id in self._erasures.groups:
            pass
        elif group.given_up:
            self._found.add("group", f"{name}: group {group_id} was given up before ({group.given_up})", place)
        elif group.num_draws >= ledger.max_reuse:
            times = f"{group.num_draws + 1} times in one line; at most {ledger.max_reuse}"
            self._found.add("reuse", f"{name}: group {group_id} is drawn {times}", place)
        elif group.retired:
            self._found.add("group", f"{name}: group {group_id} was drawn and ended before", place)
        elif not group.complete:
            here = f"{len(group.members)} of {group.size or '?'}"
            self._found.add("group", f"{name}: group {group_id} is not whole, {here} rollouts are here", place)
        elif ledger.phase.votes and not group.voted:
            self._found.add("group", f"{name}: nobody voted over group {group_id}", place)
        elif ledger.phase.votes and group.abstained:
            self._found.add("group", f"{name}: the vote over group {group_id} abstained", place)
        return group

    def _members(self, record: Drawn, groups: list[Group], name: str, place: Place, ledger: Ledger) -> None:
        """What was handed out is every usable rollout of the groups, each once, under its own id."""
        held = {member.sequence: member for group in groups for member in group.usable}
        named = dict(zip(record.sequences, record.rollout_ids, strict=False))
        if len(record.sequences) != len(record.rollout_ids) or len(named) != len(record.sequences):
            self._found.add("group", f"{name} names a rollout twice, or not every rollout by its record", place)
        for sequence, member in held.items():
            if sequence not in named:
                self._found.add("group", f"{name} leaves out rollout {member.rollout_id} of a group it draws", place)
            elif named[sequence] != member.rollout_id:
                what = f"{name} calls record {sequence} rollout {named[sequence]}; it is {member.rollout_id}"
                self._found.add("group", what, place)
        for sequence in named.keys() - held.keys() - ledger.erased:
            what = f"{name} hands out record {sequence}, which is no usable rollout of its groups"
            self._found.add("group", what, place)
        if record.watermark >= place.sequence or max(record.sequences, default=-1) > record.watermark:
            what = f"{name} says it knew records up to {record.watermark} only; it is record {place.sequence} itself"
            self._found.add("group", what, place)

    def _lag(self, record: Drawn, groups: list[Group], place: Place, ledger: Ledger) -> None:
        assert ledger.phase is not None
        name, bound = f"the draw for step {record.step}", ledger.phase.max_policy_lag
        lags = [
            ledger.lag(member.oldest_version, record.step)
            for group in groups
            for member in group.usable
            if member.oldest_version is not None
        ]
        known = [lag for lag in lags if lag is not None]
        if len(known) < len(lags):
            self._found.add("lag", f"{name} holds rollouts of a policy from before phase {ledger.phase.phase}", place)
        oldest = max(known, default=None)
        if oldest is None:
            return
        if oldest > bound:
            what = f"{name} holds rollouts that are {oldest} steps old; at most {bound} are allowed"
            self._found.add("lag", what, place)
        partly = not ledger.erased.isdisjoint(record.sequences)
        if (oldest > record.lag if partly else oldest != record.lag) and len(known) == len(lags):
            self._found.add("lag", f"{name} recorded a lag of {record.lag}; it was {oldest}", place)
