"""PROP against brute force: of regions, of tracks, and of two things."""

import math
from itertools import product

import numpy as np
import pytest
from fakes.desk import Desk
from fakes.tools import PALETTE
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from actors.tools.errors import ToolError
from actors.tools.relations import filled, gap, offset, relate, relation
from actors.tools.workspace import Picture

regions = arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))).filter(lambda region: region.any())


@st.composite
def pairs(draw):
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    one = arrays(bool, shape).filter(lambda region: region.any())
    return draw(one), draw(one)


@pytest.fixture
def desk(tmp_path):
    return Desk(tmp_path)


# Two regions, by brute force


def squares_apart(first, second, sx=1.0, sy=1.0):
    """The smallest distance between unit squares of two sets of pixels, pair by pair."""
    return min(
        math.hypot(sx * max(0, abs(x - u) - 1), sy * max(0, abs(y - v) - 1))
        for (y, x), (v, u) in product(np.argwhere(first), np.argwhere(second))
    )


def flooded(region):
    """What cannot be reached from outside through sides of pixels, by a flood fill pixel by pixel."""
    padded = np.pad(region, 1)
    reached, todo = set(), [(0, 0)]
    while todo:
        y, x = todo.pop()
        if (y, x) in reached or not (0 <= y < padded.shape[0] and 0 <= x < padded.shape[1]) or padded[y, x]:
            continue
        reached.add((y, x))
        todo += [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
    outside = np.zeros_like(padded)
    for place in reached:
        outside[place] = True
    return ~outside[1:-1, 1:-1]


@settings(max_examples=200, deadline=None)
@given(pairs(), st.floats(0.1, 20), st.floats(0.1, 20))
def test_the_gap_is_the_smallest_of_all_pairs_on_any_grid(pair, sx, sy):
    first, second = pair
    assert gap(first, second) == pytest.approx(squares_apart(first, second), abs=1e-9)
    assert gap(first, second, scale=(sx, sy)) == pytest.approx(squares_apart(first, second, sx, sy), abs=1e-9)


@settings(max_examples=200, deadline=None)
@given(regions)
def test_holes_are_what_a_flood_from_outside_does_not_reach(region):
    assert np.array_equal(filled(region), flooded(region))


OPPOSITE = {
    "left of": "right of",
    "right of": "left of",
    "above": "below",
    "below": "above",
    "overlaps": "overlaps",
    "amid": "amid",
}


@settings(max_examples=200, deadline=None)
@given(pairs())
def test_relations_turn_round_with_their_regions(pair):
    first, second = pair
    there, back = relate(first, second), relate(second, first)
    for key in ("iou", "distance", "distance_grid", "gap", "gap_grid"):
        assert there[key] == back[key]
    if there["relation"] in OPPOSITE:
        assert back["relation"] == OPPOSITE[there["relation"]]
    else:
        assert back["relation"] in ("inside", "contains")
    assert (there["iou"] > 0) == bool((first & second).any()) or there["iou"] == 0


@settings(max_examples=100, deadline=None)
@given(pairs())
def test_a_picture_on_its_side_swaps_left_with_above(pair):
    first, second = pair
    turned = relation(first.T, second.T)
    swapped = {"left of": "above", "right of": "below", "above": "left of", "below": "right of"}
    found = relation(first, second)
    dx, dy = offset(first, second)
    if found in swapped and abs(dx) != abs(dy):
        assert turned == swapped[found]


def box(x0, y0, x1, y1, shape=(40, 60)):
    region = np.zeros(shape, bool)
    region[y0:y1, x0:x1] = True
    return region


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (box(0, 0, 5, 5), box(10, 1, 15, 6), "left of"),
        (box(10, 1, 15, 6), box(0, 0, 5, 5), "right of"),
        (box(0, 0, 60, 3), box(50, 10, 60, 20), "above"),  # beside its middle, yet wholly above
        (box(50, 10, 60, 20), box(0, 0, 60, 3), "below"),
        (box(5, 5, 8, 8), box(0, 0, 20, 20), "inside"),
        (box(0, 0, 20, 20), box(5, 5, 8, 8), "contains"),
        (box(5, 5, 8, 8), box(0, 0, 20, 20) & ~box(4, 4, 9, 9), "inside"),  # in the hole of a ring
        (box(0, 0, 10, 10), box(5, 5, 15, 15), "overlaps"),
    ],
)
def test_relations_in_words(first, second, words):
    assert relation(first, second) == words


def test_distances_of_two_boxes_are_those_of_pencil_and_paper(desk):
    desk.show(np.zeros((40, 60, 3), np.uint8))
    found = desk.call(
        "PROP",
        image="image_1",
        box=[0, 0, 10 * 1000 / 60, 250],
        other="image_1",
        other_box=[13 * 1000 / 60, 350, 300, 500],
    )
    # [0, 10)² and [13, 18) × [14, 20): centres (5, 5) and (15.5, 17); nearest corners (10, 10) and (13, 14)
    assert found["distance"] == round(math.hypot(10.5, 12), 1) and found["gap"] == 5.0
    assert found["gap_grid"] == round(math.hypot(3 * 1000 / 60, 4 * 1000 / 40), 1)
    assert found["iou"] == 0 and found["relation"] == "above"


def test_a_mask_is_compared_with_a_crop_of_its_picture(desk):
    desk.show(np.zeros((100, 100, 3), np.uint8))
    mask = np.zeros((100, 100), bool)
    mask[10:30, 10:30] = True
    name = desk.add_mask(mask)
    crop = Picture(ref=desk.workspace.images[0].ref, origin=(desk.workspace.images[0].ref, (20, 20, 60, 60)))
    _, desk.workspace = desk.workspace.with_image(crop)
    found = desk.call("PROP", mask=name, other="image_2")
    assert found["relation"] == "overlaps" and found["iou"] == round(100 / (400 + 1600 - 100), 3)


def test_two_tracks_are_compared_in_the_last_frame_that_shows_both(desk):
    desk.play([np.full((50, 100, 3), at, np.uint8) for at in range(4)])
    first = desk.add_track([(0, 0, 10, 10)] * 4, visible=[True, True, True, False])
    second = desk.add_track([(10 * at, 0, 10 * at + 10, 10) for at in range(1, 4)], start=1)
    assert desk.call("PROP", track=first, other=second)["distance"] == 20.0
    assert desk.call("PROP", track=first, other=second, frame="frame_2")["gap"] == 0.0
    with pytest.raises(ToolError, match="does not reach"):
        desk.call("PROP", track=first, other=second, frame="frame_1")


def test_a_track_is_compared_with_a_mask_of_one_of_its_frames(desk):
    desk.play([np.full((50, 100, 3), at, np.uint8) for at in range(4)])
    mask = np.zeros((50, 100), bool)
    mask[0:10, 40:50] = True
    name = desk.add_mask(mask, "frame_2")
    track = desk.add_track([(10 * at, 0, 10 * at + 10, 10) for at in range(4)])
    assert desk.call("PROP", track=track, other=name)["gap"] == 20.0  # frame_2: [10, 20) against [40, 50)


def test_what_cannot_be_compared_is_refused(desk):
    desk.show(np.zeros((20, 20, 3), np.uint8), np.ones((20, 20, 3), np.uint8))
    empty = desk.add_mask(np.zeros((20, 20), bool))
    for arguments in (
        {"image": "image_1", "other": "image_2"},
        {"image": "image_1", "other": "image_1", "frame": "frame_1"},
        {"image": "image_1", "other_box": [0, 0, 10, 10]},
        {"mask": empty, "other": "image_1"},
        {"mask": empty, "other": empty, "other_box": [0, 0, 10, 10]},
    ):
        with pytest.raises(ToolError, match="bad_argument"):
            desk.call("PROP", **arguments)
    with pytest.raises(ToolError, match="unknown_reference"):
        desk.call("PROP", image="image_1", other="image_3")


# One region


def region_by_hand(pixels, mask):
    """Area, size, centroid and mean colour, pixel by pixel, in integers."""
    places = [(x, y) for y, x in product(range(mask.shape[0]), range(mask.shape[1])) if mask[y, x]]
    xs, ys = [x for x, _ in places], [y for _, y in places]
    colours = [pixels[y, x].astype(int) for x, y in places]
    return {
        "area": len(places),
        "size": [max(xs) - min(xs) + 1, max(ys) - min(ys) + 1],
        "centroid": [
            (sum(xs) / len(xs) + 0.5) * 1000 / mask.shape[1],
            (sum(ys) / len(ys) + 0.5) * 1000 / mask.shape[0],
        ],
        "mean_rgb": sum(colours) / len(colours),
    }


@settings(max_examples=60, deadline=None)
@given(regions, st.integers(0, 2**32 - 1))
def test_a_region_is_measured_as_by_hand(tmp_path_factory, mask, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (*mask.shape, 3), dtype=np.uint8)
    desk = Desk(tmp_path_factory.mktemp("prop"))
    desk.show(pixels)
    found, truth = desk.call("PROP", mask=desk.add_mask(mask)), region_by_hand(pixels, mask)
    assert (found["area"], found["size"]) == (truth["area"], truth["size"])
    assert found["fill"] == pytest.approx(truth["area"] / math.prod(truth["size"]), abs=5.1e-4)
    assert np.abs(np.array(found["centroid"]) - truth["centroid"]).max() <= 0.5 + 1e-9
    assert np.abs(np.array(found["mean_rgb"]) - truth["mean_rgb"]).max() <= 0.5 + 1e-9
    assert found["pieces"] == pieces_by_hand(mask)


def pieces_by_hand(mask):
    """Components joined through sides or corners."""
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    count = 0
    while left:
        count, todo = count + 1, [left.pop()]
        while todo:
            y, x = todo.pop()
            near = {(y + dy, x + dx) for dy, dx in product((-1, 0, 1), repeat=2)} & left
            left -= near
            todo += near
    return count


def test_the_dominant_colour_has_the_value_of_its_own_pixels(desk):
    pixels = np.zeros((10, 10, 3), np.uint8)
    pixels[:7], pixels[7:] = PALETTE["red"], PALETTE["blue"]
    desk.show(pixels)
    found = desk.call("PROP", image="image_1")
    assert found["colour"] == "red" and found["rgb"] == list(PALETTE["red"]) != found["mean_rgb"]


@pytest.mark.parametrize("degrees", range(0, 180, 15))
def test_the_orientation_of_a_drawn_bar_is_the_angle_it_was_drawn_at(desk, degrees):
    y, x = np.mgrid[:200, :200]
    along = np.array([math.cos(math.radians(degrees)), -math.sin(math.radians(degrees))])
    dx, dy = x - 99.5, y - 99.5
    mask = (np.abs(dx * along[0] + dy * along[1]) < 80) & (np.abs(-dx * along[1] + dy * along[0]) < 8)
    desk.show(np.zeros((200, 200, 3), np.uint8))
    found = desk.call("PROP", mask=desk.add_mask(mask))["orientation"]
    assert min((found - degrees) % 180, (degrees - found) % 180) <= 1


# Tracks


@pytest.mark.parametrize(
    ("step", "direction", "degrees"),
    [
        ((6, 0), "right", 0),
        ((0, -6), "up", 90),
        ((-6, 0), "left", 180),
        ((0, 6), "down", 270),
        ((4, -4), "up right", 45),
    ],
)
def test_the_speed_and_direction_of_a_steady_track_are_its_step(desk, step, direction, degrees):
    desk.play([np.full((100, 100, 3), at, np.uint8) for at in range(5)], step_s=0.25)
    boxes = [(40 + step[0] * at, 40 + step[1] * at, 50 + step[0] * at, 50 + step[1] * at) for at in range(5)]
    found = desk.call("PROP", track=desk.add_track(boxes))
    assert found["speed"] == round(math.hypot(*step) / 0.25, 1)
    assert (found["direction"], found["degrees"], found["seen"]) == (direction, degrees, 1)


def test_frames_that_hide_the_thing_do_not_bend_its_path(desk):
    desk.play([np.full((20, 100, 3), at, np.uint8) for at in range(5)], step_s=1.0)
    boxes = [(10, 0, 20, 10), (20, 0, 30, 10), (0, 0, 10, 10), (40, 0, 50, 10), (0, 0, 10, 10)]
    found = desk.call("PROP", track=desk.add_track(boxes, visible=[True, True, False, True, False]))
    assert (found["path"], found["speed"], found["seen"]) == (30, 10.0, 0.6)


def test_what_stays_has_no_direction(desk):
    desk.play([np.full((20, 20, 3), at, np.uint8) for at in range(3)])
    found = desk.call("PROP", track=desk.add_track([(1, 1, 5, 5)] * 3))
    assert found["speed"] == 0 and found["direction"] == "still" and "degrees" not in found


def test_what_asks_for_one_property_alone_and_is_refused_where_there_is_none(desk):
    desk.show(np.full((20, 20, 3), 200, np.uint8))
    whole = desk.call("PROP", image="image_1", box=[100, 100, 600, 600])
    for name, value in whole.items():
        assert desk.call("PROP", image="image_1", box=[100, 100, 600, 600], what=name) == {name: value}
    with pytest.raises(ToolError, match="what must be one of area"):
        desk.call("PROP", image="image_1", box=[100, 100, 600, 600], what="speed")
