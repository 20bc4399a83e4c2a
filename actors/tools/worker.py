"""A process that executes tool calls: `python -m actors.tools.worker`.

Its standard input is a socket of whole messages. The first is the `Setup`; when everything is loaded it answers
`{}`. Each `{"serve": true}` then comes with a descriptor: a stream of frames (frames.py) to be served. With
`config.fork` it forks a child for it, so that a new worker costs a few milliseconds and shares the loaded models'
memory, answers `{"born": pid}` and later tells how the child ended; else it serves the stream itself (a GPU's context
does not survive a fork).

One thread, so that a call's processor time is its own and results do not depend on the number of cores. A worker ends
when its stream does; all end when the process that started them does.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn, Protocol, runtime_checkable

import msgspec

from actors.tools.errors import ToolError
from actors.tools.frames import Reply, Setup, framed, read_frame
from actors.tools.memory import MIB, fence, ran_out
from actors.tools.ports import Job, Result, Tool, Workbench
from common.errors import MediaError

MAX_MESSAGE_BYTES = 128 * 1024
Find = Callable[[str], Tool]
"""A tool by its name. Raises ToolError("unknown_tool")."""


@runtime_checkable
class Batching(Protocol):
    """A tool whose back end takes several pictures at once."""

    def run_many(self, jobs: Sequence[Job], bench: Workbench) -> list[Result]:
        """`run` of each. Raises as `run` does, for all of them together."""
        ...


def answer(job: Job, bench: Workbench, *, clock: Callable[[], float], find: Find | None = None) -> Reply:
    """Execute one job. Total: whatever a library raises becomes the error of this call."""
    began = clock()
    try:
        result = (find or _catalogue())(job.tool).run(job, bench)
    except ToolError as error:
        return Reply(error=error.code, hint=error.hint, cpu_s=clock() - began)
    except MediaError:
        return Reply(error="bad_media", hint="the picture cannot be read", cpu_s=clock() - began)
    except Exception as error:  # noqa: BLE001  The boundary of the process: a library's failure costs this call only.
        print(f"{job.tool} failed: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        if ran_out(error):
            return Reply(error="limit_exceeded", hint="too much memory", cpu_s=clock() - began, worn=True)
        return Reply(error="tool_crashed", hint="try other arguments", cpu_s=clock() - began)
    return Reply(result=result, cpu_s=clock() - began)


def answer_all(jobs: Sequence[Job], bench: Workbench, *, clock: Callable[[], float], find: Find) -> list[Reply]:
    """Execute jobs of one tool, together where its back end can. One that fails alone does not fail the others."""
    if len(jobs) > 1:
        began = clock()
        try:
            tool = find(jobs[0].tool)
            if isinstance(tool, Batching):
                results = tool.run_many(jobs, bench)
                share = (clock() - began) / len(jobs)
                return [Reply(result=result, cpu_s=share) for result in results]
        except Exception as error:  # noqa: BLE001  Which of them it was shows when each runs alone, below.
            print(f"{jobs[0].tool}: a batch failed: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    return [answer(job, bench, clock=clock, find=find) for job in jobs]


def serve(stream: socket.socket, bench: Workbench, find: Find) -> None:
    """Answer frames until the stream ends."""
    with stream.makefile("rb") as source:
        while (frame := read_frame(source)) is not None:
            jobs = msgspec.json.decode(frame, type=list[Job])
            replies = answer_all(jobs, bench, clock=time.process_time, find=find)
            stream.sendall(framed(msgspec.json.encode(replies)))


class Nest:
    """The loaded process: turns descriptors into workers."""

    def __init__(self, control: socket.socket, setup: Setup, bench: Workbench, find: Find) -> None:
        self._control = control
        self._setup = setup
        self._bench = bench
        self._find = find
        self._children: dict[int, int] = {}
        """A descriptor that tells the end of a child → its process id."""

    def run(self) -> None:
        """Until the control channel ends."""
        waiting = select.poll()
        waiting.register(self._control, select.POLLIN)
        while True:
            for ready, _ in waiting.poll():
                if ready in self._children:
                    waiting.unregister(ready)
                    self._bury(ready)
                    continue
                message, descriptors, _, _ = socket.recv_fds(self._control, MAX_MESSAGE_BYTES, 1)
                if not message:
                    return
                request = msgspec.json.decode(message)
                if "kill" in request:
                    self._kill(request["kill"])
                    continue
                with socket.socket(fileno=descriptors[0]) as stream:
                    if not self._setup.config.fork:
                        self._say({"born": os.getpid()})
                        fence(self._setup.config.memory_mb * MIB)
                        serve(stream, self._bench, self._find)
                        return
                    waiting.register(self._fork(stream), select.POLLIN)

    def _fork(self, stream: socket.socket) -> int:
        """A child that serves `stream`; returns a descriptor that becomes readable when it ends."""
        pid = os.fork()
        if pid == 0:
            self._live(stream)
        told = os.pidfd_open(pid)
        self._children[told] = pid
        self._say({"born": pid})
        return told

    def _live(self, stream: socket.socket) -> NoReturn:
        """What a child does: serve, then leave without the clean-up that is its parent's."""
        status = 1
        try:
            die_with_parent()
            self._control.close()
            os.close(0)
            os.open(os.devnull, os.O_RDONLY)  # takes the number 0
            for told in self._children:
                os.close(told)
            fence(self._setup.config.memory_mb * MIB)
            serve(stream, self._bench, self._find)
            status = 0
        finally:
            sys.stderr.flush()
            os._exit(status)

    def _kill(self, pid: int) -> None:
        if pid in self._children.values():  # not yet buried, so the number is still its own
            os.kill(pid, signal.SIGKILL)

    def _bury(self, told: int) -> None:
        pid = self._children.pop(told)
        os.close(told)
        _, status = os.waitpid(pid, 0)
        self._say({"ended": pid, "status": os.waitstatus_to_exitcode(status)})

    def _say(self, message: dict[str, int]) -> None:
        self._control.send(msgspec.json.encode(message))


def single_thread() -> None:
    """Keep the libraries that start thread pools to one thread."""
    import cv2
    import torch

    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def die_with_parent() -> None:
    """Have the kernel end this process when the one that started it goes, even during a call that hangs (Linux)."""
    if sys.platform == "linux":
        import ctypes

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def furnished(setup: Setup) -> Workbench:
    """The workbench of the six tools, used once, so that no worker that is forked from here finds a library cold."""
    from actors.tools.catalogue import furnish
    from common.media import FolderMediaStore

    single_thread()
    bench = furnish(setup.config, FolderMediaStore(Path(setup.store_root)))
    rehearse(bench)
    return bench


def rehearse(bench: Workbench) -> None:
    """Use the quick tools on a picture of a square, where their back end is light; nothing stays in the store.

    What libraries do at their first call (a quarter of a second for SEG) would else be done again in every worker.
    """
    import numpy as np

    from actors.tools.backends.classical_segmenter import ClassicalSegmenter
    from actors.tools.catalogue import tool_named
    from common.media import FolderMediaStore

    pixels = np.zeros((96, 96, 3), np.uint8)
    pixels[32:64, 32:64] = 255
    box: dict[str, Any] = {"box": (30, 30, 66, 66)}
    options = {"ZOOM": {**box, "min_side": 64, "max_side": 64}, "PROP": box}
    if isinstance(bench.segmenter, ClassicalSegmenter):
        options["SEG"] = box
    with TemporaryDirectory(prefix="pixelis-rehearsal-") as folder:
        stage = Workbench(
            config=bench.config,
            store=FolderMediaStore(Path(folder)),
            reader=None,
            segmenter=bench.segmenter,
            tracker=bench.tracker,
        )
        ref = stage.keep(pixels)
        for tool, given in options.items():
            tool_named(tool).run(Job(tool=tool, pictures=(ref,), options=given), stage)


def main(find: Find | None = None, furnish: Callable[[Setup], Workbench] = furnished) -> None:
    """Load, then make workers until the control channel ends. find, furnish: other tools than the six."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    os.dup2(2, 1)  # what libraries print is no result
    control = socket.socket(fileno=os.dup(0))
    first = control.recv(MAX_MESSAGE_BYTES)
    if not first:
        return
    setup = msgspec.json.decode(first, type=Setup)
    bench = furnish(setup)
    if setup.config.fork and "torch" in sys.modules and sys.modules["torch"].cuda.is_initialized():
        print("a GPU's context does not survive a fork: set tools.fork=false", file=sys.stderr, flush=True)
        return
    control.send(b"{}")
    Nest(control, setup, bench, find or _catalogue()).run()


def _catalogue() -> Find:
    from actors.tools.catalogue import tool_named

    return tool_named


if __name__ == "__main__":
    main()
