"""What a picture and a question are recognised by, however they are stored.

    exact        blake3 of the decoded pixels and their size: the same picture in another file or format
    perceptual   256 bits that survive scaling, recompression and a change of brightness (pHash)
    colours      its mean colours in an 8×8 grid, since pHash knows no hue
    question     its words, in lower case and without punctuation

pHash (Zauner 2010): the picture in grey at 64×64, its 2-D cosine transform, of that the 16×16 lowest frequencies; a bit
says whether a coefficient is above their median. It sees how light and dark are laid out, roughly: a detail that a
picture of 64×64 lacks (the code on a small plate, say) changes neither it nor the colours.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from actors.files import evenly
from common.media import MediaSource, content_digest, pixels_of
from common.types import MediaRef, Query

SIDE, LOW = 64, 16
"""Pixels of the shrunk picture's side, and how many frequencies of each direction count."""
NUM_BITS = LOW * LOW
GRID = 8
MOST_FRAMES = 8
"""Of a clip so many frames are looked at, evenly spread."""
_NOT_WORDS = re.compile(r"[\W_]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prints:
    """The fingerprints of a set's items, and of the different pictures that they show.

    ids, questions: one an item. exact: one a picture, all different. perceptual: shape (pictures, 4), uint64. colours:
    shape (pictures, 192), uint8. items: of each picture, the items that show it.
    """

    name: str
    ids: tuple[str, ...]
    questions: tuple[str, ...]
    exact: tuple[bytes, ...]
    perceptual: NDArray[np.uint64]
    colours: NDArray[np.uint8]
    items: tuple[tuple[int, ...], ...]


def prints_of(
    name: str, queries: Iterable[Query], store: MediaSource, *, drawn: Callable[[int], None] = lambda count: None
) -> Prints:
    """The fingerprints of `queries`, whose media are in `store`; each picture is looked at once. drawn: told how many
    queries are done.
    """
    ids: list[str] = []
    questions: list[str] = []
    known: dict[str, int] = {}
    numbers: dict[bytes, int] = {}
    items: list[list[int]] = []
    perceptual: list[NDArray[np.uint64]] = []
    colours: list[NDArray[np.uint8]] = []
    for at, query in enumerate(queries):
        for ref in pictures_of(query):
            if ref.digest not in known:
                pixels = pixels_of(store, ref)
                exact = exact_print(pixels)
                if exact not in numbers:
                    numbers[exact] = len(items)
                    items.append([])
                    perceptual.append(perceptual_print(pixels))
                    colours.append(colour_print(pixels))
                known[ref.digest] = numbers[exact]
            shown = items[known[ref.digest]]
            if not shown or shown[-1] != at:
                shown.append(at)
        ids.append(query.query_id)
        questions.append(normalised_question(query.question))
        drawn(at + 1)
    return Prints(
        name=name,
        ids=tuple(ids),
        questions=tuple(questions),
        exact=tuple(numbers),
        perceptual=np.array(perceptual, np.uint64).reshape(-1, NUM_BITS // 64),
        colours=np.array(colours, np.uint8).reshape(-1, GRID * GRID * 3),
        items=tuple(map(tuple, items)),
    )


def pictures_of(query: Query) -> tuple[MediaRef, ...]:
    """What is looked at: its pictures, and of a clip some frames."""
    frames = query.clip.frames if query.clip is not None else ()
    return (*query.images, *(frames[at] for at in evenly(len(frames), MOST_FRAMES)))


def exact_print(pixels: NDArray[np.uint8]) -> bytes:
    """32 bytes that only the same pixels have; RGB, shape (height, width, 3)."""
    size = np.array(pixels.shape, "<u4").tobytes()
    return bytes.fromhex(content_digest(size + np.ascontiguousarray(pixels).tobytes()))


def perceptual_print(pixels: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """The pHash of an RGB picture, shape (height, width, 3), as 4 words.

    Neighbouring frequencies lie in different words, so each word alone tells pictures apart.
    """
    from PIL import Image

    small = Image.fromarray(np.ascontiguousarray(pixels)).convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    cosines = _cosines()
    # A flat picture's coefficients are rounding errors, whose signs mean nothing.
    low = np.round(cosines @ np.asarray(small, np.float64) @ cosines.T, 6)
    spread = (low > np.median(low)).reshape(-1, NUM_BITS // 64).T
    return np.packbits(np.ascontiguousarray(spread), axis=1).view(">u8").astype(np.uint64).ravel()


def colour_print(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Mean colours of an 8×8 grid, row by row, red, green, blue; shape (192,)."""
    from PIL import Image

    small = Image.fromarray(np.ascontiguousarray(pixels)).resize((GRID, GRID), Image.Resampling.BOX)
    return np.asarray(small, np.uint8).ravel()


@cache
def _cosines() -> NDArray[np.float64]:
    """The DCT-II's lowest rows, shape (LOW, SIDE): cos(π(2x+1)k / 2·SIDE)."""
    place, frequency = np.arange(SIDE), np.arange(LOW)[:, None]
    return np.cos(np.pi * (2 * place + 1) * frequency / (2 * SIDE))


def normalised_question(text: str) -> str:
    """Its words in lower case, single spaces, without punctuation.

    >>> normalised_question("How many  plates?"), normalised_question("how many plates")
    ('how many plates', 'how many plates')
    """
    return _NOT_WORDS.sub(" ", text.casefold()).strip()
