"""SEG: its arguments, and what the classical segmenter makes of things whose truth is known."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from fakes.tools import clip_of, plates
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.tools.arguments import parse
from actors.tools.backends.classical_segmenter import ClassicalSegmenter
from actors.tools.backends.classical_tracker import ClassicalTracker
from actors.tools.backends.masks import mask_iou
from actors.tools.config import ToolsConfig
from actors.tools.errors import ToolError
from actors.tools.ports import Prompt, Workbench
from actors.tools.segment import Segment
from actors.tools.workspace import Workspace
from cluster.benchmarks.perception_segments import measure_real_masks, measure_segments
from common.media import FolderMediaStore, pixels_of, put_image
from common.types import Query

CONFIG = ToolsConfig(num_workers=0, ocr="none")
SEGMENTER = ClassicalSegmenter()
RED, BLUE, GREY = (220, 40, 40), (50, 80, 220), (200, 200, 200)
JUDO = Path(os.environ.get("PIXELIS_SHARED_DATA", Path(__file__).parents[2] / "shared/data")) / "judo_masks"


def canvas(*parts, size=(200, 200)):
    """A grey picture with (mask, colour) laid on it in order."""
    pixels = np.full((*size, 3), GREY, np.uint8)
    for mask, colour in parts:
        pixels[mask] = colour
    return pixels


def disc(x, y, radius, size=(200, 200)):
    rows, columns = np.mgrid[: size[0], : size[1]]
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


def bench_in(folder):
    store = FolderMediaStore(folder)
    bench = Workbench(config=CONFIG, store=store, reader=None, segmenter=SEGMENTER, tracker=ClassicalTracker(SEGMENTER))
    return store, bench


def plan(workspace, **arguments):
    tool = Segment()
    return tool.plan(parse(arguments, tool.arguments), workspace, CONFIG)


# Arguments


def test_a_point_alone_means_the_first_image_or_the_first_frame(tmp_path):
    store = FolderMediaStore(tmp_path)
    ref = put_image(store, plates(0).pixels)
    query = Query(query_id="q", question="?", images=(ref,))
    assert plan(Workspace.of(query), point=[500, 500]).job.options == {"points": ((224, 224),)}
    clip = clip_of(store, [plates(1).pixels, plates(2).pixels])
    assert plan(Workspace.of(clip), point=[500, 500]).source == clip.clip.frames[0]
    with pytest.raises(ToolError, match="unknown_reference"):
        plan(Workspace(), point=[500, 500])


def test_box_points_and_negative_points_go_together_and_the_footprint_is_what_was_marked(tmp_path):
    ref = put_image(FolderMediaStore(tmp_path), plates(0).pixels)
    workspace = Workspace.of(Query(query_id="q", question="?", images=(ref,)))
    whole = plan(workspace, image="image_1", box=[0, 0, 500, 500], point=[100, 100], negative=[[900, 900]])
    assert whole.job.options == {"box": (0, 0, 224, 224), "points": ((44, 44),), "negative": ((403, 403),)}
    assert whole.footprint == (0, 0, 224, 224)
    several = plan(workspace, points=[[100, 100], [200, 300]])
    assert several.footprint == (44, 44, 90, 135)
    for arguments in ({}, {"negative": [[10, 10]]}):
        with pytest.raises(ToolError, match="bad_argument"):
            plan(workspace, **arguments)


def test_segmenting_together_gives_what_segmenting_alone_gives(tmp_path):
    store, bench = bench_in(tmp_path)
    scene = plates(0)
    workspace = Workspace.of(Query(query_id="q", question="?", images=(put_image(store, scene.pixels),)))
    jobs = [plan(workspace, box=[value * 1000 / 448 for value in box]).job for box in scene.boxes]
    tool = Segment()
    together = tool.run_many(jobs, bench)
    assert together == [tool.run(job, bench) for job in jobs]
    seen = tool.observe(plan(workspace, box=[0, 0, 500, 500]), together[0], workspace, CONFIG)
    assert set(json.loads(json.dumps(seen.payload))) == {"area", "box", "mask", "score"}
    kept = pixels_of(store, seen.workspace.mask("mask_1").ref)[..., 0] > 127
    assert kept.sum() == seen.payload["area"]


# The classical segmenter


def test_what_covers_a_thing_is_left_out_of_its_mask():
    thing, cover = disc(100, 100, 50), np.zeros((200, 200), bool)
    cover[110:190, 120:170] = True
    pixels = canvas((thing, RED), (cover, BLUE))
    found = SEGMENTER.segment(pixels, Prompt(box=(48, 51, 152, 149)))
    assert mask_iou(found.mask, thing & ~cover) > 0.95 and found.score > 0.9


def test_a_thing_of_the_same_colour_beside_the_box_stays_outside():
    thing, kin = disc(80, 100, 40), disc(165, 100, 30)
    found = SEGMENTER.segment(canvas((thing, RED), (kin, RED)), Prompt(box=(38, 58, 122, 143)))
    assert mask_iou(found.mask, thing) > 0.97


def test_the_hole_of_a_ring_is_not_the_ring():
    ring = disc(100, 100, 60) & ~disc(100, 100, 30)
    for prompt in (Prompt(box=(39, 41, 162, 160)), Prompt(points=((100, 55),))):
        assert mask_iou(SEGMENTER.segment(canvas((ring, RED)), prompt).mask, ring) > 0.97


def test_small_print_on_a_thing_belongs_to_it_and_a_point_off_it_keeps_its_neighbour_out():
    thing = disc(70, 100, 40)
    neighbour = np.zeros((200, 200), bool)
    neighbour[80:120, 108:180] = True
    pixels = canvas((thing, RED), (neighbour, (200, 60, 50)))
    pixels[98:102, 60:64] = 0
    alone = SEGMENTER.segment(pixels, Prompt(points=((80, 90),))).mask
    told = SEGMENTER.segment(pixels, Prompt(points=((80, 90),), negative=((150, 100),))).mask
    assert mask_iou(told, thing | (neighbour & thing)) > 0.85 > mask_iou(alone, thing)
    assert told[100, 62] and not told[100, 150]


def test_a_large_picture_gives_the_mask_of_the_small_one_enlarged():
    thing = disc(100, 100, 50)
    pixels = canvas((thing, BLUE))
    large = np.repeat(np.repeat(pixels, 6, axis=0), 6, axis=1)
    mask = SEGMENTER.segment(large, Prompt(box=(294, 294, 912, 906))).mask
    assert mask.shape == (1200, 1200)
    assert mask_iou(mask, np.repeat(np.repeat(thing, 6, axis=0), 6, axis=1)) > 0.97


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_prompt_in_any_picture_gives_a_mask_that_is_not_empty_and_the_same_again(data):
    height, width = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))
    pixels = np.random.default_rng(data.draw(st.integers(0, 99))).integers(0, 255, (height, width, 3), np.uint8)
    if data.draw(st.booleans()):
        pixels[:] = pixels[0, 0]
    point = st.tuples(st.integers(0, width - 1), st.integers(0, height - 1))
    corners = data.draw(st.tuples(point, point))
    x0, x1 = sorted(corner[0] for corner in corners)
    y0, y1 = sorted(corner[1] for corner in corners)
    box = data.draw(st.sampled_from([None, (x0, y0, x1 + 1, y1 + 1)]))
    points = tuple(data.draw(st.lists(point, min_size=0 if box else 1, max_size=3)))
    prompt = Prompt(box=box, points=points, negative=tuple(data.draw(st.lists(point, max_size=3))))
    found, again = (SEGMENTER.segment(pixels, prompt) for _ in range(2))
    assert found.mask.shape == (height, width) and found.mask.any() and 0 <= found.score <= 1
    assert np.array_equal(found.mask, again.mask)


def test_a_box_in_the_corner_of_a_tiny_picture_is_its_own_mask():
    pixels = np.random.default_rng(0).integers(0, 255, (3, 3, 3), np.uint8)
    found = SEGMENTER.segment(pixels, Prompt(box=(0, 0, 1, 1)))
    assert found.mask.any()


# Measured


def test_medium_scenes_are_segmented_from_boxes_and_from_points():
    found = measure_segments(SEGMENTER, num=6, level="medium", seed=1)
    assert found["box_iou"] > 0.85 and found["points_iou"] > 0.85 and found["point_iou"] > 0.85


@pytest.mark.skipif(not JUDO.is_dir(), reason=f"the real masks are not in {JUDO}")
def test_real_masks_are_overlapped_by_three_quarters():
    assert measure_real_masks(SEGMENTER, JUDO)["mean_iou"] > 0.75
