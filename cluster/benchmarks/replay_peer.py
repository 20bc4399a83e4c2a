"""A replay of somebody else, driven over lines of JSON, in its own environment: `replay_peer.py NAME ARRAYS SCRATCH`.

Imports nothing of this project. The folder ARRAYS holds rollouts.npy, shape (rows, bytes), and for rows with pictures
views-still.npy and views-clip.npy, (groups, views, height, width, 3), and crops-still.npy and crops-clip.npy, (rows,
height, width, 3), all uint8. A line {"rows": 64, "shown": "still", "batch": 32} on the standard input asks for one
round: so many rows are put singly, as rollouts end, then got back in batches ("shown": "" for rows without pictures).
The answer is {"seconds": …, "rows": …}. The first line out is {"ready": "name and version"}.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np


class Peer(Protocol):
    def round(self, rows: list[dict[str, np.ndarray]], batch: int) -> int:
        """Put every row, get all of them back, `batch` at a time. Returns how many came back."""


class TransferQueue:
    """Controller and two storage units as Ray actors; as many rows as a batch has are on their way at a time."""

    def __init__(self, folder: Path) -> None:
        os.environ |= {
            "RAY_AUTH_MODE": "disabled",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_raylet_start_wait_time_s": "300",
        }
        import ray
        import transfer_queue

        ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
        transfer_queue.init()
        self._queue, self._next = transfer_queue, 0

    def round(self, rows: list[dict[str, Any]], batch: int) -> int:
        import torch

        partition, self._next = f"round-{self._next}", self._next + 1
        tensors = [{name: torch.from_numpy(value) for name, value in row.items()} for row in rows]
        came = asyncio.run(self._round(partition, tensors, batch))
        self._queue.kv_clear(keys=[str(i) for i in range(len(rows))], partition_id=partition)
        return came

    async def _round(self, partition: str, tensors: list[dict[str, Any]], batch: int) -> int:
        queue, came, free = self._queue, 0, asyncio.Semaphore(batch)

        async def put(number: int) -> None:
            async with free:
                await queue.async_kv_put(key=str(number), partition_id=partition, fields=tensors[number])

        await asyncio.gather(*map(put, range(len(tensors))))
        for start in range(0, len(tensors), batch):
            keys = [str(i) for i in range(start, min(start + batch, len(tensors)))]
            got = await queue.async_kv_batch_get(keys=keys, partition_id=partition)
            came += len(got["rollout"])
        return came


class TorchRL:
    """Memory-mapped files, never synced; drawn without replacement."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._buffers = folder, dict[tuple[str, ...], Any]()

    def round(self, rows: list[dict[str, Any]], batch: int) -> int:
        import torch
        from tensordict import TensorDict

        names = tuple(rows[0])
        if names not in self._buffers:
            self._buffers[names] = self._buffer(len(rows), "-".join(names), batch)
        buffer, came = self._buffers[names], 0
        for row in rows:
            buffer.add(TensorDict({name: torch.from_numpy(value) for name, value in row.items()}))
        for start in range(0, len(rows), batch):
            came += len(buffer.sample(min(batch, len(rows) - start)))
        buffer.empty()
        return came

    def _buffer(self, size: int, name: str, batch: int) -> Any:
        from torchrl.data import LazyMemmapStorage, TensorDictReplayBuffer
        from torchrl.data.replay_buffers.samplers import SamplerWithoutReplacement

        scratch = tempfile.mkdtemp(prefix=name, dir=self._folder)
        storage = LazyMemmapStorage(size, scratch_dir=scratch)
        return TensorDictReplayBuffer(storage=storage, sampler=SamplerWithoutReplacement(), batch_size=batch)


class Cpprb:
    """Arrays in memory, drawn with replacement."""

    def __init__(self, folder: Path) -> None:
        self._buffers = dict[tuple[str, ...], Any]()

    def round(self, rows: list[dict[str, Any]], batch: int) -> int:
        import cpprb

        names = tuple(rows[0])
        if names not in self._buffers:
            shapes = {name: {"shape": value.shape, "dtype": np.uint8} for name, value in rows[0].items()}
            self._buffers[names] = cpprb.ReplayBuffer(len(rows), shapes)
        buffer, came = self._buffers[names], 0
        for row in rows:
            buffer.add(**row)
        for start in range(0, len(rows), batch):
            came += len(buffer.sample(min(batch, len(rows) - start))["rollout"])
        return came


class Reverb:
    """A server in memory, drawn first in first out and once; it could be checkpointed, which is not asked for here."""

    def __init__(self, folder: Path) -> None:
        import reverb

        table = reverb.Table(
            name="rollouts",
            sampler=reverb.selectors.Fifo(),
            remover=reverb.selectors.Fifo(),
            max_size=1 << 20,
            max_times_sampled=1,
            rate_limiter=reverb.rate_limiters.MinSize(1),
        )
        self._server = reverb.Server(tables=[table])
        self._client = reverb.Client(f"localhost:{self._server.port}")

    def round(self, rows: list[dict[str, Any]], batch: int) -> int:
        came = 0
        for row in rows:
            self._client.insert(list(row.values()), priorities={"rollouts": 1.0})
        for start in range(0, len(rows), batch):
            came += len(list(self._client.sample("rollouts", num_samples=min(batch, len(rows) - start))))
        return came


PEERS: dict[str, tuple[Callable[[Path], Peer], str]] = {
    "TransferQueue": (TransferQueue, "TransferQueue"),
    "torchrl": (TorchRL, "torchrl"),
    "cpprb": (Cpprb, "cpprb"),
    "dm-reverb": (Reverb, "dm-reverb"),
}


def rows_of(folder: Path, shown: str) -> list[dict[str, np.ndarray]]:
    rollouts = np.load(folder / "rollouts.npy")
    if not shown:
        return [{"rollout": rollout} for rollout in rollouts]
    views, crops = np.load(folder / f"views-{shown}.npy"), np.load(folder / f"crops-{shown}.npy")
    siblings = len(crops) // len(views)
    return [{"rollout": rollouts[i], "view": views[i // siblings], "crop": crops[i]} for i in range(len(crops))]


def serve(peer: Peer, arrays: Path, orders: IO[str], answers: IO[str]) -> None:
    """Do rounds until there are no more orders."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for line in orders:
        order = json.loads(line)
        shown = order["shown"]
        rows[shown] = rows.get(shown) or rows_of(arrays, shown)
        wanted = rows[shown][: order["rows"]]
        began = time.perf_counter()
        came = peer.round(wanted, order["batch"])
        print(json.dumps({"seconds": time.perf_counter() - began, "rows": came}), file=answers, flush=True)


def main(name: str, arrays: Path, scratch: Path) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    kind, distribution = PEERS[name]
    peer = kind(scratch)
    print(json.dumps({"ready": f"{name} {metadata.version(distribution)}"}), file=answers, flush=True)
    serve(peer, arrays, sys.stdin, answers)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
