"""A pool of worker processes: a queue in front, a deadline and a memory cap behind.

A call waits for a place in the queue at most its deadline (else it is `unavailable`), then for its turn, and may then
execute for at most its deadline (else it is a `timeout`). What goes wrong with a worker costs its call an observation
and nobody else anything: the worker is killed at once, another takes its place.

- Deadline: of the configuration, per tool. A call that outlives `patience_s` no longer counts as busy, so a spare
  worker goes on with the queue while the straggler runs to its end.
- Memory: a worker that grows by more than `memory_mb` during a call is killed: `limit_exceeded`. One that still holds
  half of that afterwards is replaced.
- Ahead: while nobody is idle, a worker is sent short calls before it is done with the one at hand (turns.py). The
  deadline of such a call begins when it does; where its worker ends before, another executes it, and that is no retry.
- Retries: none for what a call did itself, a crash included. Once, where someone else ended the worker.
- Batches: where `batches` names a tool, a worker takes so many of its calls at once. A batch gets half the deadline;
  if it fails, its calls run one by one in what is left of theirs, so that only the guilty one fails.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec

from actors.tools.config import ToolsConfig
from actors.tools.errors import NoWorker
from actors.tools.frames import Reply
from actors.tools.memory import MIB, private_bytes
from actors.tools.nursery import Nursery, Worker
from actors.tools.ports import Job
from actors.tools.turns import LATE_S, NUM_AHEAD, SHORT_S, Call, Pace, Turn

WATCH_S = 0.05
"""Between two looks at the workers' memory."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
"""Between two attempts to start a worker where the last one failed; doubles."""

_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class PoolStatistics:
    """What happened so far: calls, workers started and lost, calls run again, errors by their code."""

    num_calls: int = 0
    num_started: int = 0
    num_lost: int = 0
    num_retries: int = 0
    errors: dict[str, int] = field(default_factory=dict)


class WorkerPool:
    """`config.num_workers` busy at once, used from one event loop. They start with the first call or with `start`.

    command: starts another process than our worker, for tests and measurements.
    """

    def __init__(self, config: ToolsConfig, store_root: Path, *, command: tuple[str, ...] = ()) -> None:
        self._config = config
        self._nursery = Nursery(config, store_root, command)
        self._queue: deque[Call] = deque()
        self._again: deque[Call] = deque()
        """Calls that were under way already: before the queue, and not counted in it."""
        self._credit = asyncio.Semaphore(config.max_queue)
        self._idle: list[Worker] = []
        self._turns: set[Turn] = set()
        self._starting: set[asyncio.Task[None]] = set()
        self._inquiries: set[asyncio.Task[None]] = set()
        self._watching: asyncio.Task[None] | None = None
        self._pace = Pace()
        self._failure: NoWorker | None = None
        self._pause_s = 0.0
        self._closed = False
        self.statistics = PoolStatistics()

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of the workers that live."""
        return tuple(worker.pid for worker in (*self._idle, *(turn.worker for turn in self._turns)))

    async def start(self) -> None:
        """Start every worker and wait until all are ready. Raises NoWorker when one cannot start."""
        self._replenish()
        while self._starting:
            await asyncio.wait(self._starting)
        if self._failure is not None:
            raise self._failure

    async def run(self, job: Job) -> Reply:
        """Waits for a place in the queue, then for the reply; see above for how long."""
        self.statistics.num_calls += 1
        reply = await self._run(job)
        if reply.error is not None:
            self.statistics.errors[reply.error] = self.statistics.errors.get(reply.error, 0) + 1
        return reply

    async def _run(self, job: Job) -> Reply:
        if self._closed:
            return Reply(error="unavailable", hint="the tools are closed")
        body = msgspec.json.encode(job)  # what cannot be written fails here, where only its caller is harmed
        if self._credit.locked():
            try:
                await asyncio.wait_for(self._credit.acquire(), self._config.deadline_of(job.tool))
            except TimeoutError:
                return Reply(error="unavailable", hint="the tools are busy, try again")
        else:
            await self._credit.acquire()
        call = Call(job, body, asyncio.get_running_loop().create_future())
        self._queue.append(call)
        self._go_on()
        try:
            return await call.reply
        except asyncio.CancelledError:
            self._abandon(call)
            raise

    async def close(self) -> None:
        """End all workers; calls that still wait are `unavailable`."""
        self._closed = True
        tasks = [*self._starting, *self._inquiries]
        if self._watching is not None:
            tasks.append(self._watching)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for turn in list(self._turns):
            self._again += (call for call in turn.calls if not call.reply.done())
            self._end(turn)
        for worker in self._idle:
            worker.kill()
        self._idle.clear()
        self._refuse_all("the tools are closed")
        await self._nursery.close()

    # The queue

    def _go_on(self) -> None:
        """Hand out what can be handed out; called whenever something has changed."""
        if self._closed:
            return
        self._replenish()
        while (self._again or self._queue) and self._idle and self._num_busy() < self._config.num_workers:
            worker = self._idle.pop()  # the one used last, so that spares stay as they were born
            if worker.gone:
                self._replenish()
                continue
            turn = Turn(worker=worker, calls=self._take())
            self._turns.add(turn)
            worker.attend(partial(self._heard, turn))
            turn.send(turn.calls)
            self._begin(turn)
        self._send_ahead()
        if self._watching is None and self._turns:
            self._watching = asyncio.create_task(self._watch())

    def _send_ahead(self) -> None:
        """Nobody is idle: a worker has the next calls at hand before it asks for them, all workers as many."""
        while self._again or self._queue:
            turn = min(filter(self._may_have_more, self._turns), key=lambda turn: len(turn.ahead), default=None)
            if turn is None:
                return
            turn.ahead.append(self._take())
            turn.send(turn.last)

    def _may_have_more(self, turn: Turn) -> bool:
        return turn.counts and not turn.late and len(turn.ahead) < NUM_AHEAD and self._pace.short(turn.last)

    def _num_busy(self) -> int:
        return sum(turn.counts for turn in self._turns)

    def _take(self) -> list[Call]:
        """The next call and, where its tool is batched or quick, those behind it that go with it."""
        if self._again:
            return [self._again.popleft()]
        first = self._queue.popleft()
        room = max(self._batch(first.job.tool), self._handful(first.job.tool)) - 1
        also = [call for call in self._queue if call.job.tool == first.job.tool][:room] if room else []
        for call in also:
            self._queue.remove(call)
        for _ in range(1 + len(also)):
            self._credit.release()
        return [first, *also]

    def _batch(self, tool: str) -> int:
        """Calls that a worker takes at once, as configured."""
        return self._config.batches.get(tool, 1)

    def _handful(self, tool: str) -> int:
        """Calls that go to a worker together because they are short: what is done in SHORT_S, no more than a share."""
        share = -(-len(self._queue) // self._config.num_workers)
        return min(share, int(SHORT_S / self._pace.usual_s(tool))) if self._config.fork else 1

    def _refuse_all(self, hint: str) -> None:
        """Answer every call that waits."""
        for call in self._again:
            call.settle(Reply(error="unavailable", hint=hint))
        self._again.clear()
        while self._queue:
            for call in self._take():
                call.settle(Reply(error="unavailable", hint=hint))

    def _abandon(self, call: Call) -> None:
        """Nobody waits for `call` any more."""
        if call in self._again:
            self._again.remove(call)
        elif call in self._queue:
            self._queue.remove(call)
            self._credit.release()
        else:
            for turn in list(self._turns):
                if call in turn.calls and not turn.wanted:
                    self._end(turn)

    # One turn

    def _begin(self, turn: Turn) -> None:
        """The worker turns to the calls of now: their time begins."""
        loop = asyncio.get_running_loop()
        turn.began_s = loop.time()
        first_s = min(LATE_S, self._config.patience_s, self._time_for(turn.calls))
        turn.timers = [loop.call_later(first_s, self._late, turn)]

    def _heard(self, turn: Turn, replies: list[Reply] | None) -> None:
        """The worker has answered the calls of now, or has ended, or says what makes no sense."""
        turn.stop_clock()
        if replies is None or len(replies) != len(turn.calls):
            self._hand_out_again(turn)
            inquiry = asyncio.create_task(self._explain(turn))
            self._inquiries.add(inquiry)
            inquiry.add_done_callback(self._inquiries.discard)
            self._go_on()
            return
        answered = turn.calls
        self._pace.note(answered, turn.spent_s())
        if any(reply.worn for reply in replies):
            self._end(turn)
        else:
            self._advance(turn)
        for call, reply in zip(answered, replies, strict=True):  # after the worker has something to do again
            call.settle(reply)

    def _advance(self, turn: Turn) -> None:
        """The worker goes on with what was sent ahead, or is idle."""
        if turn.late:  # what it has at hand and nobody has taken meanwhile stays with it
            at_hand = turn.waiting()
            self._again = deque(call for call in self._again if call not in at_hand)
        turn.advance()
        if turn.calls:
            self._begin(turn)
        else:
            self._turns.remove(turn)
            turn.worker.attend(None)
            self._idle.append(turn.worker)
        self._go_on()

    def _time_for(self, calls: list[Call]) -> float:
        """Seconds for a turn: what is left to its call, or half a deadline for a batch; a handful must not be late."""
        tool = calls[0].job.tool
        deadline = self._config.deadline_of(tool)
        if len(calls) == 1:
            return max(0.0, deadline - calls[0].spent_s)
        return deadline / 2 if len(calls) <= self._batch(tool) else min(LATE_S, deadline / 2)

    def _late(self, turn: Turn) -> None:
        """A call is late: those behind it wait no longer, and where nobody waits for it, nor does its worker."""
        if not turn.wanted:
            self._end(turn)
            return
        loop = asyncio.get_running_loop()
        for seconds, then in (
            (self._config.patience_s, self._pass_on),
            (self._time_for(turn.calls), self._overdue),
        ):
            turn.timers.append(loop.call_at(turn.began_s + seconds, then, turn))
        self._hand_out_again(turn)
        self._go_on()

    def _hand_out_again(self, turn: Turn) -> None:
        """What was sent ahead is for whoever comes first."""
        if not turn.late:
            turn.late = True
            self._again += turn.waiting()

    def _pass_on(self, turn: Turn) -> None:
        """A call takes long: a spare worker goes on with the queue meanwhile."""
        turn.counts = False
        self._go_on()

    def _overdue(self, turn: Turn) -> None:
        """The deadline has passed."""
        if len(turn.calls) == 1:
            turn.calls[0].settle(Reply(error="timeout", hint="try a smaller box", cpu_s=turn.spent_s()))
        else:
            self._one_by_one(turn)
        self._end(turn)

    def _end(self, turn: Turn) -> None:
        """Let go of the worker; a spare takes its place, and what was sent ahead, at once."""
        self.statistics.num_lost += 1
        turn.stop_clock()
        turn.worker.attend(None)
        turn.worker.kill()
        self._turns.discard(turn)
        self._hand_out_again(turn)
        self._go_on()

    async def _explain(self, turn: Turn) -> None:
        """The worker died: by its call, by its call's memory, or by someone else. Waits for the news."""
        spent_s = turn.spent_s()
        overgrown = turn.worker.overgrown
        outside = not overgrown and await turn.worker.died_from_outside()
        if turn not in self._turns:
            return  # nobody waits any more
        if len(turn.calls) > 1:
            self._one_by_one(turn)
        elif overgrown:
            turn.calls[0].settle(Reply(error="limit_exceeded", hint="too much memory", cpu_s=spent_s))
        elif outside and not turn.calls[0].retried:
            self.statistics.num_retries += 1
            turn.calls[0].retried = True
            self._run_again(turn.calls)
        else:
            turn.calls[0].settle(Reply(error="tool_crashed", hint="try other arguments", cpu_s=spent_s))
        self._end(turn)

    def _one_by_one(self, turn: Turn) -> None:
        """A batch failed; each of its calls shows for itself whether it was the one."""
        for call in turn.calls:
            call.spent_s = turn.spent_s()
        self._run_again(turn.calls)

    def _run_again(self, calls: list[Call]) -> None:
        """Another turn answers them."""
        self._again += [call for call in calls if not call.reply.done()]

    # The workers

    def _replenish(self) -> None:
        """Have as many workers as wanted, in the background."""
        self._idle = [worker for worker in self._idle if not worker.gone]
        wanted = self._config.num_workers + self._config.num_spares
        while not self._closed and len(self._idle) + len(self._turns) + len(self._starting) < wanted:
            task = asyncio.create_task(self._bring_up())
            self._starting.add(task)
            task.add_done_callback(self._brought_up)

    async def _bring_up(self) -> None:
        if self._failure is not None:
            await asyncio.sleep(self._pause_s)
        try:
            worker = await self._nursery.worker()
        except NoWorker as failure:
            self._pause_s = min(LONGEST_PAUSE_S, max(FIRST_PAUSE_S, 2 * self._pause_s))
            self._failure = failure
            if not self._idle and not self._turns:
                _log.error("%s", failure)
                self._refuse_all("the tools cannot start")
            return
        self._failure, self._pause_s = None, 0.0
        self.statistics.num_started += 1
        self._idle.insert(0, worker)

    def _brought_up(self, task: asyncio.Task[None]) -> None:
        self._starting.discard(task)
        if not task.cancelled():
            task.result()
            if self._failure is None or self._again or self._queue:
                self._go_on()

    async def _watch(self) -> None:
        """Keep every worker within its memory."""
        cap = self._config.memory_mb * MIB
        while self._turns:
            for turn in list(self._turns):
                if private_bytes(turn.worker.pid) - turn.worker.held_bytes > cap:
                    turn.worker.overgrown = True
                    turn.worker.kill()
            for worker in list(self._idle):
                if private_bytes(worker.pid) - worker.held_bytes > cap / 2:
                    self._idle.remove(worker)
                    worker.kill()
                    self._replenish()
            await asyncio.sleep(WATCH_S)
        self._watching = None
