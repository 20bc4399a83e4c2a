"""How well OCR and TEMP do where the truth is known: characters misread, moments found, receipts read.

Scenes come from actors/tasks/scenes at a level of difficulty; the tools are those of a workbench, called as a worker
calls them. The truth judges and says what is asked, and never answers: a track is given as a perfect tracker would
give it, or made by TRK from a box of one frame.
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.tasks.scenes.moving import draw_moving
from actors.tasks.scenes.page import draw_page
from actors.tasks.scenes.truth import LEVELS, Event, Moving, Written
from actors.tasks.scenes.truth import Track as TrueTrack
from actors.tools.arguments import parse
from actors.tools.catalogue import furnish, tool_named
from actors.tools.config import ToolsConfig
from actors.tools.ports import Reader, ReadLine, Workbench
from actors.tools.workspace import Track, Workspace
from common.geometry import GRID, area, intersection
from common.media import FolderMediaStore, decode_image
from common.scoring import levenshtein
from common.seeds import stream
from common.types import Box, Clip, Query

LEAST_PX = 16
"""Height of a capital letter from which the promise of `ocr_world_cer` holds."""
TRACK_EVENTS = ("enters", "leaves", "stops", "starts", "crosses")
MIN_SEEN = 0.5
"""Share of a thing that a frame shows at least to count as showing it."""

Span = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A call of TEMP and what is true. kind: what it asks for. spans: the true intervals in seconds."""

    kind: str
    arguments: dict[str, Any]
    spans: tuple[Span, ...]


# OCR


def measure_reading(num: int, level: str, seed: int, *, config: ToolsConfig | None = None) -> dict[str, float]:
    """Character error rates on `num` pages: edits / characters over all lines, by height of capitals and together.

    Keys: "cer" (lines of at least LEAST_PX), "cer_12", "cer_16", … (by height), "lines" (how many in "cer"), "found"
    (the share of them that was read at all).
    """
    counts: dict[int, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    with _bench(config or ToolsConfig(num_workers=0)) as bench:
        assert bench.reader is not None
        for index in range(num):
            page = draw_page(stream(seed, "bench", "page", level, index), LEVELS[level])
            for written, edits, found in judged(bench.reader.read(page.pixels), page.strings):
                count = counts[written.height_px]
                for at, value in enumerate((edits, len(written.text), 1, int(found))):
                    count[at] += value
    large = np.array([count for height, count in counts.items() if height >= LEAST_PX]).sum(axis=0)
    by_height = {f"cer_{height}": edits / length for height, (edits, length, _, _) in sorted(counts.items())}
    return {"cer": large[0] / large[1], **by_height, "lines": float(large[2]), "found": large[3] / large[2]}


def judged(lines: Sequence[ReadLine], strings: Sequence[Written]) -> list[tuple[Written, int, bool]]:
    """For each string that is written: the edits from what was read there to it, and whether anything was.

    A line that was read belongs to the string whose box it shares most with; a line that shares nothing with any is
    counted against the nearest, as insertions.
    """
    texts: list[list[str]] = [[] for _ in strings]
    for line in lines:
        texts[max(range(len(strings)), key=lambda index: _nearness(line.box, strings[index].box))].append(line.text)
    joined = [" ".join(text) for text in texts]
    return [
        (written, levenshtein(_plain(text), _plain(written.text)), bool(text))
        for written, text in zip(strings, joined, strict=True)
    ]


def _nearness(a: Box, b: Box) -> tuple[int, float]:
    """Shared pixels, then how near the middles are."""
    dx, dy = (a[0] + a[2] - b[0] - b[2]) / 2, (a[1] + a[3] - b[1] - b[3]) / 2
    return area(intersection(a, b)), -float(np.hypot(dx, dy))


def _plain(text: str) -> str:
    return " ".join(text.split())


# TEMP


def measure_moments(
    num: int, level: str, seed: int, *, tracked: bool = False, config: ToolsConfig | None = None
) -> dict[str, float]:
    """Mean temporal IoU of TEMP on `num` clips: of all questions ("iou"), and of each kind, with their numbers.

    Kinds: "turns" (a colour word), "shown" (a crop of something that is not always there), and events of tracks.
    tracked: tracks are made by TRK instead of given.
    """
    found: dict[str, list[float]] = defaultdict(list)
    with _bench(config or ToolsConfig(num_workers=0, ocr="none")) as bench:
        for index in range(num):
            clip = draw_moving(stream(seed, "bench", "clip", level, index), LEVELS[level])
            desk = _Desk(bench, clip)
            for asked in questions(clip, desk, tracked=tracked):
                answer = desk.call("TEMP", asked.arguments)["intervals"]
                spans = tuple((float(item["start_s"]), float(item["stop_s"])) for item in answer)
                found[asked.kind].append(temporal_iou(spans, asked.spans))
    values = [value for values in found.values() for value in values]
    means = {kind: float(np.mean(values)) for kind, values in sorted(found.items())}
    counts = {f"num_{kind}": float(len(values)) for kind, values in sorted(found.items())}
    return {"iou": float(np.mean(values)), **means, "num": float(len(values)), **counts}


def temporal_iou(found: Sequence[Span], true: Sequence[Span]) -> float:
    """Seconds in both over seconds in either, of two sets of half-open intervals; 1 where both are empty."""
    edges = sorted({value for span in (*found, *true) for value in span})
    shared = either = 0.0
    for start, stop in pairwise(edges):
        inside = [any(low <= start and stop <= high for low, high in spans) for spans in (found, true)]
        shared += (stop - start) * all(inside)
        either += (stop - start) * any(inside)
    return shared / either if either else 1.0


class _Desk:
    """One clip in a workspace, and tools called on it."""

    def __init__(self, bench: Workbench, clip: Moving) -> None:
        self._bench = bench
        frames = tuple(bench.keep(frame, compress=False) for frame in clip.frames)
        shown = Clip(frames=frames, times_s=clip.times_s, shown=(0,))
        self.workspace = Workspace.of(Query(query_id="clip", question="", clip=shown))

    def call(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        tool = tool_named(name)
        plan = tool.plan(parse(arguments, tool.arguments), self.workspace, self._bench.config)
        seen = tool.observe(plan, tool.run(plan.job, self._bench), self.workspace, self._bench.config)
        self.workspace = seen.workspace
        return seen.payload

    def give(self, track: TrueTrack, times_s: Sequence[float]) -> str:
        """A track as it truly is, by name."""
        boxes = tuple(box or (0, 0, 1, 1) for box in track.boxes)
        seen = tuple(box is not None for box in track.boxes)
        given = Track(start=0, boxes=boxes, visible=seen, times_s=tuple(times_s))
        name, self.workspace = self.workspace.with_track(given)
        return name


def questions(clip: Moving, desk: _Desk, *, tracked: bool) -> list[Asked]:
    """What can be asked about a clip's events, each kind once a thing."""
    asked = [] if tracked else [*_turns(clip), *_presences(clip, desk)]
    names: dict[int, tuple[str, float]] = {}
    groups: dict[tuple[str, int], list[Event]] = defaultdict(list)
    for event in clip.events:
        if event.kind in TRACK_EVENTS:
            groups[event.kind, event.thing].append(event)
    for (kind, thing), events in sorted(groups.items()):
        if thing not in names:
            names[thing] = _track(clip, desk, thing, tracked=tracked)
        name, since_s = names[thing]
        if min(event.start_s for event in events) < since_s:
            continue  # it had happened before there was a whole thing to track
        arguments: dict[str, Any] = {"track": name, "event": kind}
        if kind == "crosses":
            x = clip.line_x * GRID / clip.frames[0].shape[1]
            arguments["line"] = [x, 0, x, GRID]
        spans = tuple((event.start_s, event.stop_s) for event in events)
        asked.append(Asked(kind=kind, arguments=arguments, spans=spans))
    return asked


def _turns(clip: Moving) -> list[Asked]:
    return [
        Asked(kind="turns", arguments={"query": event.detail}, spans=((event.start_s, event.stop_s),))
        for event in clip.events
        if event.kind == "turns"
    ]


def _presences(clip: Moving, desk: _Desk) -> list[Asked]:
    """When what a crop shows is in the clip, of things that are not in all of it."""
    asked = []
    for track in clip.tracks:
        seen = np.array(track.visible) >= MIN_SEEN
        if seen.all() or not seen.any():
            continue
        best = int(np.argmax(track.visible))
        box = track.boxes[best]
        assert box is not None
        desk.call("ZOOM", {"image": f"frame_{best + 1}", "box": _on_grid(box, clip.frames[best])})
        name = f"image_{len(desk.workspace.images)}"
        edges = np.flatnonzero(np.diff(np.concatenate([[False], seen, [False]]))).reshape(-1, 2)
        ends = [*clip.times_s, len(clip.times_s) / clip.fps]
        spans = tuple((ends[first], ends[last]) for first, last in edges)
        asked.append(Asked(kind="shown", arguments={"query": name}, spans=spans))
    return asked


def _track(clip: Moving, desk: _Desk, thing: int, *, tracked: bool) -> tuple[str, float]:
    """A track of `thing` by name, and the second from which it can tell what happens."""
    truth = clip.tracks[thing - 1]
    if not tracked:
        return desk.give(truth, clip.times_s), 0.0
    first = int(np.argmax(np.array(truth.visible) >= 0.99))
    box = truth.boxes[first]
    assert box is not None
    frame = f"frame_{first + 1}"
    name = desk.call("TRK", {"box": _on_grid(box, clip.frames[first]), "frame": frame})["track"]
    return str(name), clip.times_s[first]


def _on_grid(box: Box, frame: NDArray[np.uint8]) -> list[float]:
    height, width = frame.shape[:2]
    return [value * GRID / side for value, side in zip(box, (width, height) * 2, strict=True)]


# Receipts


def measure_receipts(folder: Path, *, num: int | None = None, reader: Reader | None = None) -> dict[str, float]:
    """Shares of totals and dates that are read on receipts: `folder` holds img/*.jpg and key/*.json (SROIE's form).

    A total or a date counts as read when it stands in the text of the whole receipt, as the key has it; the key's
    sign of currency and its capital letters do not count.
    """
    if reader is None:
        with _bench(ToolsConfig(num_workers=0)) as bench:
            return measure_receipts(folder, num=num, reader=bench.reader)
    totals, dates = [], []
    for path in sorted((folder / "img").glob("*.jpg"))[:num]:
        key = json.loads((folder / "key" / f"{path.stem}.json").read_text())
        text = "\n".join(line.text for line in reader.read(decode_image(path.read_bytes(), name=path.name))).upper()
        totals.append(key["total"].upper().strip("$RM ") in text)
        dates.append(key["date"].upper() in text)
    return {"totals": float(np.mean(totals)), "dates": float(np.mean(dates)), "num": float(len(totals))}


@contextmanager
def _bench(config: ToolsConfig) -> Iterator[Workbench]:
    """The configured back ends over a store of their own."""
    with tempfile.TemporaryDirectory(prefix="pixelis-bench-") as folder:
        yield furnish(config, FolderMediaStore(Path(folder)))
