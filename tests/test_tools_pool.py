"""The pool over real processes: whatever a worker does costs its own call an observation, and nobody else anything."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from fakes.faulty_worker import COMMAND
from hypothesis import given
from hypothesis import strategies as st

from actors.tools.config import ToolsConfig
from actors.tools.errors import NoWorker
from actors.tools.frames import FrameSplitter, Reply, framed
from actors.tools.pool import WorkerPool
from actors.tools.ports import Job
from cluster.benchmarks.faults import faulty

Opener = Callable[..., Awaitable[WorkerPool]]
ZOOM = Job(tool="ZOOM")
FORKS = pytest.mark.parametrize("fork", [True, False], ids=["forked", "each alone"])


@pytest_asyncio.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Opener]:
    pools: list[WorkerPool] = []

    async def open_pool(**changes: Any) -> WorkerPool:
        settings = {"num_workers": 2, "num_spares": 0, "ocr": "none", **changes}
        pools.append(WorkerPool(ToolsConfig(**settings), tmp_path, command=COMMAND))
        await pools[-1].start()
        return pools[-1]

    yield open_pool
    for pool in pools:
        await pool.close()


def is_gone(pid: int) -> bool:
    """Whether no process (or only an unburied one) has this id."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


async def until(condition: Callable[[], bool], *, within_s: float = 20) -> bool:
    deadline = time.monotonic() + within_s
    while not condition() and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
    return condition()


# Faults


@FORKS
@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("hang", "timeout"),
        ("spin", "timeout"),
        ("crash", "tool_crashed"),
        ("leave", "tool_crashed"),
        ("fail", "tool_crashed"),
        ("grow", "limit_exceeded"),
        ("reserve", "limit_exceeded"),
        ("refuse", "bad_argument"),
    ],
)
async def test_a_fault_costs_its_own_call_only(opened: Opener, fork: bool, fault: str, code: str) -> None:
    pool = await opened(fork=fork, deadline_s=60.0, deadlines_s={"SEG": 0.4}, memory_mb=64)
    tool = "SEG" if code == "timeout" else "TRK"
    guilty, *others = await asyncio.gather(
        pool.run(faulty(Job(tool=tool), fault)), *(pool.run(ZOOM) for _ in range(20))
    )
    assert guilty.error == code and guilty.hint
    assert [reply.error for reply in others] == [None] * 20
    assert pool.statistics.num_retries == 0
    assert pool.statistics.errors == {code: 1}


@FORKS
async def test_a_worker_that_is_lost_is_replaced_and_buried(opened: Opener, fork: bool) -> None:
    pool = await opened(fork=fork)
    before = set(pool.pids)
    assert len(before) == 2
    await asyncio.gather(*(pool.run(faulty(ZOOM, "crash")) for _ in range(2)))
    assert await until(lambda: len(pool.pids) == 2)
    assert not before & set(pool.pids) and (await pool.run(ZOOM)).error is None
    assert await until(lambda: all(map(is_gone, before)))
    after = pool.pids
    await pool.close()
    assert await until(lambda: all(map(is_gone, after)))
    assert (await pool.run(ZOOM)).error == "unavailable"


async def test_what_a_call_did_itself_is_not_tried_again_but_a_kill_from_outside_is(opened: Opener) -> None:
    pool = await opened(num_workers=1)
    (victim,) = pool.pids
    call = asyncio.create_task(pool.run(faulty(ZOOM, "sleep", 0.5)))
    await asyncio.sleep(0.2)
    os.kill(victim, signal.SIGKILL)
    reply = await call
    assert reply.error is None and reply.result is not None and reply.result.values["pid"] != victim
    assert pool.statistics.num_retries == 1
    assert (await pool.run(faulty(ZOOM, "leave"))).error == "tool_crashed"
    assert pool.statistics.num_retries == 1


async def test_a_second_kill_from_outside_ends_the_call(opened: Opener) -> None:
    pool = await opened(num_workers=1)
    call = asyncio.create_task(pool.run(faulty(ZOOM, "hang")))
    for _ in range(2):
        assert await until(lambda: len(pool.pids) == 1)
        (victim,) = pool.pids
        await asyncio.sleep(0.2)
        os.kill(victim, signal.SIGKILL)
        assert await until(lambda victim=victim: victim not in pool.pids)  # type: ignore[misc]
    assert (await call).error == "tool_crashed"


async def test_when_the_process_that_workers_come_from_dies_another_takes_over(opened: Opener) -> None:
    pool = await opened()
    parents = {int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1]) for pid in pool.pids}
    (parent,) = parents
    calls = [asyncio.create_task(pool.run(faulty(ZOOM, "sleep", 0.5))) for _ in range(2)]
    await asyncio.sleep(0.2)
    os.kill(parent, signal.SIGKILL)
    assert [(await call).error for call in calls] == [None, None]


# Waiting


async def test_a_hung_call_ends_at_its_deadline_and_no_sooner(opened: Opener) -> None:
    pool = await opened(num_workers=1, num_spares=1, deadline_s=0.5)
    began = time.monotonic()
    reply = await pool.run(faulty(ZOOM, "hang"))
    assert reply.error == "timeout" and time.monotonic() - began >= 0.5


async def test_a_full_queue_makes_the_next_call_wait_for_its_deadline_and_then_be_unavailable(opened: Opener) -> None:
    pool = await opened(num_workers=1, max_queue=2, deadlines_s={"PROP": 0.3})
    slow = [asyncio.create_task(pool.run(faulty(ZOOM, "sleep", 1.0))) for _ in range(3)]
    await asyncio.sleep(0.1)
    late, patient = await asyncio.gather(pool.run(Job(tool="PROP")), pool.run(ZOOM))
    assert late.error == "unavailable" and patient.error is None
    assert [(await call).error for call in slow] == [None] * 3


async def test_a_spare_goes_on_while_a_call_takes_long(opened: Opener) -> None:
    pool = await opened(num_workers=1, num_spares=1, patience_s=0.2, deadline_s=60.0)
    long = asyncio.create_task(pool.run(faulty(ZOOM, "sleep", 8.0)))
    await asyncio.sleep(0.05)
    assert (await pool.run(ZOOM)).error is None
    assert not long.done()
    long.cancel()


async def test_no_more_calls_run_at_once_than_there_are_workers(opened: Opener) -> None:
    pool = await opened(num_workers=2, num_spares=2)
    replies = await asyncio.gather(*(pool.run(faulty(ZOOM, "sleep", 0.2)) for _ in range(6)))
    pids = {reply.result.values["pid"] for reply in replies if reply.result is not None}
    assert len(pids) == 2


@FORKS
async def test_a_caller_that_is_cancelled_frees_its_worker(opened: Opener, fork: bool) -> None:
    pool = await opened(fork=fork)
    hung = [asyncio.create_task(pool.run(faulty(ZOOM, "hang"))) for _ in range(4)]
    await asyncio.sleep(0.2)
    for task in hung:
        task.cancel()
    await asyncio.gather(*hung, return_exceptions=True)
    assert (await pool.run(ZOOM)).error is None


async def test_closing_answers_those_who_wait(opened: Opener) -> None:
    pool = await opened()
    waiting = [asyncio.create_task(pool.run(faulty(ZOOM, "hang"))) for _ in range(5)]
    await asyncio.sleep(0.1)
    await pool.close()
    assert [(await task).error for task in waiting] == ["unavailable"] * 5


# Batches


async def test_waiting_calls_of_one_tool_run_together_where_it_is_configured(opened: Opener) -> None:
    pool = await opened(num_workers=1, batches={"OCR": 4})
    jobs = [faulty(ZOOM, "sleep", 0.2), *(Job(tool="OCR") for _ in range(6)), Job(tool="PROP")]
    replies = await asyncio.gather(*map(pool.run, jobs))
    values = [reply.result.values for reply in replies if reply.result is not None]
    assert [found.get("together") for found in values] == [None, 4, 4, 4, 4, 2, 2, None]


@pytest.mark.parametrize(("fault", "code"), [("fail", "tool_crashed"), ("crash", "tool_crashed"), ("hang", "timeout")])
async def test_only_the_guilty_one_of_a_batch_fails(opened: Opener, fault: str, code: str) -> None:
    pool = await opened(num_workers=1, num_spares=1, batches={"OCR": 4}, deadline_s=1.0)
    jobs = [faulty(ZOOM, "sleep", 0.2), Job(tool="OCR"), faulty(Job(tool="OCR"), fault), Job(tool="OCR")]
    replies = await asyncio.gather(*map(pool.run, jobs))
    assert [reply.error for reply in replies] == [None, None, code, None]


# Sent ahead


async def quick(pool: WorkerPool, *, num: int = 6) -> None:
    """Have the pool know that ZOOM and OCR are quick."""
    for tool in ("ZOOM", "OCR"):
        for _ in range(num):
            await pool.run(Job(tool=tool))


async def test_quick_calls_go_to_busy_workers_a_handful_at_a_time_and_all_workers_get_a_share(opened: Opener) -> None:
    pool = await opened(num_workers=2)
    await quick(pool)
    replies = await asyncio.gather(*(pool.run(Job(tool="OCR")) for _ in range(60)))
    values = [reply.result.values for reply in replies if reply.result is not None]
    assert len(values) == 60 and max(found.get("together", 1) for found in values) > 1
    assert {found["pid"] for found in values} == set(pool.pids)
    assert pool.statistics.num_lost == 0


@pytest.mark.parametrize("fault", ["crash", "leave", "hang", "grow"])
async def test_a_fault_among_calls_that_were_sent_ahead_costs_its_own_call_only(opened: Opener, fault: str) -> None:
    pool = await opened(num_workers=1, num_spares=1, deadline_s=1.5, memory_mb=64)
    await quick(pool)
    jobs = [Job(tool="ZOOM") for _ in range(40)]
    jobs[17] = faulty(ZOOM, fault)
    replies = await asyncio.gather(*map(pool.run, jobs))
    guilty = replies.pop(17)
    code = {"hang": "timeout", "grow": "limit_exceeded"}.get(fault, "tool_crashed")
    assert guilty.error == code and [reply.error for reply in replies] == [None] * 39
    assert pool.statistics.num_retries == 0


async def test_what_a_worker_answered_before_its_end_counts_though_a_write_finds_it_gone(opened: Opener) -> None:
    pool = await opened(num_workers=1)
    await quick(pool)
    calls = [asyncio.create_task(pool.run(job)) for job in (ZOOM, faulty(ZOOM, "leave"))]
    await asyncio.sleep(0)
    time.sleep(0.5)  # the loop is busy: the worker answers, leaves, and nobody reads it.
    calls += [asyncio.create_task(pool.run(ZOOM)) for _ in range(4)]  # sent ahead before the answer is read
    assert [reply.error for reply in await asyncio.gather(*calls)] == [None, "tool_crashed", *[None] * 4]
    assert pool.statistics.num_retries == 0


async def test_calls_behind_a_hung_one_do_not_wait_for_its_end(opened: Opener) -> None:
    pool = await opened(num_workers=2, deadline_s=60.0)
    await quick(pool)
    hung = asyncio.create_task(pool.run(faulty(ZOOM, "hang")))
    busy = asyncio.create_task(pool.run(faulty(ZOOM, "sleep", 0.5)))
    await asyncio.sleep(0.05)
    behind = [pool.run(ZOOM) for _ in range(8)]  # some of them wait in the worker that hangs
    assert [reply.error for reply in await asyncio.gather(*behind, busy)] == [None] * 9
    assert not hung.done()
    hung.cancel()


async def test_the_deadline_of_a_call_that_was_sent_ahead_begins_when_it_does(opened: Opener) -> None:
    pool = await opened(num_workers=1, deadline_s=1.5)
    await quick(pool)
    replies = await asyncio.gather(*(pool.run(faulty(ZOOM, "sleep", 0.7)) for _ in range(3)))
    assert [reply.error for reply in replies] == [None] * 3
    assert pool.statistics.num_lost == 0


async def test_a_kill_does_not_count_for_a_call_that_was_only_sent_ahead(opened: Opener) -> None:
    pool = await opened(num_workers=1)
    await quick(pool)
    calls = [asyncio.create_task(pool.run(faulty(ZOOM, "sleep", 1.0))) for _ in range(2)]
    for _ in range(2):  # each of the two is executing at one of the kills, and is sent ahead at the other
        assert await until(lambda: len(pool.pids) == 1)
        (victim,) = pool.pids
        await asyncio.sleep(0.1)
        os.kill(victim, signal.SIGKILL)
        assert await until(lambda victim=victim: victim not in pool.pids)  # type: ignore[misc]
    assert [(await call).error for call in calls] == [None, None]
    assert pool.statistics.num_retries == 2


async def test_a_caller_that_leaves_a_call_sent_ahead_harms_nobody(opened: Opener) -> None:
    pool = await opened(num_workers=1, num_spares=1)
    await quick(pool)
    busy = asyncio.create_task(pool.run(faulty(ZOOM, "sleep", 0.3)))
    await asyncio.sleep(0.05)
    left = [asyncio.create_task(pool.run(faulty(ZOOM, "hang"))) for _ in range(2)]
    await asyncio.sleep(0.05)
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    assert (await busy).error is None and (await pool.run(ZOOM)).error is None


async def test_a_job_that_cannot_be_written_harms_its_caller_only(opened: Opener) -> None:
    pool = await opened()
    replies = await asyncio.gather(
        pool.run(Job(tool="ZOOM", options={"text": "\ud800"})),
        *(pool.run(ZOOM) for _ in range(5)),
        return_exceptions=True,
    )
    assert isinstance(replies[0], UnicodeEncodeError)
    assert [reply.error for reply in replies[1:] if isinstance(reply, Reply)] == [None] * 5


@given(st.lists(st.binary(max_size=40), max_size=8), st.lists(st.integers(0, 400), max_size=12))
def test_frames_are_the_same_however_the_stream_is_cut(bodies: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(map(framed, bodies))
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    splitter = FrameSplitter()
    assert [body for start, stop in pairwise(edges) for body in splitter.split(stream[start:stop])] == bodies


def test_noise_is_no_frame() -> None:
    with pytest.raises(ValueError, match="a frame of"):
        list(FrameSplitter().split(b"\xff\xff\xff\xff noise"))


# Starting


async def test_workers_that_cannot_start_are_one_error_at_the_start_and_an_observation_in_a_call(
    tmp_path: Path,
) -> None:
    pool = WorkerPool(ToolsConfig(ocr="none"), tmp_path, command=(sys.executable, "-c", "raise SystemExit(3)"))
    with pytest.raises(NoWorker, match="did not start"):
        await pool.start()
    assert (await pool.run(ZOOM)).error == "unavailable"
    await pool.close()


def test_workers_die_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    program = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from actors.tools.config import ToolsConfig\n"
        "from actors.tools.pool import WorkerPool\n"
        "async def main():\n"
        "    pool = WorkerPool(ToolsConfig(ocr='none'), Path(sys.argv[1]), command=tuple(sys.argv[2:]))\n"
        "    await pool.start()\n"
        "    print(*pool.pids, flush=True)\n"
        "    await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path), *COMMAND]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(workers) == 2 and not any(map(is_gone, workers))
        parent.send_signal(signal.SIGKILL)
        deadline = time.monotonic() + 5
        while not all(map(is_gone, workers)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert all(map(is_gone, workers))
