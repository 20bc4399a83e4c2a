"""A disk of which one call fails."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeAlias

from fakes.recording_disk import RecordingDisk

from replay.frames import Bytes

Fault: TypeAlias = Literal["EIO", "ENOSPC", "short write"]


class FailingDisk(RecordingDisk):
    """Call number `nth` (from 0) fails with `fault`: EIO once; ENOSPC there and at the next two calls that need room;
    a short write takes half of what it is given, and does nothing to other calls.

    Calls are those that RecordingDisk lists; a failed one changes nothing and is not in the list. failed: the name of
    the call that failed first, "" for none. num_calls: so far.
    """

    def __init__(self, root: Path, nth: int, fault: Fault) -> None:
        super().__init__(root)
        self.num_calls = 0
        self.failed = ""
        self._nth = nth
        self.fault = fault
        self._full_for = 0

    def _call(self, name: str) -> None:
        number, self.num_calls = self.num_calls, self.num_calls + 1
        needs_room = not name.startswith("sync") and name not in ("truncate", "unlink")
        if number == self._nth:
            if self.fault == "short write":
                return
            self.failed = name
            self._full_for = 2 if self.fault == "ENOSPC" else 0
        elif self._full_for and needs_room:
            self._full_for -= 1
        else:
            return
        code = errno.EIO if self.fault == "EIO" else errno.ENOSPC
        raise OSError(code, "Input/output error" if code == errno.EIO else "No space left on device")

    def write(self, file: int, buffers: Sequence[Bytes]) -> int:
        if self.num_calls == self._nth and self.fault == "short write":
            whole = b"".join(buffers)
            self.failed = "write"
            return super().write(file, [whole[: (len(whole) + 1) // 2]])
        return super().write(file, buffers)
