"""Pictures for the report: outcomes with their media become strips. Runs in a process of its own, since the driver
holds no media."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.actor import Outcome, Shown
from cluster.overlay import draw
from cluster.report import Step, Strip, write_report
from cluster.runs import read_metrics
from common.media import FolderMediaStore, pixels_of
from common.types import Box, MediaRef

MAX_SIDE = 448
"""Pictures in the report are at most this large; boxes are scaled with them."""
MAX_ROW = 700
"""Pixels of a row of frames."""


class Reporter:
    """Writes the report of one run from its live media."""

    def __init__(self, run: Path, media: Path) -> None:
        self._run = run
        self._store = FolderMediaStore(media)

    def write(self, summary: Mapping[str, Any], sections: Mapping[str, Sequence[Outcome]]) -> str:
        """report.html and strips.json; sections: heading → outcomes that kept their steps. Returns the report's
        path."""
        strips = [
            self._strip(name, outcome) for name, outcomes in sections.items() for outcome in outcomes if outcome.strip
        ]
        return str(write_report(self._run, summary, read_metrics(self._run), strips))

    def _strip(self, section: str, outcome: Outcome) -> Strip:
        return Strip(
            section=section,
            title=f"{outcome.task_id} · {outcome.family}",
            question=outcome.question,
            picture=self._row_of(outcome.pictures),
            steps=tuple(self._step(shown) for shown in outcome.strip if shown.tool),
            answer=outcome.answer,
            truth=outcome.truth,
            right=outcome.score >= 0.5,
        )

    def _step(self, shown: Shown) -> Step:
        boxes: tuple[Box, ...] = ()
        picture = None
        if shown.source is not None:
            pixels, scale = self._small(shown.source)
            picture = png(pixels)
            if shown.footprint is not None:
                x0, y0, x1, y1 = (round(value * scale) for value in shown.footprint)
                boxes = ((x0, y0, x1, y1),)
        return Step(
            name=shown.tool,
            arguments=shown.arguments,
            picture=picture,
            boxes=boxes,
            returned=png(self._small(shown.picture)[0]) if shown.picture is not None else None,
            overlay=self._overlay(shown),
            text=_readable(shown.observation),
            error=shown.error is not None,
        )

    def _overlay(self, shown: Shown) -> bytes | None:
        """What was found, drawn; None where the call's own box says it all."""
        if shown.marks is None or not shown.marks.found or not shown.marks.scenes:
            return None
        if len(shown.marks.scenes) > 1:
            return png(draw(shown.marks, self._store, max_side=MAX_ROW, text_px=15))
        return png(draw(shown.marks, self._store, max_side=MAX_SIDE, text_px=26))  # shown at a third of its size

    def _row_of(self, pictures: Sequence[MediaRef]) -> bytes:
        """A picture, or a clip's frames side by side."""
        shown = [self._small(picture)[0] for picture in pictures]
        height = max(pixels.shape[0] for pixels in shown)
        padded = [np.pad(p, ((0, height - p.shape[0]), (0, 6), (0, 0)), constant_values=255) for p in shown]
        return png(np.concatenate(padded, axis=1)[:, :-6])

    def _small(self, picture: MediaRef) -> tuple[NDArray[np.uint8], float]:
        from PIL import Image

        pixels = pixels_of(self._store, picture)
        scale = min(1.0, MAX_SIDE / max(pixels.shape[:2]))
        if scale == 1.0:
            return pixels, scale
        size = (round(pixels.shape[1] * scale), round(pixels.shape[0] * scale))
        return np.asarray(Image.fromarray(pixels).resize(size)), scale


def png(pixels: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _readable(observation: str) -> str:
    """An observation's text as a person reads it: the read text alone where that is all."""
    try:
        value = json.loads(observation) if observation else {}
    except ValueError:
        return observation
    return str(value["text"]) if isinstance(value, dict) and set(value) == {"text"} else observation
