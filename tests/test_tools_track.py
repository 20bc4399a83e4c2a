"""TRK: its arguments, and how the classical tracker keeps to things that turn, grow, hide and meet their like."""

from dataclasses import replace

import numpy as np
import pytest
from fakes.tools import clip_of

from actors.tools.arguments import parse
from actors.tools.backends.classical_segmenter import ClassicalSegmenter
from actors.tools.backends.classical_tracker import ClassicalTracker
from actors.tools.backends.masks import extent, mask_iou
from actors.tools.config import ToolsConfig
from actors.tools.errors import ToolError
from actors.tools.ports import Prompt, Workbench
from actors.tools.segment import Segment
from actors.tools.track import Follow
from actors.tools.workspace import Workspace
from cluster.benchmarks.perception_segments import measure_tracks
from common.geometry import covers, iou
from common.media import FolderMediaStore, pixels_of

CONFIG = ToolsConfig(num_workers=0, ocr="none", max_frames=12)
TRACKER = ClassicalTracker(ClassicalSegmenter())
RED, BLUE, GREY = (220, 40, 40), (50, 80, 220), (200, 200, 200)


def film(num_frames, place, *, cover=None, size=(120, 240), radii=lambda index: (18, 12)):
    """A red ellipse at `place(index)` on grey, a blue bar over `cover` columns; frames and what is seen of it."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    frames, masks = [], []
    for index in range(num_frames):
        (x, y), (across, down) = place(index), radii(index)
        mask = ((columns - x) / across) ** 2 + ((rows - y) / down) ** 2 <= 1
        frame = np.full((*size, 3), GREY, np.uint8)
        frame[mask] = RED
        if cover is not None:
            frame[:, cover[0] : cover[1]] = BLUE
            mask = mask & ~((columns >= cover[0]) & (columns < cover[1]))
        frames.append(frame)
        masks.append(mask)
    return frames, masks


def along(index):
    return 30 + 8 * index, 50 + index


@pytest.fixture
def clip(tmp_path):
    frames, masks = film(10, along)
    store = FolderMediaStore(tmp_path)
    query = clip_of(store, frames)
    bench = Workbench(config=CONFIG, store=store, reader=None, segmenter=ClassicalSegmenter(), tracker=TRACKER)
    return store, bench, Workspace.of(query), masks


def plan(workspace, **arguments):
    tool = Follow()
    return tool.plan(parse(arguments, tool.arguments), workspace, CONFIG)


async def test_a_mask_of_seg_seeds_a_track_and_its_masks_are_kept(clip):
    store, bench, workspace, masks = clip
    seg, trk = Segment(), Follow()
    asked = seg.plan(parse({"image": "frame_3", "point": [192, 433]}, seg.arguments), workspace, CONFIG)
    workspace = seg.observe(asked, seg.run(asked.job, bench), workspace, CONFIG).workspace
    followed = plan(workspace, mask="mask_1")
    assert followed.job.options["start"] == 2 and len(followed.job.pictures) == 9
    result = trk.run(followed.job, bench)
    assert len(result.pictures) == 8 and result.media == result.pictures
    seen = trk.observe(followed, result, workspace, CONFIG)
    track = seen.workspace.track("track_1")
    assert track.start == 2 and len(track.masks) == len(track.boxes) == 8
    for ref, truth in zip(track.masks, masks[2:], strict=True):
        assert mask_iou(pixels_of(store, ref)[..., 0] > 127, truth) > 0.9


def test_what_marks_a_thing_for_trk_is_checked(clip):
    _, _, workspace, _ = clip
    assert plan(workspace, point=[125, 416]).job.options["points"] == ((30, 49),)
    assert plan(workspace, box=[0, 0, 500, 500], frame="frame_2", stop="frame_4").job.options["start"] == 1
    for arguments in ({}, {"negative": [[1, 1]]}, {"box": [0, 0, 9, 9], "frame": "frame_4", "stop": "frame_2"}):
        with pytest.raises(ToolError, match="bad_argument"):
            plan(workspace, **arguments)
    with pytest.raises(ToolError, match="unknown_reference"):
        plan(workspace, mask="mask_1")


def test_a_mask_of_another_picture_cannot_be_followed(clip, tmp_path):
    _, bench, workspace, _ = clip
    seg = Segment()
    asked = seg.plan(parse({"image": "frame_3", "point": [192, 433]}, seg.arguments), workspace, CONFIG)
    workspace = seg.observe(asked, seg.run(asked.job, bench), workspace, CONFIG).workspace
    with pytest.raises(ToolError, match="not of frame_1"):
        plan(workspace, mask="mask_1", frame="frame_1")
    with pytest.raises(ToolError, match="either mask"):
        plan(workspace, mask="mask_1", box=[0, 0, 500, 500])


def test_a_clip_whose_frames_differ_in_size_is_refused(tmp_path):
    frames = [np.zeros((20, 20, 3), np.uint8), np.zeros((20, 30, 3), np.uint8)]
    workspace = Workspace.of(clip_of(FolderMediaStore(tmp_path), frames))
    with pytest.raises(ToolError, match="bad_media"):
        plan(workspace, box=[0, 0, 500, 500])


# The classical tracker


def test_box_points_and_mask_lead_to_the_same_track():
    frames, masks = film(8, along)
    x, y = along(0)
    for seed in (Prompt(box=extent(masks[0])), Prompt(points=((x, y),)), Prompt(mask=masks[0])):
        found = list(TRACKER.track(frames, seed))
        assert all(sighting.visible for sighting in found)
        assert np.mean([mask_iou(it.mask, truth) for it, truth in zip(found, masks, strict=True)]) > 0.95


def test_a_thing_behind_a_bar_is_hidden_and_found_again_with_its_box():
    frames, masks = film(22, along, cover=(90, 140))
    found = list(TRACKER.track(frames, Prompt(box=extent(masks[0]))))
    for sighting, truth in zip(found, masks, strict=True):
        if not truth.any():
            assert not sighting.visible and sighting.mask is None
        elif truth.sum() > 150:
            assert sighting.visible and iou(sighting.box, extent(truth)) > 0.8
    assert any(not truth.any() for truth in masks) and found[-1].visible


def test_a_thing_that_grows_keeps_its_outline():
    frames, masks = film(14, along, radii=lambda index: (14 * 1.03**index, 10 * 1.03**index))
    found = list(TRACKER.track(frames, Prompt(box=extent(masks[0]))))
    overlaps = [mask_iou(it.mask, truth) for it, truth in zip(found, masks, strict=True)]
    assert min(overlaps) > 0.75 and np.mean(overlaps) > 0.85


def test_a_thing_that_leaves_for_good_stays_hidden():
    frames, masks = film(24, lambda index: (150 + 8 * index, 60))
    found = list(TRACKER.track(frames, Prompt(box=extent(masks[0]))))
    for sighting, truth in zip(found, masks, strict=True):
        assert sighting.visible or truth.sum() < 100
        assert not sighting.visible or truth.any()
    assert not found[-1].visible
    height, width = masks[0].shape
    for sighting in found:
        x0, y0, x1, y1 = sighting.box
        assert 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height


def test_frames_are_read_in_order_and_what_is_remembered_does_not_grow():
    frames, masks = film(12, along)

    class Reel:
        def __init__(self):
            self.asked = []

        def __len__(self):
            return len(frames)

        def __getitem__(self, index):
            self.asked.append(index)
            return frames[index]

    reel = Reel()
    sightings = TRACKER.track(reel, Prompt(mask=masks[0]))
    for index, _ in enumerate(sightings):
        assert max(reel.asked) <= index
    assert reel.asked == sorted(reel.asked)


def test_a_track_is_the_same_each_time():
    frames, masks = film(10, along, cover=(90, 140))
    first, again = (list(TRACKER.track(frames, Prompt(box=extent(masks[0])))) for _ in range(2))
    assert [(it.box, it.visible) for it in first] == [(it.box, it.visible) for it in again]


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (3, 2)])
def test_tiny_frames_are_tracked_without_a_crash(size):
    frames = [np.full((*size, 3), value, np.uint8) for value in (10, 90, 20)]
    found = list(TRACKER.track(frames, Prompt(box=(0, 0, size[1], size[0]))))
    assert len(found) == 3


# Measured


def test_medium_clips_are_followed():
    found = measure_tracks(TRACKER, num=3, level="medium", seed=1)
    assert found["box_iou"] > 0.75 and found["mask_iou"] > 0.75 and found["hota"] > 0.7 and found["visible"] > 0.9


def test_boxes_on_a_coarser_grid_cover_the_finer_ones(clip):
    _, bench, workspace, _ = clip
    coarse = replace(CONFIG, grid_step=50)
    for tool, arguments in (
        (Segment(), {"image": "frame_1", "point": [125, 417]}),
        (Follow(), {"frame": "frame_1", "point": [125, 417]}),
    ):
        asked = tool.plan(parse(arguments, tool.arguments), workspace, CONFIG)
        result = tool.run(asked.job, bench)
        fine, wide = (tool.observe(asked, result, workspace, config).payload for config in (CONFIG, coarse))
        pairs = [(fine["box"], wide["box"])] if "box" in fine else zip(*map(values, (fine, wide)), strict=True)
        for inner, outer in pairs:
            assert covers(outer, inner) and not any(value % 50 for value in outer)
            assert max(abs(a - b) for a, b in zip(inner, outer, strict=True)) < 50


def values(payload):
    return payload["boxes"].values()
