"""`pixelis bench replay`: the replay against the machine it runs on, and against others that keep rollouts.

Ours and the peer alternate in one process; a ratio is the median of the rounds', and the peer is held against itself
(the column "noise"). What a figure is made of stands where it is measured: replay_log, replay_draws, replay_peers.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.benchmarks.harness import Figure
from cluster.benchmarks.replay_draws import DrawSizes, measure_draws, measure_index
from cluster.benchmarks.replay_log import LogSizes, measure_log, measure_opening
from cluster.benchmarks.replay_peers import REMOTES, PeerSizes, Remote, measure_peers
from cluster.benchmarks.replay_rows import Rows

if TYPE_CHECKING:
    from cluster.config import RunConfig
    from cluster.progress import Progress


def measure(config: RunConfig, progress: Progress, rounds: int) -> Sequence[Figure]:
    return asyncio.run(measure_all(progress, rounds))


async def measure_all(
    progress: Progress,
    rounds: int,
    *,
    log: LogSizes | None = None,
    draws: DrawSizes | None = None,
    peers: PeerSizes | None = None,
    remotes: Sequence[Remote] = REMOTES,
) -> list[Figure]:
    """Every figure, in a temporary folder that is removed. Sizes are smaller and peers fewer in tests only."""
    log, draws, peers, rows = log or LogSizes(), draws or DrawSizes(), peers or PeerSizes(), Rows()
    with tempfile.TemporaryDirectory(prefix="pixelis-bench-") as name:
        folder = Path(name)
        progress.start("bench replay: the log")
        figures = await measure_log(folder, rows, log, rounds)
        progress.start("bench replay: opening")
        figures.append(await measure_opening(folder / "opened", rows, log))
        progress.start("bench replay: draws")
        figures += await measure_draws(folder / "drawn", rows, draws, rounds)
        figures += await measure_index(folder / "index", draws, rounds)
        progress.start("bench replay: peers")
        figures += await measure_peers(folder / "peers", rows, peers, rounds, remotes)
    return figures
