"""Which weights a phase ends with: those that did best, with tools, on tasks that nothing is learned from.

The loss on traces goes on falling after acting has stopped improving, so the last weights need not be the best. What
was found is recorded before the run goes on, and the best weights lie beside the checkpoints; a run that was killed
repeats its steps to the bit, so it takes over what was recorded and its choice is the same.
"""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.phases import SftPhase


@dataclass(frozen=True, slots=True, kw_only=True)
class Hands:
    """What a selection works with.

    validate: accuracy of the weights held after so many steps. keep: write them to a folder. go_back: hold those of a
    folder again. record: put the selection's JSON values where a restarted run finds them.
    """

    validate: Callable[[int], Awaitable[float]]
    keep: Callable[[Path], Awaitable[object]]
    go_back: Callable[[Path], Awaitable[object]]
    record: Callable[[dict[str, Any]], object]


class Selection:
    """Validates after every `validate_every` steps and after the last, and keeps the best weights so far."""

    def __init__(self, phase: SftPhase, hands: Hands, *, folder: Path, recorded: Mapping[str, Any]) -> None:
        """folder: where the best weights lie. recorded: what an earlier start of this run recorded ({} for none)."""
        self._phase = phase
        self._hands = hands
        self._folder = folder
        self._accuracy: dict[int, float] = {int(step): value for step, value in recorded.get("accuracy", {}).items()}
        self._best: int | None = recorded.get("best")

    async def look(self, step: int) -> dict[str, float]:
        """Validate after `step` steps if that is due and was not done. Returns the accuracy as a metric. Where two are
        equal the later one counts as better: it has learned more."""
        every = self._phase.validate_every
        if not every or not step or (step % every and step != self._phase.num_steps):
            return {}
        if step not in self._accuracy:
            accuracy = await self._hands.validate(step)
            best = max(self._accuracy.values(), default=accuracy)
            self._accuracy[step] = accuracy
            if accuracy >= best:
                await self._hands.keep(self._of(step))
                self._best = step
            self._hands.record(self._values())
            self._tidy()
        return {"validation_accuracy": self._accuracy[step]}

    async def choose(self) -> str:
        """Hold the best weights. Returns why they are the ones, "" where nothing was to choose."""
        if self._best is None:
            return ""
        if self._best != self._phase.num_steps:
            await self._hands.go_back(self._of(self._best))
        return self._why()

    def _values(self) -> dict[str, Any]:
        accuracy = {str(step): value for step, value in sorted(self._accuracy.items())}
        return {"accuracy": accuracy, "best": self._best, "why": self._why()}

    def _why(self) -> str:
        assert self._best is not None
        return (
            f"after step {self._best} of {self._phase.num_steps}: accuracy {self._accuracy[self._best]:.3f} with tools "
            f"on {self._phase.validate_tasks} tasks of {self._phase.validate_split}, the best of {len(self._accuracy)}"
        )

    def _of(self, step: int) -> Path:
        return self._folder / f"step-{step:06d}"

    def _tidy(self) -> None:
        """Only the best stays. Comes after recording, so that what is recorded is always there."""
        for old in self._folder.glob("step-*"):
            if self._best is None or old != self._of(self._best):
                shutil.rmtree(old, ignore_errors=True)
