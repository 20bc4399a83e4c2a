"""How well the tools see, as figures: scenes of every level, with promises for the medium one, and real pictures where
there are any beside the project (../shared/data).

One process of its own with one thread measures, as a worker would. `pixelis bench tools` measures few scenes;
`python -m cluster.benchmarks.perception` measures more of them and every receipt.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.tools.nursery import ONE_THREAD
from actors.tools.worker import single_thread
from cluster.benchmarks.harness import Figure, single

if TYPE_CHECKING:
    from actors.tools.config import ToolsConfig
    from cluster.progress import Progress

LEVELS = ("medium", "easy", "hard")
NUM_STILLS, NUM_CLIPS, NUM_PAGES, NUM_MOMENTS, NUM_RECEIPTS = 16, 6, 6, 4, 4
"""Scenes of the medium level, and receipts, that are measured in a minute or two; half as many of the other levels."""
FULL = 3
"""How many times as many scenes the long form measures, of every level."""
PROMISES = {"seg_world_iou": 0.85, "track_world_iou": 0.75, "temp_world_iou": 0.7, "ocr_world_cer": 0.05}
"""For the medium level; the character error rate at most, the others at least."""
DATA = Path(__file__).parents[3] / "shared" / "data"

Means = dict[str, float]


def perception_figures(config: ToolsConfig, progress: Progress, *, full: bool = False) -> list[Figure]:
    """SEG, TRK, OCR and TEMP on every level, then real masks and receipts."""
    work: list[tuple[str, Callable[..., Means], tuple[Any, ...]]] = []
    for level in LEVELS:
        times = FULL if full else 1 if level == "medium" else 0.5
        work += [
            (level, _segments, (config, level, times)),
            (level, _tracks, (config, level, times)),
            (level, _reading, (config, level, times)),
            (level, _moments, (config, level, times)),
        ]
    if DATA.is_dir():
        work += [("real", _real_masks, (config,)), ("real", _receipts, (None if full else NUM_RECEIPTS,))]
    progress.start("bench tools: what they see", len(work))
    os.environ.update(ONE_THREAD)  # the child inherits it
    figures: list[Figure] = []
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=single_thread) as process:
        for number, (level, function, arguments) in enumerate(work, 1):
            means = process.submit(function, *arguments).result()
            figures += [_figure(name, value, level) for name, value in means.items()]
            progress.update(number, scenes=level)
    return figures


def _figure(name: str, value: float, level: str) -> Figure:
    lower = name.endswith(("_cer", "_ms"))
    return single(
        name if level in ("medium", "real") else f"{name}_{level}",
        [value],
        unit="ms" if name.endswith("_ms") else "",
        target=PROMISES.get(name) if level == "medium" else None,
        better="lower" if lower else "higher",
    )


def _segments(config: ToolsConfig, level: str, times: float) -> Means:
    from actors.tools.backends.segmenters import build_segmenter
    from cluster.benchmarks.perception_segments import measure_segments

    found = measure_segments(build_segmenter(config), num=round(times * NUM_STILLS), level=level)
    return {
        "seg_world_iou": found["box_iou"],
        "seg_world_points_iou": found["points_iou"],
        "seg_world_point_iou": found["point_iou"],
        "seg_world_call_ms": found["call_ms"],
    }


def _tracks(config: ToolsConfig, level: str, times: float) -> Means:
    from actors.tools.backends.trackers import build_tracker
    from cluster.benchmarks.perception_segments import measure_tracks

    found = measure_tracks(build_tracker(config), num=round(times * NUM_CLIPS), level=level)
    return {
        "track_world_iou": found["box_iou"],
        "track_world_hota": found["hota"],
        "track_world_visible": found["visible"],
        "track_world_frame_ms": found["frame_ms"],
    }


def _reading(config: ToolsConfig, level: str, times: float) -> Means:
    from cluster.benchmarks.perception_reading import measure_reading

    found = measure_reading(round(times * NUM_PAGES), level, 0, config=config)
    return {"ocr_world_cer": found["cer"], "ocr_world_found": found["found"]}


def _moments(config: ToolsConfig, level: str, times: float) -> Means:
    from cluster.benchmarks.perception_reading import measure_moments

    given = measure_moments(round(times * NUM_MOMENTS), level, 0, config=config)
    tracked = measure_moments(round(times * NUM_MOMENTS), level, 0, config=config, tracked=True)
    return {"temp_world_iou": given["iou"], "temp_world_tracked_iou": tracked["iou"]}


def _real_masks(config: ToolsConfig) -> Means:
    from actors.tools.backends.segmenters import build_segmenter
    from cluster.benchmarks.perception_segments import measure_real_masks

    return {"seg_real_iou": measure_real_masks(build_segmenter(config), DATA / "judo_masks")["mean_iou"]}


def _receipts(num: int | None) -> Means:
    from cluster.benchmarks.perception_reading import measure_receipts

    found = measure_receipts(DATA / "sroie", num=num)
    return {"ocr_receipt_totals": found["totals"], "ocr_receipt_dates": found["dates"]}


def main() -> None:
    """The long form: every figure of `perception_figures`, one JSON object a line."""
    from actors.tools.config import ToolsConfig
    from cluster.progress import make_progress

    for figure in perception_figures(ToolsConfig(num_workers=1), make_progress(), full=True):
        print(json.dumps({"name": figure.name, "value": figure.value, "target": figure.target}))


if __name__ == "__main__":
    main()
