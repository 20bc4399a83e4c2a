"""Rounds of kill -9: a writer, producers and a learner are killed again and again, at chosen and at random points.

In a round several writers live one after another over one replay. Each is killed at a failpoint (before, in the middle
of or after some call to the disk) or at a random moment; producers and the learner are killed too, or live on and ask
the next writer again. A learner that was killed goes on from its checkpoint. After every life the replay is audited as
it lies; at the end, what every process was told is compared with what the replay holds.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

from fakes.forking import Child, ForkServer, fork_server
from fakes.kill_checks import audit, broken_promises, erased_rollouts, sources
from fakes.kill_parts import PREPARED, Notes, told
from fakes.kill_points import a_failpoint, in_appending
from fakes.kill_setting import Setting

NUM_ROUNDS = 500
NUM_IN_CI = 25

POLL_S = 0.004
GRACE = 500
"""Polls that the end of a writer may take to be known after its clients noticed."""
PATIENCE = 15_000
"""Polls without the end of a life before a round is given up: a minute, of a process that is not stopped itself."""

IMPATIENCE = 500
"""The same where a planted bug is looked for: what it lost may be waited for."""


def run_round(number: int, folder: Path, *, bug: str = "") -> dict[str, int]:
    """Play round `number` in the empty folder `folder`. Returns counters: rounds, lives, kills by whom and where.

    bug: one of fakes/planted, for tests of this test. Raises AssertionError when a promise was not kept.
    """
    return _Round(number, folder, bug).run()


class _Round:
    def __init__(self, number: int, folder: Path, bug: str) -> None:
        self._number = number
        self._folder = folder
        self._bug = bug
        self._setting = Setting.of(number)
        self._choices = random.Random(f"kills/{number}/round")
        self._address = f"\0pixelis-kills-{os.getpid()}-{number}-{time.monotonic_ns()}"
        self._server: ForkServer = fork_server(*PREPARED)
        self._clients: dict[str, Child] = {}
        self._started = Counter[str]()
        self._counts = Counter[str]()
        self._together = True

    def run(self) -> dict[str, int]:
        lives = 4 + (self._setting.theme == "erasure")
        try:
            for life in range(lives):
                last = life == lives - 1
                if self._setting.theme == "erasure" and life in (2, 3):
                    self._erase()
                self._live(last=last)
                self._check(audit(self._folder), f"the audit after life {life}")
        finally:
            self._kill_clients()
        self._check(broken_promises(self._folder, self._setting), "the end")
        self._counts["rounds"] += 1
        self._counts["draws"] += self._num_draws()
        return dict(self._counts)

    def _live(self, *, last: bool) -> None:
        """One writer, from its opening to its end; the last is closed in order."""
        in_order = last or self._choices.random() < (0.6 if self._setting.theme == "index" else 0.25)
        point = None if last else a_failpoint(self._choices, self._setting, closing=in_order)
        if self._bug and not last:
            point = in_appending(self._choices)
        writer = self._start(
            "writer",
            failpoint=None if point is None else {name: getattr(point, name) for name in point.__dataclass_fields__},
            verify=self._choices.random() < 0.2,
            bug=self._bug,
        )
        self._counts["lives"] += 1
        for name in ("learner", *(f"producer-{who}" for who in range(self._setting.num_producers))):
            if name not in self._clients:
                self._start_client(name)
        self._together = False
        self._work(writer, until=self._num_draws() + self._choices.randint(2, 5))
        if last:
            self._kill_clients()
        self._end(writer, in_order=in_order)
        if self._choices.random() < 0.5 or not self._setting.named:
            self._kill_clients()
            self._together = True

    def _work(self, writer: Child, *, until: int) -> None:
        """Wait until the learner has drawn so often, or the writer has reached its failpoint; kill a client or two."""
        kills_at = self._num_draws() + self._choices.choice((0, 1, 99, 99))
        for _ in range(IMPATIENCE if self._bug else PATIENCE):
            if writer.status is not None:
                return
            ended = [name for name, child in self._clients.items() if child.status is not None]
            if ended and not self._is_gone(writer):
                self._fail([self._clients[name].output.read_text() for name in ended], f"the exit of {ended[0]}")
            drawn = self._num_draws()
            if drawn >= until:
                return
            if drawn >= kills_at and self._setting.named:
                kills_at = 1 << 30
                time.sleep(self._choices.random() / 100)
                name = self._choices.choice(sorted(self._clients))
                self._kill_client(name)
                self._start_client(name)
            time.sleep(POLL_S)
        writer.kill()
        self._fail(["nothing moves any more", *broken_promises(self._folder, self._setting)], "a life")

    def _is_gone(self, writer: Child) -> bool:
        """Whether the writer ended too: clients may notice before its status is known."""
        for _ in range(GRACE):
            if writer.status is not None:
                return True
            time.sleep(POLL_S)
        return False

    def _end(self, writer: Child, *, in_order: bool) -> None:
        """End the writer, if it still lives: in order (a failpoint may end that) or at a random moment."""
        if in_order:
            writer.send(signal.SIGTERM)
        else:
            time.sleep(self._choices.random() / 50)
            at_random = writer.status is None
            writer.kill()
        status = self._wait(writer)
        if self._note_of_kill():
            assert status == -signal.SIGKILL or (self._bug and status == -signal.SIGBUS), status
        elif status == 0 and in_order:
            self._counts["closed in order"] += 1
        elif status == -signal.SIGKILL and not in_order and at_random:
            self._counts["killed: writer at random"] += 1
        else:
            self._fail([writer.output.read_text()], f"the writer's exit with status {status}")

    def _erase(self) -> None:
        """Erase a query while everybody is down; the process that does it may be killed."""
        self._kill_clients()
        self._together = True
        before = {line[3] for line in told(self._folder, "learner") if line[0] == "erase"}
        held = [source for source in sources(self._folder) if source not in before]
        if not held:
            return
        source = self._choices.choice(held)
        point = a_failpoint(self._choices, self._setting, closing=False, erasing=True)
        eraser = self._start(
            "eraser", source=source, failpoint={n: getattr(point, n) for n in point.__dataclass_fields__}
        )
        status = self._wait(eraser)
        if not self._note_of_kill() and status != 0:
            self._fail([eraser.output.read_text()], f"the eraser's exit with status {status}")
        gone = erased_rollouts(self._folder, source)
        if gone:
            Notes(self._folder / "learner").add("erase", 0, gone, source)
        self._counts["erasures"] += 1

    def _start(self, target: str, **arguments: Any) -> Child:
        self._started[target] += 1
        return self._server.start(
            f"fakes.kill_parts:{target.partition('-')[0]}",
            output=self._folder / f"{target}.output",
            number=self._number,
            folder=str(self._folder),
            **({} if target == "eraser" else {"address": self._address}),
            **arguments,
        )

    def _start_client(self, name: str) -> None:
        nth = self._started[name]
        if name == "learner":
            self._clients[name] = self._start(name, life=nth, orphans=self._together)
        else:
            self._clients[name] = self._start(name, who=int(name.partition("-")[2]), epoch=nth)

    def _kill_client(self, name: str) -> None:
        child = self._clients.pop(name)
        child.kill()
        if self._wait(child) != -signal.SIGKILL:
            self._fail([child.output.read_text()], f"the exit of {name}")
        self._counts[f"killed: {name.partition('-')[0]} at random"] += 1

    def _kill_clients(self) -> None:
        for name in list(self._clients):
            self._kill_client(name)

    def _wait(self, child: Child) -> int:
        for _ in range(PATIENCE):
            if child.status is not None:
                return child.status
            time.sleep(POLL_S)
        child.kill()
        self._fail([f"process {child.pid} does not end"], "an end")

    def _note_of_kill(self) -> bool:
        """Whether a failpoint was reached; it is counted."""
        noted = self._folder / "killed"
        if not noted.exists():
            return False
        words = noted.read_text().split()
        if not words:
            return False  # killed at random while it was noted
        _, call, _, *place = words
        self._counts[f"killed: in {call} of {' '.join(place)}"] += 1
        noted.unlink()
        return True

    def _num_draws(self) -> int:
        noted = self._folder / "learner"
        return noted.read_bytes().count(b'["sample"') if noted.exists() else 0

    def _check(self, broken: list[str], when: str) -> None:
        if broken:
            self._fail(broken, when)

    def _fail(self, broken: list[str], when: str) -> NoReturn:
        raise AssertionError(f"kills round {self._number}, {when}: " + "; ".join(broken[:5]))
