"""What a person sees while a run goes on: a live line on a terminal, plain lines elsewhere. Always on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TextIO

from cluster.summary import clock

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID


class Progress(Protocol):
    """Told by whoever works. One stage is open at a time; starting the next one finishes it."""

    def start(self, stage: str, total: int | None = None) -> None:
        """A stage begins. total: how many units it has, None where nobody knows."""
        ...

    def update(self, done: int, **figures: float | str) -> None:
        """`done` units of the stage are done, and this is how it stands: `update(12, reward=0.4)`."""
        ...

    def note(self, text: str) -> None:
        """Something worth a line of its own."""
        ...

    def finish(self) -> None:
        """The stage is done."""
        ...

    def close(self) -> None:
        """Nothing more comes."""
        ...


class PlainProgress:
    """A line when a stage begins and ends, and at most one every `every_s` seconds between."""

    def __init__(self, stream: TextIO, *, every_s: float = 10.0, now: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._every_s, self._now = stream, every_s, now
        self._begun = now()
        self._stage: str | None = None
        self._stage_begun = self._last = self._begun
        self._total: int | None = None
        self._figures = ""

    def start(self, stage: str, total: int | None = None) -> None:
        self.finish()
        self._stage, self._total, self._figures = stage, total, ""
        self._stage_begun = self._last = self._now()
        self._say(stage)

    def update(self, done: int, **figures: float | str) -> None:
        self._figures = figures_text(figures)
        if self._now() - self._last >= self._every_s:
            self._last = self._now()
            of = "" if self._total is None else f"/{self._total}"
            self._say(f"{self._stage} {done}{of} {self._figures}".rstrip())

    def note(self, text: str) -> None:
        self._say(text)

    def finish(self) -> None:
        if self._stage is not None:
            self._say(f"{self._stage}: done in {clock(self._now() - self._stage_begun)} {self._figures}".rstrip())
            self._stage = None

    def close(self) -> None:
        self.finish()

    def _say(self, text: str) -> None:
        print(f"[{clock(self._now() - self._begun):>5}] {text}", file=self._stream, flush=True)


class LiveProgress:
    """A bar for the open stage, above it a line for each finished one."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self._live: RichProgress = Progress(
            SpinnerColumn(),
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[figures]}"),
            console=Console(file=stream),
            transient=True,
        )
        self._live.start()
        self._begun = time.monotonic()
        self._task: TaskID | None = None
        self._stage, self._figures, self._stage_begun = "", "", self._begun

    def start(self, stage: str, total: int | None = None) -> None:
        self.finish()
        self._stage, self._figures, self._stage_begun = stage, "", time.monotonic()
        self._task = self._live.add_task(stage, total=total, figures="")

    def update(self, done: int, **figures: float | str) -> None:
        self._figures = figures_text(figures)
        if self._task is not None:
            self._live.update(self._task, completed=done, figures=self._figures)

    def note(self, text: str) -> None:
        self._live.console.print(text, markup=False, highlight=False)

    def finish(self) -> None:
        if self._task is not None:
            self._live.remove_task(self._task)
            self._task = None
            text = f"✓ {self._stage} {clock(time.monotonic() - self._stage_begun)} {self._figures}"
            self._live.console.print(text.rstrip(), markup=False, highlight=False)

    def close(self) -> None:
        self.finish()
        self._live.stop()


class Silent:
    """Says nothing; for tests and for commands that are done at once."""

    def start(self, stage: str, total: int | None = None) -> None: ...
    def update(self, done: int, **figures: float | str) -> None: ...
    def note(self, text: str) -> None: ...
    def finish(self) -> None: ...
    def close(self) -> None: ...


def make_progress(stream: TextIO | None = None) -> Progress:
    """Live where `stream` (stderr unless told) is a terminal, plain lines where it is a file or a pipe."""
    stream = stream or sys.stderr
    return LiveProgress(stream) if stream.isatty() else PlainProgress(stream)


def figures_text(figures: dict[str, float | str]) -> str:
    """{"reward": 0.41234, "step": 3} → "reward 0.412 · step 3"."""
    return " · ".join(
        f"{name.replace('_', ' ')} {value:.3g}" if isinstance(value, float) else f"{name.replace('_', ' ')} {value}"
        for name, value in figures.items()
    )
