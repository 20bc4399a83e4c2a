"""A driver of its own, for tests that kill it: starts a cluster with one process, says where everything is, and
waits.
"""

from __future__ import annotations

import os
import sys

from fakes.processes import Counter

from cluster.interrupt import Interrupted, run_until_interrupted
from cluster.ray_runtime import RayRuntime
from cluster.runtime import RuntimeConfig
from cluster.watchdog import MARK


async def main() -> None:
    runtime = RayRuntime.start(RuntimeConfig(num_cpus=2, object_store_bytes=80 * 2**20))
    try:
        counter = await runtime.spawn("counter", Counter)
        child = await counter.call(Counter.start_child)
        print(os.environ[MARK], await counter.call(Counter.pid), child, flush=True)
        await counter.call(Counter.sleep, 600.0)
    finally:
        await runtime.close()


if __name__ == "__main__":
    try:
        run_until_interrupted(main())
    except Interrupted as error:
        sys.exit(error.status)
