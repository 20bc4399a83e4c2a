"""Folding the log into a state."""

from __future__ import annotations

from common.schema import rollout_keys
from replay.log import Log
from replay.records import Kind, Pruned, decode
from replay.segments import Frame
from replay.state import State


def fold(log: Log) -> State:
    """The state after every record of `log`: from the snapshot that it trusts, and the records after that."""
    held = log.snapshot
    state = State() if held is None else State.unpack(held.state)
    for frame in log.frames(0 if held is None else held.position.next_sequence):
        follow(state, frame)
    known = () if held is None else held.position.losses
    lost = [kind for loss in log.recovery.losses[len(known) :] for kind in loss.kinds]
    state.lose(lost.count(Kind.ROLLOUT) + lost.count(Kind.PRUNED))
    return state


def follow(state: State, frame: Frame) -> None:
    """Let the state take one record of the log."""
    if frame.kind == Kind.ROLLOUT:
        state.add(rollout_keys(bytes(frame.body))[0], frame.sequence)
    elif frame.kind == Kind.PRUNED:
        pruned = decode(frame.kind, bytes(frame.body))
        assert isinstance(pruned, Pruned)
        state.add(pruned.keys(), frame.sequence)
    elif frame.kind == Kind.EXPERIENCE:
        state.last_experience = frame.sequence
    else:
        state.apply(decode(frame.kind, bytes(frame.body)))
