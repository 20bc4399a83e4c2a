"""Snapshots against the log: the state in each is the fold of what came before it.

One that opening leaves aside (damaged, of another fold, or of other segments) costs time and breaks no promise: a note.
One that opening would use and that holds another state is a breach.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from replay.audit.findings import Findings
from replay.records import Kind
from replay.segments import why_not
from replay.snapshot import Snapshot
from replay.state import FOLD_VERSION, State


class Snapshots:
    """Those in `folder` that opening would use. Read before the walk; `check` compares them on the way."""

    def __init__(self, folder: Path, found: Findings) -> None:
        self._found = found
        self._due: list[Snapshot] = []
        for path in sorted(folder.glob("[0-9]*.snapshot")):
            try:
                snapshot = Snapshot.unpack(path.read_bytes())
            except FileNotFoundError:  # a live writer keeps the newest two
                continue
            except ValueError as error:
                self._aside(path.name, str(error))
                continue
            why = f"made by fold {snapshot.fold}" if snapshot.fold != FOLD_VERSION else ""
            why = why or why_not(folder, snapshot.position.segments)
            if why:
                self._aside(path.name, why)
            else:
                self._due.append(snapshot)

    def check(self, sequence: int | None, state: State | None) -> None:
        """`state` is the fold of every record before `sequence` (None: of all), or None when it cannot be had."""
        while self._due and (sequence is None or self._due[0].position.next_sequence <= sequence):
            snapshot = self._due.pop(0)
            if state is not None and not _same(snapshot, state):
                what = f"{snapshot.name} holds another state than the records before it give; opening would use it"
                self._found.add("snapshot", what)

    def _aside(self, name: str, why: str) -> None:
        self._found.note(f"{name} is left aside by opening, which takes longer then: {why}")


def _same(snapshot: Snapshot, folded: State) -> bool:
    """Losses are counted when a log is opened, wherever they lie; the walk counts them at its end."""
    try:
        held = State.unpack(snapshot.state)
    except msgspec.DecodeError:
        return False
    kinds = [kind for loss in snapshot.position.losses for kind in loss.kinds]
    held.lose(-kinds.count(Kind.ROLLOUT) - kinds.count(Kind.PRUNED))
    return held == folded
