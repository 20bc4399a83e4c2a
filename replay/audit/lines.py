"""Every draw of the surviving line of weights is followed by exactly one step of the learner.

A line runs from a phase's beginning: draw for step s, then the learner stands at s + 1 and publishes (an advance). A
restored learner rewinds to its checkpoint: what came after it is another line, which did not survive. What the run's
folder says beside the log is compared with it: the checkpoint's cursor, and the steps that the metrics tell of.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from replay.audit.findings import Findings
from replay.reading import Place
from replay.records import Advance, Begin, Drawn, Rewind


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """What the learner's side says, read before the log. phases: those that draw from the replay.

    cursor: (phase, steps done) of the checkpoint that a restart continues from; None where there is none.
    steps: by phase, how often each count of steps done was reported.
    """

    phases: frozenset[str] = frozenset()
    cursor: tuple[str, int] | None = None
    steps: Mapping[str, Mapping[int, int]] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class Line:
    """The surviving line of one phase. at: steps done. drawn: step → its draw. advanced: by steps done, how often any
    line of the phase came to it.
    """

    begin: Begin
    at: int
    version: int
    drawn: dict[int, Place] = field(default_factory=dict)
    advanced: Counter[int] = field(default_factory=Counter)


class Lines:
    """Watches draws, advances and rewinds."""

    def __init__(self, found: Findings) -> None:
        self._found = found
        self._line: Line | None = None
        self._by_phase: dict[str, Line] = {}

    def begin(self, record: Begin, place: Place) -> None:
        self._over()
        self._line = Line(begin=record, at=record.step, version=record.version)
        self._by_phase[record.phase] = self._line

    def draw(self, record: Drawn, place: Place) -> None:
        if self._line is None:
            return
        if record.step in self._line.drawn:
            first = self._line.drawn[record.step].sequence
            self._found.add("reuse", f"a second draw for step {record.step} in one line; record {first} was one", place)
        elif record.step < self._line.at:
            self._found.add("applied twice", f"a draw for step {record.step}, which the line has behind it", place)
        self._line.drawn[record.step] = place

    def advance(self, record: Advance, place: Place) -> None:
        """One more step is done. The same call twice changes nothing."""
        line = self._line
        if line is None:
            self._found.add("no draw", f"the learner came to step {record.step} before any phase began", place)
            return
        if (record.step, record.version) == (line.at, line.version):
            return
        if record.step <= line.at:
            if record.step > line.begin.step:
                what = f"step {record.step - 1} was learned again in one line, as version {record.version}"
                self._found.add("applied twice", f"{what}: nothing was rewound", place)
            line.version = record.version
            return
        for step in range(line.at, record.step - 1):
            if step in line.drawn:
                what = f"the draw for step {step} was never applied: the learner went from step {line.at} to"
                self._found.add("not applied", f"{what} {record.step}", line.drawn[step])
        if record.step - 1 not in line.drawn:
            what = f"the learner came to step {record.step}; the log holds no draw for step {record.step - 1}"
            self._found.add("no draw", what, place)
        line.at, line.version = record.step, record.version
        line.advanced[record.step] += 1

    def rewind(self, record: Rewind, place: Place) -> None:
        line = self._line
        if line is None:
            return
        for step in range(line.at, record.step):  # its checkpoint was kept before it could tell of these steps
            line.advanced[step + 1] += 1
            if step not in line.drawn:
                what = f"the learner was restored to step {record.step}; the log holds no draw for step {step}"
                self._found.add("no draw", what, place)
        line.drawn = {step: drawn for step, drawn in line.drawn.items() if step < record.step}
        line.at, line.version = record.step, record.version

    def end(self, learned: Learned) -> None:
        """The log is at its end: compare it with what the learner's side says."""
        for phase, steps in learned.steps.items():
            if phase in learned.phases:
                self._reported(phase, steps)
        if learned.cursor is not None and learned.cursor[0] in learned.phases:
            self._cursor(*learned.cursor)

    def _over(self) -> None:
        """The phase ends: what was drawn and not applied never will be."""
        if self._line is not None:
            for step, place in self._line.drawn.items():
                if step >= self._line.at:
                    what = f"the draw for step {step} was never applied: phase {self._line.begin.phase} ended"
                    self._found.add("not applied", what, place)

    def _reported(self, phase: str, steps: Mapping[int, int]) -> None:
        line = self._by_phase.get(phase)
        advanced = Counter[int]() if line is None else line.advanced
        for step, times in sorted(steps.items()):
            if not advanced[step]:
                self._found.add("no draw", f"{phase}: the metrics tell of step {step}; no line of the log came to it")
            elif times > advanced[step]:
                what = f"{phase}: the metrics tell of step {step} {times} times, the log of {advanced[step]}"
                self._found.add("applied twice", what)
        if steps and line is not None:
            silent = [step for step in range(min(steps), max(steps)) if step not in steps]
            if silent:
                self._found.note(f"{phase}: the metrics do not tell of steps {_spans(silent)}")

    def _cursor(self, phase: str, step: int) -> None:
        line = self._by_phase.get(phase)
        if line is None:
            if step:
                self._found.add("no draw", f"the checkpoint holds {step} steps of {phase}, which the log never began")
            return
        if step > line.at:
            self._found.add(
                "no draw",
                f"the checkpoint holds {step} steps of {phase}; the surviving line of the log came to {line.at}",
            )
        elif step < line.at:
            ahead = f"{line.at - step} steps came after the checkpoint of step {step}"
            self._found.note(f"{phase}: {ahead}; a restart draws for them again")


def _spans(numbers: list[int]) -> str:
    """Ascending numbers as text: 3–5, 8."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][-1] == number - 1:
            parts[-1] = [parts[-1][0], number]
        else:
            parts.append([number])
    return ", ".join("–".join(map(str, part)) for part in parts)
