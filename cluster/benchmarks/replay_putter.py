"""Puts pictures into a node's store, as the tools and actors of a run do, in a process of its own:
`python -m cluster.benchmarks.replay_putter STORE`.

A line {"seed": [1, 7], "clip": false, "resampled": false} on the standard input makes the pictures of a group, outside
of any timing, and is answered with "made"; a line {"put": 4} puts those of the next four groups that were made. Each
picture that lies in the store is answered with "put": a group's views first, then its crops.
"""

from __future__ import annotations

import json
import sys
from collections import deque
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from cluster.benchmarks.replay_rows import CLIP, STILL, pixels_of_group
from common.media import FolderMediaStore, put_view

Pictures = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def serve(store: FolderMediaStore, orders: IO[str], answers: IO[str]) -> None:
    """Until there are no more orders."""
    made = deque[Pictures]()
    for line in orders:
        order = json.loads(line)
        if "put" not in order:
            made.append(_made(order))
            print("made", file=answers, flush=True)
            continue
        for _ in range(order["put"]):
            views, crops = made.popleft()
            for pixels in (*views, *crops):
                put_view(store, pixels)
                print("put", file=answers, flush=True)


def _made(order: dict[str, Any]) -> Pictures:
    shown = CLIP if order["clip"] else STILL
    return pixels_of_group(np.random.default_rng(order["seed"]), shown, resampled=order["resampled"])


if __name__ == "__main__":
    serve(FolderMediaStore(Path(sys.argv[1])), sys.stdin, sys.stdout)
