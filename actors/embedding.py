"""Where a query lies among past ones: a frozen classical encoder.

Two halves of equal weight. The picture half is a colour layout: every picture averaged to a small grid, centred, and
the pictures averaged. The text half hashes the question's character n-grams into signed buckets. Nothing is learned,
so a vector means the same in every run, and the digest of the encoder is a digest of its parameters.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from common.chat import canonical_json

_NAME, _VERSION = "layout-ngrams", 1


class ClassicalEmbedder:
    """See common.protocols.Embedder. grid: cells a side of the colour layout. buckets: of the n-grams. orders: their
    lengths.
    """

    def __init__(self, *, grid: int = 8, buckets: int = 192, orders: tuple[int, ...] = (3, 4)) -> None:
        if grid < 1 or buckets < 1 or not orders or min(orders) < 1:
            raise ValueError(f"grid, buckets and orders must be positive, got {grid}, {buckets} and {orders}")
        self._grid, self._buckets, self._orders = grid, buckets, orders
        self._digest = hashlib.sha256(
            canonical_json([_NAME, _VERSION, grid, buckets, list(orders)]).encode()
        ).hexdigest()

    @property
    def digest(self) -> str:
        return self._digest

    @property
    def dimension(self) -> int:
        return 3 * self._grid**2 + self._buckets

    def embed(self, question: str, pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        layout = np.zeros(3 * self._grid**2)
        for picture in pictures:
            layout += _unit(self._layout(picture))
        vector = np.concatenate([_unit(layout), _unit(self._ngrams(question))])
        if not vector.any():  # nothing to go by: any fixed direction, so that the norm is 1
            vector[0] = 1.0
        return _unit(vector).astype(np.float32)

    def _layout(self, picture: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Mean colours of grid × grid cells in [0, 1], less the picture's mean, (3·grid²,)."""
        from PIL import Image

        small = Image.fromarray(picture).resize((self._grid, self._grid), Image.Resampling.BOX)
        colours = np.asarray(small, np.float64) / 255
        return np.asarray((colours - colours.mean()).ravel())

    def _ngrams(self, text: str) -> NDArray[np.float64]:
        """Counts of hashed n-grams with signs, (buckets,)."""
        counts = np.zeros(self._buckets)
        padded = f" {' '.join(text.lower().split())} "
        for order in self._orders:
            for at in range(len(padded) - order + 1):
                value = int.from_bytes(hashlib.blake2b(padded[at : at + order].encode(), digest_size=8).digest(), "big")
                counts[(value >> 1) % self._buckets] += 1 if value & 1 else -1
        return counts


def _unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scaled to length 1; zero stays zero."""
    length = float(np.linalg.norm(vector))
    return vector / length if length > 1e-12 else np.zeros_like(vector)
