"""One root seed, named streams.

Every source of randomness has a name, so a failure replays and adding a stream disturbs no other.
"""

from __future__ import annotations

import hashlib

import numpy as np


def seed_of(root: int, *names: str | int) -> int:
    """A 63-bit seed for the stream called `names` under `root`; stable across machines and versions."""
    text = "/".join([str(root), *map(str, names)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def stream(root: int, *names: str | int) -> np.random.Generator:
    """A NumPy generator for the stream called `names` under `root`."""
    return np.random.default_rng(seed_of(root, *names))
