"""A worker without libraries whose tools do nothing but fail on demand; BATCH takes several jobs at once."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

from actors.tools.ports import Job, Result
from actors.tools.worker import main
from cluster.benchmarks.faults import Faulty

COMMAND = (sys.executable, "-P", __file__)


class Together(Faulty):
    """Says how many jobs ran together."""

    def run_many(self, jobs: Sequence[Job], bench: Any) -> list[Result]:
        for job in jobs:
            self.run(job, bench)
        return [Result(values={"pid": os.getpid(), "together": len(jobs)}) for _ in jobs]


def named(name: str) -> Any:
    return Together(name) if name == "OCR" else Faulty(name)


def no_bench(setup: object) -> Any:
    return None


if __name__ == "__main__":
    main(find=named, furnish=no_bench)
