"""TEMP: intervals of scores, moments of tracks, and what each kind of query finds."""

import numpy as np
import pytest
from fakes.desk import Desk
from fakes.tools import PALETTE
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from actors.tasks.scenes.shapes import SHAPES, silhouette
from actors.tools.backends.shapes import classify, find_shapes
from actors.tools.errors import ToolError
from actors.tools.events import find_moments
from actors.tools.locate import changes, intervals, split


@pytest.fixture
def desk(tmp_path):
    return Desk(tmp_path)


def texture(seed=0, side=160):
    """A ground of soft grey spots."""
    import cv2

    random = np.random.default_rng(seed)
    coarse = random.normal(150, 25, (side // 8, side // 8)).astype(np.float32)
    grey = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC).clip(0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def drawn(shape, colour, centre=(80, 80), radius=24, ground=None):
    """A shape of a colour on a ground."""
    import cv2

    pixels = np.ascontiguousarray(texture() if ground is None else ground).copy()
    x, y = centre
    if shape == "circle":
        cv2.circle(pixels, centre, radius, PALETTE[colour], cv2.FILLED)
    elif shape == "ring":
        cv2.circle(pixels, centre, radius, PALETTE[colour], radius // 2)
    elif shape == "square":
        cv2.rectangle(pixels, (x - radius, y - radius), (x + radius, y + radius), PALETTE[colour], cv2.FILLED)
    elif shape == "rectangle":
        cv2.rectangle(pixels, (x - radius, y - radius // 2), (x + radius, y + radius // 2), PALETTE[colour], cv2.FILLED)
    elif shape == "ellipse":
        cv2.ellipse(pixels, centre, (radius, radius // 2), 30, 0, 360, PALETTE[colour], cv2.FILLED)
    else:
        count, inner = (3, 1.0) if shape == "triangle" else (10, 0.4)
        angles = np.arange(count) * 2 * np.pi / count - np.pi / 2
        lengths = radius * np.where((np.arange(count) % 2 == 0) | (count == 3), 1.0, inner)
        points = np.stack([x + lengths * np.cos(angles), y + lengths * np.sin(angles)], axis=1)
        cv2.fillPoly(pixels, [points.round().astype(np.int32)], PALETTE[colour])
    return pixels


def spans(read):
    return [(found["start_s"], found["stop_s"]) for found in read["intervals"]]


# Scores to intervals


def best_threshold(values):
    """Otsu by trying every threshold: the greatest share of the variance between two classes."""
    best = 0.0
    for threshold in sorted(set(values))[:-1]:
        low, high = [v for v in values if v <= threshold], [v for v in values if v > threshold]
        within = sum(np.var(part) * len(part) for part in (low, high)) / len(values)
        best = max(best, 1 - within / np.var(values))
    return best


@settings(max_examples=200, deadline=None)
@given(arrays(float, st.integers(2, 30), elements=st.integers(0, 50).map(lambda v: v / 50)))
def test_scores_are_split_where_trying_all_thresholds_splits_them(values):
    threshold, apart = split(values)
    if np.ptp(values) == 0:
        assert apart == 0
        return
    assert apart == pytest.approx(best_threshold(values.tolist()), abs=1e-9)
    assert values.min() < threshold < values.max()


def test_an_interval_lasts_until_the_next_frame_and_the_strongest_comes_first():
    found = intervals([0, 0.1, 0.9, 0, 1.0], [0.0, 1.0, 2.0, 3.0, 5.0], min_peak=0.5)
    assert [(part["start_s"], part["stop_s"], part["frame"]) for part in found] == [
        (5.0, 6.25, "frame_5"),
        (2.0, 3.0, "frame_3"),
    ]


def test_scores_of_one_kind_have_no_interval():
    noise = np.random.default_rng(0).normal(0.7, 0.05, 60)
    times = list(np.arange(60) * 0.1)
    assert intervals(noise, times, min_peak=0.5) == []
    assert intervals([0.6] * 60, times, min_peak=0.5) == []
    assert intervals([0.0] * 30 + [0.4] * 30, times, min_peak=0.5) == []
    assert len(intervals([0.0] * 30 + [0.6] * 30, times, min_peak=0.5)) == 1


def test_changes_stand_out_from_the_usual_motion():
    scores = np.abs(np.random.default_rng(1).normal(0.01, 0.002, 40))
    scores[0], scores[17] = 0, 0.08
    found = changes(scores, list(np.arange(40) / 10))
    assert [(part["start_s"], part["frame"]) for part in found] == [(1.7, "frame_18")]


# Moments of a track


def path(places, side=10):
    return [(x, y, x + side, y + side) for x, y in places]


def frames_of(event, boxes, visible=None, line=None, size=(100, 100)):
    seen = [True] * len(boxes) if visible is None else visible
    return [(item.first, item.last) for item in find_moments(event, boxes, seen, size=size, line=line)]


def test_a_thing_enters_until_it_is_wholly_inside_and_leaves_from_the_border_on():
    boxes = [(0, 0, 0, 0), (0, 40, 4, 50), (0, 40, 8, 50), (4, 40, 14, 50), (40, 40, 50, 50)]
    boxes += [(88, 40, 98, 50), (95, 40, 100, 50), (99, 40, 100, 50), (0, 0, 0, 0)]
    seen = [False, *[True] * 7, False]
    assert frames_of("enters", boxes, seen) == [(1, 3)]
    assert frames_of("leaves", boxes, seen) == [(6, 8)]
    # What is at the border when the clip begins or ends neither enters nor leaves in it.
    assert frames_of("enters", boxes[1:], seen[1:]) == frames_of("leaves", boxes[:8], seen[:8]) == []


def test_what_is_hidden_inside_the_picture_neither_leaves_nor_enters():
    boxes = path([(20 + 5 * at, 40) for at in range(8)])
    seen = [True, True, True, False, False, True, True, True]
    assert frames_of("enters", boxes, seen) == frames_of("leaves", boxes, seen) == []


def test_a_thing_appears_and_disappears_inside_the_picture_only():
    boxes = path([(20 + 5 * at, 40) for at in range(8)])
    seen = [False, False, True, True, False, True, True, False]
    assert frames_of("appears", boxes, seen) == [(2, 3)]
    assert frames_of("disappears", boxes, seen) == [(7, 8)]
    assert frames_of("appears", boxes) == frames_of("disappears", boxes) == []
    at_border = path([(0, 40)] * 8)
    assert frames_of("appears", at_border, seen) == frames_of("disappears", at_border, seen) == []
    assert frames_of("appears", boxes, [False] * 8) == []


def test_a_rest_after_a_motion_is_a_stop_and_its_end_a_start():
    xs = [10, 15, 20, 25, 30, 30, 30, 30, 30, 35, 40, 45, 50]
    boxes = path([(x, 40) for x in xs])
    assert frames_of("stops", boxes) == [(4, 9)]
    assert frames_of("starts", boxes) == [(9, 10)]
    assert frames_of("stops", boxes[:9]) == [(4, 9)] and frames_of("starts", boxes[:9]) == []
    assert frames_of("stops", boxes[4:]) == [] and frames_of("starts", boxes[4:]) == [(5, 6)]


def test_a_trembling_box_still_rests():
    random = np.random.default_rng(3)
    xs = np.concatenate([np.arange(0, 60, 6), np.full(10, 60), np.arange(66, 126, 6)])
    boxes = path([(int(x + random.integers(-1, 2)), int(40 + random.integers(-1, 2))) for x in xs])
    ((first, last),) = frames_of("stops", boxes, size=(200, 100))
    assert abs(first - 10) <= 1 and abs(last - 20) <= 1


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 90), st.integers(0, 90)), min_size=2, max_size=12), st.integers(5, 95))
def test_a_box_crosses_an_upright_line_from_its_first_cut_to_its_first_frame_beyond(places, x):
    boxes = path(places)
    sides = [1 if box[0] >= x else -1 if box[2] <= x else 0 for box in boxes]
    truth, last = [], None
    for at, side in enumerate(sides):
        if side == 0:
            continue
        if last is not None and sides[last] != side:
            truth.append((last + 1 if at > last + 1 else last, at))
        last = at
    assert frames_of("crosses", boxes, line=(x, -500, x, 600)) == truth
    assert frames_of("crosses", boxes, line=(x, 600, x, -500)) == truth


def test_a_line_that_is_passed_beside_its_ends_is_not_crossed():
    boxes = path([(10, 40), (45, 40), (80, 40)])
    assert frames_of("crosses", boxes, line=(50, 0, 50, 60)) == [(1, 2)]
    assert frames_of("crosses", boxes, line=(50, 0, 50, 30)) == []


# Queries


def test_a_colour_is_found_although_a_thing_of_that_colour_is_always_there(desk):
    ground = drawn("square", "green", (30, 30), 14)
    desk.play([drawn("circle", "green" if 5 <= at < 8 else "red", (100, 90), 20, ground) for at in range(12)])
    read = desk.call("TEMP", query="when is the ball green?")
    # the words name a shape too: a green circle, which the square is not
    assert spans(read) == [(2.5, 4.0)] and read["intervals"][0]["frame"] in ("frame_6", "frame_7", "frame_8")
    assert spans(desk.call("TEMP", query="green")) == [(2.5, 4.0)]
    assert spans(desk.call("TEMP", query="pink")) == []


def test_a_colour_is_asked_of_a_track_or_of_a_box(desk):
    frames = []
    for at in range(10):
        ground = drawn("square", "green" if at % 2 else "blue", (30, 30), 20)
        frames.append(drawn("circle", "green" if 4 <= at < 7 else "red", (60 + 6 * at, 110), 14, ground))
    desk.play(frames)
    track = desk.add_track([(46 + 6 * at, 96, 74 + 6 * at, 124) for at in range(10)])
    assert spans(desk.call("TEMP", query="green", track=track)) == [(2.0, 3.5)]
    assert spans(desk.call("TEMP", query="green", box=[250, 500, 1000, 1000])) == [(2.0, 3.5)]
    assert len(spans(desk.call("TEMP", query="green", box=[0, 0, 400, 400]))) == 3


def test_frames_that_do_not_show_the_track_score_nothing(desk):
    desk.play([drawn("circle", "green") for _ in range(6)])
    track = desk.add_track([(56, 56, 104, 104)] * 4, visible=[True, True, False, True], start=1)
    assert spans(desk.call("TEMP", query="green", track=track)) == [(0.5, 1.5), (2.0, 2.5)]
    hidden = desk.add_track([(56, 56, 104, 104)], visible=[False])
    assert spans(desk.call("TEMP", query="green", track=hidden)) == []


def test_a_shape_is_found_among_others_of_its_colour(desk):
    desk.play([drawn("star" if 2 <= at < 4 else "circle", "blue") for at in range(7)])
    assert spans(desk.call("TEMP", query="a blue star")) == [(1.0, 2.0)]
    assert spans(desk.call("TEMP", query="a red star")) == []
    # A word for the wrong shape does not hide the colour that comes and goes.
    desk.play([drawn("circle", "green" if 2 <= at < 4 else "red") for at in range(7)])
    assert spans(desk.call("TEMP", query="when is the star green?")) == [(1.0, 2.0)]
    desk.play([drawn("star" if 2 <= at < 4 else "circle", "blue") for at in range(7)])
    assert sorted(spans(desk.call("TEMP", query="circles"))) == [(0.0, 1.0), (2.0, 3.5)]


def test_a_masked_thing_is_found_on_another_ground(desk):
    frames = [
        texture(at) if at in (0, 1, 6) else drawn("star", "purple", (40 + 10 * at, 80), 20, texture(at))
        for at in range(8)
    ]
    desk.play(frames)
    mask = np.any(frames[3] != texture(3), axis=2)
    name = desk.add_mask(mask, "frame_4")
    assert sorted(spans(desk.call("TEMP", query=name))) == [(1.0, 3.0), (3.5, 4.0)]
    empty = desk.add_mask(np.zeros((160, 160), bool), "frame_4")
    with pytest.raises(ToolError, match="bad_argument"):
        desk.call("TEMP", query=empty)


def test_a_change_of_colour_is_found_while_things_move(desk):
    frames = []
    for at in range(16):
        ground = drawn("square", "blue", (20 + 7 * at, 30), 12)
        frames.append(drawn("circle", "red" if at < 9 else "yellow", (80, 120), 18, ground))
    desk.play(frames)
    assert spans(desk.call("TEMP", query="change")) == [(4.5, 5.0)]


def test_an_event_of_a_track_comes_in_seconds_with_its_frame(desk):
    desk.play([np.full((50, 100, 3), at, np.uint8) for at in range(8)], step_s=0.25)
    track = desk.add_track([(10 * at, 20, 10 * at + 10, 30) for at in range(1, 7)], start=1)
    read = desk.call("TEMP", track=track, event="crosses", line=[480, 0, 480, 1000])
    # boxes [10, 20), [20, 30), ... in frames 2 to 7; the line at 48 cuts the one of frame 5
    assert read == {"intervals": [{"start_s": 1.0, "stop_s": 1.25, "frame": "frame_5", "score": 1.0}]}


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"query": "red", "event": "stops", "track": "track_1"},
        {"event": "stops"},
        {"event": "crosses", "track": "track_1"},
        {"event": "stops", "track": "track_1", "line": [0, 0, 10, 10]},
        {"query": "red", "line": [0, 0, 10, 10]},
        {"query": "red", "track": "track_1", "box": [0, 0, 10, 10]},
        {"event": "jumps", "track": "track_1"},
    ],
)
def test_what_does_not_go_together_is_refused(desk, arguments):
    desk.play([np.zeros((20, 20, 3), np.uint8)] * 2)
    desk.add_track([(0, 0, 5, 5)] * 2)
    with pytest.raises(ToolError, match="bad_argument"):
        desk.call("TEMP", **arguments)


def test_what_no_score_can_answer_is_unavailable(desk):
    desk.play([np.zeros((20, 20, 3), np.uint8)] * 2)
    with pytest.raises(ToolError, match="unavailable"):
        desk.call("TEMP", query="the dog barks")


# Shapes


@pytest.mark.parametrize("shape", ["circle", "ring", "square", "rectangle", "ellipse", "triangle", "star"])
@pytest.mark.parametrize("radius", [14, 24, 40])
def test_a_drawn_shape_is_called_by_its_name(shape, radius):
    (found,) = [item for item in find_shapes(drawn(shape, "red", radius=radius)) if item.colour == "red"]
    assert found.shape == shape


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_of_the_world_keeps_its_name_when_it_turns_and_grows(shape):
    found = [
        classify(silhouette(shape, size, degrees).astype(np.uint8))
        for size in (36, 48, 64, 90)
        for degrees in range(0, 90, 10)
    ]
    assert found.count(shape) >= 0.95 * len(found)


def test_squares_and_rectangles_keep_their_names_when_they_turn():
    import cv2

    for degrees in range(0, 90, 10):
        turn = cv2.getRotationMatrix2D((60, 60), degrees, 1)
        for name, region in (("square", np.s_[40:81, 40:81]), ("rectangle", np.s_[45:76, 20:101])):
            piece = np.zeros((121, 121), np.uint8)
            piece[region] = 1
            assert classify(cv2.warpAffine(piece, turn, (121, 121))) == name
