"""A pool of worker processes: a queue in front, a deadline and a memory cap behind.

A call waits for a place in the queue at most its deadline (else it is `unavailable`), then for its turn, and may then
execute for at most its deadline (else it is a `timeout`). What goes wrong with a worker costs its call an observation
and nobody else anything: the worker is killed at once, another takes its place.

- Deadline: of the configuration, per tool. A call that outlives `patience_s` no longer counts as busy, so a spare
  worker goes on with the queue while the straggler runs to its end.
- Memory: a worker that grows by more than `memory_mb` during a call is killed: `limit_exceeded`. One that still holds
  half of that afterwards is replaced.
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

from actors.tools.config import ToolsConfig
from actors.tools.errors import NoWorker
from actors.tools.frames import Reply
from actors.tools.memory import MIB, private_bytes
from actors.tools.nursery import Nursery, Worker
from actors.tools.ports import Job

WATCH_S = 0.05
"""Between two looks at the workers' memory."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
"""Between two attempts to start a worker where the last one failed; doubles."""

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Call:
    """A job on its way. spent_s: of its deadline, in a batch that failed. retried: after a kill from outside."""

    job: Job
    reply: asyncio.Future[Reply]
    spent_s: float = 0.0
    retried: bool = False


@dataclass(slots=True, eq=False)
class _Turn:
    """Calls that a worker executes together. counts: towards the `num_workers` that may be busy."""

    worker: Worker
    calls: list[_Call]
    task: asyncio.Task[None] | None = None
    counts: bool = True


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
        self._queue: deque[_Call] = deque()
        self._again: deque[_Call] = deque()
        """Calls that were under way already: before the queue, and not counted in it."""
        self._credit = asyncio.Semaphore(config.max_queue)
        self._idle: list[Worker] = []
        self._turns: set[_Turn] = set()
        self._starting: set[asyncio.Task[None]] = set()
        self._watching: asyncio.Task[None] | None = None
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
        if self._credit.locked():
            try:
                await asyncio.wait_for(self._credit.acquire(), self._config.deadline_of(job.tool))
            except TimeoutError:
                return Reply(error="unavailable", hint="the tools are busy, try again")
        else:
            await self._credit.acquire()
        call = _Call(job, asyncio.get_running_loop().create_future())
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
        tasks = [*self._starting, *(turn.task for turn in self._turns if turn.task is not None)]
        if self._watching is not None:
            tasks.append(self._watching)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for worker in self._idle:
            worker.kill()
        self._idle.clear()
        await self._nursery.close()
        self._refuse_all("the tools are closed")

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
            turn = _Turn(worker=worker, calls=self._take())
            self._turns.add(turn)
            turn.task = asyncio.create_task(self._execute(turn))
            turn.task.add_done_callback(partial(self._executed, turn))
        if self._watching is None and self._turns:
            self._watching = asyncio.create_task(self._watch())

    def _num_busy(self) -> int:
        return sum(turn.counts for turn in self._turns)

    def _take(self) -> list[_Call]:
        """The next call and, where its tool is batched, those behind it that go with it."""
        if self._again:
            return [self._again.popleft()]
        first = self._queue.popleft()
        room = self._config.batches.get(first.job.tool, 1) - 1
        also = [call for call in self._queue if call.job.tool == first.job.tool][:room] if room else []
        for call in also:
            self._queue.remove(call)
        for _ in range(1 + len(also)):
            self._credit.release()
        return [first, *also]

    def _refuse_all(self, hint: str) -> None:
        """Answer every call that waits."""
        for call in self._again:
            _settle(call, Reply(error="unavailable", hint=hint))
        self._again.clear()
        while self._queue:
            for call in self._take():
                _settle(call, Reply(error="unavailable", hint=hint))

    def _abandon(self, call: _Call) -> None:
        """Nobody waits for `call` any more."""
        if call in self._again:
            self._again.remove(call)
        elif call in self._queue:
            self._queue.remove(call)
            self._credit.release()
        else:
            for turn in self._turns:
                if call in turn.calls and all(other.reply.done() for other in turn.calls) and turn.task is not None:
                    turn.task.cancel()

    # One turn

    async def _execute(self, turn: _Turn) -> None:
        """Have the worker answer, or say what became of it."""
        loop = asyncio.get_running_loop()
        patience = loop.call_later(self._config.patience_s, self._pass_on, turn)
        began = loop.time()
        try:
            async with asyncio.timeout(self._time_for(turn.calls)):
                replies = await turn.worker.ask([call.job for call in turn.calls])
        except TimeoutError:
            self._end(turn)
            if len(turn.calls) == 1:
                _settle(turn.calls[0], Reply(error="timeout", hint="try a smaller box", cpu_s=loop.time() - began))
            else:
                self._one_by_one(turn, loop.time() - began)
        except ConnectionError:
            await self._explain(turn, loop.time() - began)
            self._end(turn)
        else:
            if any(reply.worn for reply in replies):
                self._end(turn)
            else:
                self._turns.remove(turn)
                self._idle.append(turn.worker)
                self._go_on()  # the worker first, then those who wait for what it did
            for call, reply in zip(turn.calls, replies, strict=True):
                _settle(call, reply)
        finally:
            patience.cancel()

    def _executed(self, turn: _Turn, task: asyncio.Task[None]) -> None:
        """The turn is over, maybe because nobody waits for it any more or before it began."""
        if turn in self._turns:
            self._end(turn)
        for call in turn.calls:
            _settle(call, Reply(error="unavailable", hint="the tools are closed"))
        self._go_on()
        if not task.cancelled():
            task.result()

    def _time_for(self, calls: list[_Call]) -> float:
        """Seconds for a turn: what is left to its call, or half a deadline for a batch."""
        deadline = self._config.deadline_of(calls[0].job.tool)
        return deadline / 2 if len(calls) > 1 else max(0.0, deadline - calls[0].spent_s)

    def _pass_on(self, turn: _Turn) -> None:
        """A call takes long: a spare worker goes on with the queue meanwhile."""
        turn.counts = False
        self._go_on()

    def _end(self, turn: _Turn) -> None:
        """Let go of the worker; a spare takes its place at once."""
        self.statistics.num_lost += 1
        turn.worker.kill()
        self._turns.discard(turn)
        self._go_on()

    async def _explain(self, turn: _Turn, spent_s: float) -> None:
        """The worker died: by its call, by its call's memory, or by someone else."""
        overgrown = turn.worker.overgrown
        outside = not overgrown and await turn.worker.died_from_outside()
        if len(turn.calls) > 1:
            self._one_by_one(turn, spent_s)
            return
        (call,) = turn.calls
        if overgrown:
            _settle(call, Reply(error="limit_exceeded", hint="too much memory", cpu_s=spent_s))
        elif outside and not call.retried:
            self.statistics.num_retries += 1
            call.retried = True
            self._run_again(turn, [call])
        else:
            _settle(call, Reply(error="tool_crashed", hint="try other arguments", cpu_s=spent_s))

    def _one_by_one(self, turn: _Turn, spent_s: float) -> None:
        """A batch failed; each of its calls shows for itself whether it was the one."""
        for call in turn.calls:
            call.spent_s = spent_s
        self._run_again(turn, turn.calls)

    def _run_again(self, turn: _Turn, calls: list[_Call]) -> None:
        """Another turn answers the calls of this one."""
        turn.calls = []
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


def _settle(call: _Call, reply: Reply) -> None:
    if not call.reply.done():
        call.reply.set_result(reply)
