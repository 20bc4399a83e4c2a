"""A process of its own that imports, with somebody at it who presses Ctrl-C when the first records are done.

usage: python -m fakes.impatient FILE MEDIA OUT [key=value …]
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from cluster.config import load
from cluster.data.imports import import_set
from cluster.interrupt import Interrupted
from cluster.progress import Silent


class Impatient(Silent):
    def update(self, done: int, **figures: float | str) -> None:
        os.kill(os.getpid(), signal.SIGINT)


def main(file: str, media: str, out: str, *keys: str) -> int:
    try:
        import_set(
            load(keys),
            Path(file),
            Path(out),
            format="pixel_reasoner",
            media=Path(media),
            boxes="auto",
            cut=False,
            force=True,
            progress=Impatient(),
        )
    except Interrupted as error:
        return error.status
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
