"""What is drawn of a call: every tool's finding, from the real toolbox, in the pixels where it was found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.tools import PALETTE, clip_of, plates
from numpy.typing import NDArray

from actors.marks import Marks, marks_of
from actors.tools.config import ToolsConfig
from actors.tools.toolbox import build_toolbox
from cluster.overlay import BLUE, PINK, draw, stacked, tinted
from common.media import FolderMediaStore, put_image
from common.types import Observation, Query, ToolCall

SCENE = plates(0)
BOX = [value * 1000 / 448 for value in SCENE.boxes[0]]


async def marked(store: FolderMediaStore, query: Query, *calls: tuple[str, dict[str, Any]]) -> Marks:
    """The marks of the last call."""
    toolbox = build_toolbox(ToolsConfig(num_workers=0, ocr="none"), store.root)
    workspace = toolbox.open(query)
    for name, arguments in calls:
        done, workspace = await toolbox.execute(ToolCall(name=name, arguments=arguments), workspace)
        assert done.observation.error is None, done.observation.text
    await toolbox.close()
    return marks_of(done, workspace)


def asked(store: FolderMediaStore) -> Query:
    return Query(query_id="q", question="?", images=(put_image(store, SCENE.pixels),))


def share(drawn: NDArray[np.uint8], colour: tuple[int, int, int], box: tuple[int, int, int, int]) -> float:
    """The share of a box's pixels that have exactly this colour."""
    x0, y0, x1, y1 = box
    return float((drawn[y0:y1, x0:x1] == colour).all(axis=2).mean())


async def test_a_zoom_is_a_blue_box_where_it_looked(tmp_path: Path) -> None:
    store = FolderMediaStore(tmp_path)
    marks = await marked(store, asked(store), ("ZOOM", {"image": "image_1", "box": BOX}))
    drawn = draw(marks, store, max_side=448)
    x0, y0, x1, y1 = SCENE.boxes[0]
    assert not marks.found and drawn.shape == SCENE.pixels.shape
    assert (drawn[y0, x0:x1] == BLUE).all() and (drawn[y0:y1, x0] == BLUE).all()


async def test_a_mask_is_tinted_where_it_lies(tmp_path: Path) -> None:
    store = FolderMediaStore(tmp_path)
    marks = await marked(store, asked(store), ("SEG", {"image": "image_1", "box": BOX}))
    drawn = draw(marks, store, max_side=448)
    x0, y0, _x1, y1 = SCENE.boxes[0]
    wanted = np.array(PALETTE[SCENE.colours[0]]) * 0.55 + np.array(PINK) * 0.45
    inside = drawn[y0 + 5 : y1 - 5, x0 + 3 : x0 + 7].reshape(-1, 3)
    assert marks.found and np.abs(inside - wanted).max() <= 2


async def test_a_measured_mask_and_a_comparison_are_drawn(tmp_path: Path) -> None:
    store = FolderMediaStore(tmp_path)
    segment = ("SEG", {"image": "image_1", "box": BOX})
    marks = await marked(store, asked(store), segment, ("PROP", {"mask": "mask_1"}))
    (scene,) = marks.scenes
    assert len(scene.masks) == 1 and SCENE.colours[0] in scene.labels[0].text
    other = [value * 1000 / 448 for value in SCENE.boxes[1]]
    compared = {"image": "image_1", "box": BOX, "other": "image_1", "other_box": other}
    marks = await marked(store, asked(store), ("PROP", compared))
    (scene,) = marks.scenes
    assert scene.asked == SCENE.boxes[0] and scene.labels[0].box == SCENE.boxes[1]


async def test_a_track_is_a_row_of_frames_with_its_box_in_each(tmp_path: Path) -> None:
    store = FolderMediaStore(tmp_path)
    moved = [np.roll(SCENE.pixels, 6 * i, axis=1) for i in range(4)]
    marks = await marked(store, clip_of(store, moved), ("TRK", {"box": BOX}))
    assert [scene.caption for scene in marks.scenes] == ["frame_1 0.0s", "frame_2 0.5s", "frame_3 1.0s", "frame_4 1.5s"]
    drawn = draw(marks, store, max_side=4 * 448 + 24)
    for number, scene in enumerate(marks.scenes):
        x0, y0, x1, _ = scene.labels[0].box
        assert x0 == pytest.approx(SCENE.boxes[0][0] + 6 * number, abs=3)
        left = number * (448 + 8)
        assert share(drawn, PINK, (left + x0 + 2, y0, left + x1 - 2, y0 + 1)) > 0.9


async def test_moments_are_a_bar_as_wide_as_the_frames_above_it(tmp_path: Path) -> None:
    store = FolderMediaStore(tmp_path)
    frames = [np.full((64, 64, 3), PALETTE["red"] if 2 <= i < 6 else (128, 128, 128), np.uint8) for i in range(8)]
    marks = await marked(store, clip_of(store, frames, step_s=1.0), ("TEMP", {"query": "red"}))
    assert marks.span_s == (0.0, 8.0)
    assert [(item.start_s, item.stop_s) for item in marks.intervals] == [(2.0, 6.0)]
    drawn = draw(marks, store, max_side=256, text_px=13)
    bar = drawn[-(8 + 14 + 13 + 8) :][15]
    filled = np.flatnonzero((bar == PINK).all(axis=1)) / (len(bar) - 9)
    assert filled.min() == pytest.approx(2 / 8, abs=0.03) and filled.max() == pytest.approx(6 / 8, abs=0.03)


async def test_an_error_is_drawn_as_the_place_it_was_about_or_not_at_all(tmp_path: Path) -> None:
    store = FolderMediaStore(tmp_path)
    toolbox = build_toolbox(ToolsConfig(num_workers=0, ocr="none"), store.root)
    workspace = toolbox.open(asked(store))
    unread, workspace = await toolbox.execute(
        ToolCall(name="OCR", arguments={"image": "image_1", "box": BOX}), workspace
    )
    unknown, workspace = await toolbox.execute(ToolCall(name="JUMP", arguments={}), workspace)
    assert unread.observation.error == "unavailable"
    assert marks_of(unread, workspace).scenes[0].asked == SCENE.boxes[0]
    assert marks_of(unknown, workspace) == Marks()
    with pytest.raises(ValueError, match="nothing to draw"):
        draw(Marks(), store, max_side=100)


async def test_lines_that_were_read_are_boxes_with_their_text(tmp_path: Path) -> None:
    from dataclasses import replace

    store = FolderMediaStore(tmp_path)
    toolbox = build_toolbox(ToolsConfig(num_workers=0, ocr="none"), store.root)
    workspace = toolbox.open(asked(store))
    done, workspace = await toolbox.execute(ToolCall(name="OCR", arguments={"image": "image_1"}), workspace)
    line = {"text": SCENE.codes[0], "confidence": 0.9, "box": BOX}
    read = Observation(text=json.dumps({"text": SCENE.codes[0], "lines": [line]}))
    (scene,) = marks_of(replace(done, observation=read), workspace).scenes
    assert [(label.box, label.text) for label in scene.labels] == [(SCENE.boxes[0], SCENE.codes[0])]


def test_a_mask_colours_its_own_pixels_only() -> None:
    picture = np.full((4, 6, 3), 100, np.uint8)
    mask = np.zeros((4, 6), bool)
    mask[:, 2:5] = True
    painted = tinted(picture, mask, (200, 0, 0))
    assert (painted[~mask] == 100).all()
    assert (painted[1:3, 3] == (145, 55, 55)).all() and (painted[:, [2, 4]] == (200, 0, 0)).all()


def test_sheets_stand_below_each_other() -> None:
    page = stacked([np.zeros((3, 5, 3), np.uint8), np.ones((4, 2, 3), np.uint8)])
    assert page.shape == (3 + 8 + 4, 5, 3) and (page[11:, :2] == 1).all()
