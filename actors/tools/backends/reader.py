"""Reads text with EasyOCR's networks, offline.

Finding text is the dear part: CRAFT takes seconds on a page. A crop that an agent asks about is small and holds a
few words, so its lines are found by their ink (backends/lines) and only recognised, which takes tens of milliseconds.
CRAFT runs on large pictures, and on small ones that hold more lines than a crop or are read with doubt. A line that it
finds is cut out level, in the plane of colours in which ink and ground lie farthest apart; where that reads with doubt,
other planes have a say too (backends/strips).

A strip of text is 64 px high and padded to a multiple of 32 px, and only strips of one width share a batch, so what
is read in one does not depend on its neighbours.
"""

from __future__ import annotations

import importlib.metadata
import math
import os
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.tools.backends.languages import OcrFiles
from actors.tools.backends.lines import find_lines, planes_of
from actors.tools.backends.masks import file_digest
from actors.tools.backends.noise import MAX_NOISE, noise
from actors.tools.backends.strips import BLUR, Strip, cut, in_rows
from actors.tools.ports import ReadLine
from common.errors import ModelError

STRIP_HEIGHT = 64
"""What the recogniser was trained on (EasyOCR's imgH)."""
STRIP_STEP, STRIP_MAX_WIDTH, BATCH = 32, 2048, 16
PAD = 0.4
"""Ground around a line's ink, in heights of the line. Much less and the outer glyphs are misread, more and a mark is
read into the margin (measured: 1.000 of 450 plates at 0.4, 0.996 at 0.35, 0.93 at 0.6).
"""
MIN_SIDE = 224
"""Smaller crops are enlarged before their lines are sought, so that strokes are several pixels wide."""
GAP = 0.7
"""Words stand on one line when the gap between them is at most so many heights."""
SURE = 0.8
"""Confidence under which a line's other planes are read as well."""
CROP_SIDE, NUM_WORDS, CERTAIN, MIN_SPREAD = 192, 2, 0.9, 4.0
"""In pictures whose longer side is more than so many pixels, more than so many lines, or any that is read with less
confidence, are left to CRAFT: there the line finder loses lines on texture. A picture with less spread (levels) is
empty.
"""
_LOOSE_POINT = re.compile(r"(?<=\d) ?([.,]) ?(?=\d)")
"""A point or comma between digits: small prints are read with spaces around it ("86 . 00")."""
MAX_FOUND = 8
"""More lines than this in a small picture are texture or dense print: CRAFT decides."""


def describe_easyocr(files: OcrFiles, *, quantize: bool) -> str:
    """The back end's version and weights, without loading them."""
    digests = ", ".join(f"{path.stem} {file_digest(path)[:8]}" for path in (files.recogniser, files.detector))
    languages = "" if files.languages == ("en",) else f"{'+'.join(files.languages)}, "
    return f"easyocr {importlib.metadata.version('easyocr')} ({languages}{digests}{', int8' if quantize else ''})"


class EasyOcr:
    """A `Reader`. Loads the recogniser when made and CRAFT when a picture first needs it."""

    def __init__(
        self, files: OcrFiles, *, quantize: bool, max_lines_side: int, detect_side: int, min_confidence: float
    ) -> None:
        import easyocr
        import torch

        self._torch = torch
        self._max_lines_side = max_lines_side
        self._detect_side = detect_side
        self._min_confidence = min_confidence
        self._detector_file = files.detector
        self._detects = False
        try:
            with weights_only(), tempfile.TemporaryDirectory() as nowhere:
                self._easyocr: Any = easyocr.Reader(
                    list(files.languages),
                    gpu=False,
                    model_storage_directory=str(files.recogniser.parent),
                    user_network_directory=nowhere,
                    download_enabled=False,
                    detector=False,
                    quantize=quantize,
                    verbose=False,
                )
        except FileNotFoundError as error:  # also where a file's MD5 is not EasyOCR's
            raise ModelError(f"OCR weights: {error}; put EasyOCR's own file there, or set tools.ocr=none") from error
        self._easyocr.recognizer.eval()
        characters = self._easyocr.converter.character
        allowed = set(self._easyocr.lang_char)
        self._ignored = [index for index, c in enumerate(characters) if index and c not in allowed]

    def read(self, pixels: NDArray[np.uint8]) -> tuple[ReadLine, ...]:
        """Lines of an RGB picture in reading order."""
        return self.read_many([pixels])[0]

    def read_many(self, pictures: Sequence[NDArray[np.uint8]]) -> list[tuple[ReadLine, ...]]:
        """`read` of each, strips of one width recognised together."""
        by_ink = [self._lines_by_ink(pixels) for pixels in pictures]
        read = self._read([strips or [] for strips in by_ink])
        again = [
            index
            for index, (pixels, strips) in enumerate(zip(pictures, by_ink, strict=True))
            if strips is None or _in_doubt(pixels, read[index])
        ]
        by_craft = self._read([self._strips_by_craft(pictures[index]) for index in again])
        for index, lines in zip(again, by_craft, strict=True):
            read[index] = lines or read[index]
        return read

    def _read(self, found: list[list[Strip]]) -> list[tuple[ReadLine, ...]]:
        """The text of each picture's strips."""
        texts = iter(self._texts([strip for strips in found for strip in strips]))
        return [self._legible([(strip, *next(texts)) for strip in strips]) for strips in found]

    def _legible(self, lines: list[tuple[Strip, str, float]]) -> tuple[ReadLine, ...]:
        """The lines that say something with enough confidence, or the first that says anything."""
        legible = [
            ReadLine(text=text.strip(), confidence=confidence, box=strip.box, corners=strip.corners)
            for strip, text, confidence in lines
            if text.strip()
        ]
        certain = [line for line in legible if line.confidence >= self._min_confidence]
        return tuple(certain or legible[:1])

    def _texts(self, strips: list[Strip]) -> list[tuple[str, float]]:
        """Text and confidence of each: from its first plane, or the most confident one where the first is in doubt."""
        texts = self._recognise([strip.planes[0] for strip in strips])
        doubtful = [
            (index, plane) for index, strip in enumerate(strips) if texts[index][1] < SURE for plane in strip.planes[1:]
        ]
        for (index, _), text in zip(doubtful, self._recognise([plane for _, plane in doubtful]), strict=True):
            texts[index] = max(texts[index], text, key=lambda read: read[1])
        return [(_LOOSE_POINT.sub(r"\1", text), confidence) for text, confidence in texts]

    def _lines_by_ink(self, pixels: NDArray[np.uint8]) -> list[Strip] | None:
        """Lines in reading order; None where the picture is more than a few words."""
        if max(pixels.shape[:2]) > self._max_lines_side:
            return None
        strips = _strips_by_ink(pixels)
        return strips if len(strips) <= MAX_FOUND else None

    def _strips_by_craft(self, pixels: NDArray[np.uint8]) -> list[Strip]:
        if not self._detects:
            from easyocr.detection import get_detector, get_textbox

            with weights_only():
                self._easyocr.detector = get_detector(str(self._detector_file), device="cpu", quantize=False)
            self._easyocr.get_textbox = get_textbox
            self._detects = True
        magnify = 2.0 if max(pixels.shape[:2]) <= CROP_SIDE else 1.0
        image = np.ascontiguousarray(pixels)
        with self._torch.inference_mode():
            level, slanted = self._easyocr.detect(
                image, canvas_size=self._detect_side, mag_ratio=magnify, width_ths=GAP, reformat=False
            )
        quads = [np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], float) for x0, x1, y0, y1 in level[0]]
        quads += [np.array(corners, float) for corners in slanted[0]]
        return in_rows([strip for strip in (cut(image, quad) for quad in quads) if strip is not None])

    def _recognise(self, strips: list[NDArray[np.uint8]]) -> list[tuple[str, float]]:
        """Text and confidence of each grey strip."""
        buckets: dict[int, list[tuple[int, NDArray[np.float32]]]] = defaultdict(list)
        for index, strip in enumerate(strips):
            array = _normalised(strip)
            buckets[array.shape[1]].append((index, array))
        texts: list[tuple[str, float]] = [("", 0.0)] * len(strips)
        for members in buckets.values():
            for start in range(0, len(members), BATCH):
                part = members[start : start + BATCH]
                for (index, _), text in zip(part, self._decode(np.stack([array for _, array in part])), strict=True):
                    texts[index] = text
        return texts

    def _decode(self, batch: NDArray[np.float32]) -> list[tuple[str, float]]:
        """Greedy CTC over (n, 64, width) in [−1, 1]; confidence Π p^(2/√m) over the m non-blank steps, as EasyOCR's."""
        with self._torch.inference_mode():
            logits = self._easyocr.recognizer(self._torch.from_numpy(batch[:, None]), None)
            shares = logits.softmax(2).numpy()
        shares[:, :, self._ignored] = 0
        shares /= shares.sum(axis=2, keepdims=True)
        best, share = shares.argmax(axis=2), shares.max(axis=2)
        read = []
        for indices, values in zip(best, share, strict=True):
            text = self._easyocr.converter.decode_greedy(indices, np.array([len(indices)]))[0]
            certain = values[indices != 0]
            read.append((text, float(certain.prod() ** (2 / np.sqrt(len(certain)))) if len(certain) else 0.0))
        return read


def _in_doubt(pixels: NDArray[np.uint8], lines: tuple[ReadLine, ...]) -> bool:
    """Whether a picture larger than a crop holds more than a few words, or was not read with certainty."""
    if max(pixels.shape[:2]) <= CROP_SIDE or float(pixels.std()) < MIN_SPREAD:
        return False
    return not 0 < len(lines) <= NUM_WORDS or any(line.confidence < CERTAIN for line in lines)


@contextmanager
def weights_only() -> Iterator[None]:
    """EasyOCR loads its weights as pickles; torch's own switch makes that loading refuse anything but tensors."""
    before = os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD")
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"]
        else:
            os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = before


def _strips_by_ink(pixels: NDArray[np.uint8]) -> list[Strip]:
    import cv2

    scale = max(1.0, MIN_SIDE / max(pixels.shape[:2]))
    enlarged = np.ascontiguousarray(pixels)
    if noise(enlarged) > MAX_NOISE:
        enlarged = cv2.GaussianBlur(enlarged, (0, 0), BLUR)
    if scale > 1:
        size = max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale))
        enlarged = cv2.resize(enlarged, size, interpolation=cv2.INTER_CUBIC)
    planes = planes_of(enlarged)
    height, width = enlarged.shape[:2]
    strips = []
    for line in find_lines(enlarged):
        pad = round(PAD * line.height)
        x0, y0, x1, y1 = line.box
        strip = planes[line.plane][max(0, y0 - pad) : min(height, y1 + pad), max(0, x0 - pad) : min(width, x1 + pad)]
        right, bottom = min(pixels.shape[1], math.ceil(x1 / scale)), min(pixels.shape[0], math.ceil(y1 / scale))
        strips.append(Strip(box=(int(x0 / scale), int(y0 / scale), right, bottom), corners=None, planes=(strip,)))
    return strips


def _normalised(strip: NDArray[np.uint8]) -> NDArray[np.float32]:
    """64 px high, aspect kept, right-padded by its last column to a multiple of STRIP_STEP, in [−1, 1]."""
    import cv2

    width = min(STRIP_MAX_WIDTH, max(STRIP_STEP, round(strip.shape[1] * STRIP_HEIGHT / strip.shape[0])))
    resized = cv2.resize(strip, (width, STRIP_HEIGHT), interpolation=cv2.INTER_CUBIC)
    padded = np.pad(resized, ((0, 0), (0, -width % STRIP_STEP)), mode="edge")
    normalised: NDArray[np.float32] = padded.astype(np.float32) / 127.5 - 1
    return normalised
