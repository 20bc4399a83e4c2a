"""A process that executes tool calls: `python -m actors.tools.worker`.

It reads frames (four bytes of length, little-endian, then JSON) from its standard input: first the configuration and
the store's folder, then jobs; it writes a frame for each to its standard output. One thread, so that a call's
processor time is its own and results do not depend on the number of cores. It ends when its input does or its parent
dies.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec

from actors.tools.config import ToolsConfig
from actors.tools.errors import ToolError
from actors.tools.ports import Job, Result, Workbench
from common.errors import MediaError
from common.types import ErrorCode


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """The first frame a worker reads."""

    config: ToolsConfig
    store_root: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A result, or the error of a call. cpu_s: processor seconds spent."""

    result: Result | None = None
    error: ErrorCode | None = None
    hint: str = ""
    cpu_s: float = 0.0


def answer(job: Job, bench: Workbench, *, clock: Callable[[], float]) -> Reply:
    """Execute one job. Total: whatever a library raises becomes the error of this call."""
    from actors.tools.catalogue import tool_named

    began = clock()
    try:
        result = tool_named(job.tool).run(job, bench)
    except ToolError as error:
        return Reply(error=error.code, hint=error.hint, cpu_s=clock() - began)
    except MediaError:
        return Reply(error="bad_media", hint="the picture cannot be read", cpu_s=clock() - began)
    except Exception as error:  # noqa: BLE001  The boundary of the process: a library's failure costs this call only.
        print(f"{job.tool} failed: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return Reply(error="tool_crashed", hint="try other arguments", cpu_s=clock() - began)
    return Reply(result=result, cpu_s=clock() - began)


def read_frame(stream: BinaryIO) -> bytes | None:
    """The next frame's body, or None at the end of the stream."""
    head = stream.read(4)
    if len(head) < 4:
        return None
    return stream.read(int.from_bytes(head, "little"))


def write_frame(stream: BinaryIO, body: bytes) -> None:
    stream.write(len(body).to_bytes(4, "little") + body)
    stream.flush()


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


def main() -> None:
    """Serve until the input ends."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    source = sys.stdin.buffer
    with os.fdopen(os.dup(1), "wb") as sink:
        os.dup2(2, 1)  # what libraries print must not mix with the frames
        first = read_frame(source)
        if first is None:
            return
        setup = msgspec.json.decode(first, type=Setup)
        single_thread()
        from actors.tools.catalogue import furnish
        from common.media import FolderMediaStore

        bench = furnish(setup.config, FolderMediaStore(Path(setup.store_root)))
        write_frame(sink, b"{}")
        while (frame := read_frame(source)) is not None:
            reply = answer(msgspec.json.decode(frame, type=Job), bench, clock=time.process_time)
            write_frame(sink, msgspec.json.encode(reply))


if __name__ == "__main__":
    main()
