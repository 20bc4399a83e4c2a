"""What a worker has in hand: the calls that it executes, and those that were sent ahead and come next.

A call of a few milliseconds would have its worker wait as long again for the next one: for the reply to reach the
pool, and for the pool to answer. So while nobody is idle, up to NUM_AHEAD calls are sent ahead behind calls of tools
that usually take less than SHORT_S. They may wait there a little longer than another worker would have made them, so
after LATE_S behind one call they are handed out again, and whoever answers first counts.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from dataclasses import dataclass, field

from actors.tools.frames import Reply
from actors.tools.nursery import Worker
from actors.tools.ports import Job

NUM_AHEAD = 2
"""Groups of calls that wait in a worker: one that it goes on with, and one for a pool that is busy itself."""
SHORT_S = 0.02
"""Twenty times the way to a worker and back."""
LATE_S = 0.25
"""Seconds after which a call is late: nothing waits behind it any more."""


@dataclass(slots=True, eq=False)
class Call:
    """A job on its way. body: the job as JSON.

    spent_s: of its deadline, in a batch that failed. retried: after a kill from outside.
    """

    job: Job
    body: bytes
    reply: asyncio.Future[Reply]
    spent_s: float = 0.0
    retried: bool = False

    def settle(self, reply: Reply) -> None:
        """The first reply counts."""
        if not self.reply.done():
            self.reply.set_result(reply)


@dataclass(slots=True, eq=False)
class Turn:
    """calls: execute now, together. ahead: groups of calls that come after them, one by one.

    counts: towards the `num_workers` that may be busy. late: what is ahead has been handed out again.
    began_s: when its calls began, by the loop's clock. timers: what happens if they take longer.
    """

    worker: Worker
    calls: list[Call]
    ahead: deque[list[Call]] = field(default_factory=deque)
    counts: bool = True
    late: bool = False
    began_s: float = 0.0
    timers: list[asyncio.TimerHandle] = field(default_factory=list)

    @property
    def wanted(self) -> bool:
        """Whether somebody waits for one of the calls that execute."""
        return not all(call.reply.done() for call in self.calls)

    def send(self, calls: list[Call]) -> None:
        """Have the worker execute them after those that it has."""
        self.worker.send([call.body for call in calls])

    def spent_s(self) -> float:
        """Seconds since its calls began."""
        return asyncio.get_running_loop().time() - self.began_s

    def stop_clock(self) -> None:
        for timer in self.timers:
            timer.cancel()

    @property
    def last(self) -> list[Call]:
        """The calls that the worker executes last."""
        return self.ahead[-1] if self.ahead else self.calls

    def waiting(self) -> list[Call]:
        """The calls ahead that somebody waits for."""
        return [call for calls in self.ahead for call in calls if not call.reply.done()]

    def advance(self) -> None:
        """The calls of now are answered; the next ones take their place."""
        self.calls = self.ahead.popleft() if self.ahead else []
        self.late, self.counts = False, True


class Pace:
    """How many seconds calls usually take, by tool: each new call counts as much as all before it."""

    def __init__(self) -> None:
        self._usual_s: dict[str, float] = {}

    def note(self, calls: list[Call], took_s: float) -> None:
        """Calls of one tool took so long together."""
        tool, each_s = calls[0].job.tool, took_s / len(calls)
        self._usual_s[tool] = (self._usual_s.get(tool, each_s) + each_s) / 2

    def usual_s(self, tool: str) -> float:
        """Infinite where it is not known."""
        return self._usual_s.get(tool, math.inf)

    def short(self, calls: list[Call]) -> bool:
        """Whether calls like these are usually done in SHORT_S."""
        return len(calls) * self.usual_s(calls[0].job.tool) <= SHORT_S
