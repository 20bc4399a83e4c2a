"""OCR's places: polygons, crops and frames, exact under every transform; and what weights there must be."""

import math

import numpy as np
import pytest
from fakes.desk import Desk
from fakes.tools import FixedReader
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.tools.backends.languages import find_files, recogniser_of
from actors.tools.backends.strips import Strip, bounds, contrast, in_rows, is_level, mapped, planes, warped
from actors.tools.errors import ToolError
from actors.tools.ports import ReadLine
from common.errors import ModelError
from common.types import Box


class InkReader:
    """Reads every picture as one line, "ink", around its dark pixels."""

    def __init__(self):
        self.seen = []

    def read(self, pixels):
        self.seen.append(pixels.copy())
        rows, columns = np.nonzero(pixels.max(axis=2) < 100)
        box: Box = (int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)
        return (ReadLine(text="ink", confidence=0.9, box=box),)

    def read_many(self, pictures):
        return [self.read(pixels) for pixels in pictures]


@pytest.fixture
def reader():
    return InkReader()


@pytest.fixture
def desk(tmp_path, reader):
    return Desk(tmp_path, reader=reader)


def inked(box, side=200):
    pixels = np.full((side, side, 3), 220, np.uint8)
    pixels[box[1] : box[3], box[0] : box[2]] = 20
    return pixels


# Places


@settings(max_examples=60, deadline=None)
@given(st.tuples(*[st.integers(0, 150)] * 2, *[st.integers(2, 49)] * 2), st.integers(0, 40))
def test_a_line_lies_where_its_ink_is_whichever_box_is_read(tmp_path_factory, place, margin):
    x, y, width, height = place
    truth = (x, y, x + width, y + height)
    desk = Desk(tmp_path_factory.mktemp("ocr"), reader=InkReader())
    desk.show(inked(truth))
    asked = [max(0, x - margin) * 5, max(0, y - margin) * 5, min(200, x + width) * 5, min(200, y + height) * 5]
    (line,) = desk.call("OCR", image="image_1", box=asked, lines=True)["lines"]
    assert line == {"text": "ink", "confidence": 0.9, "box": tuple(5 * value for value in truth)}


def test_a_line_of_a_crop_is_placed_in_the_crop(desk):
    desk.show(inked((60, 80, 80, 90)))
    desk.call("ZOOM", image="image_1", box=[200, 300, 600, 700])  # pixels [40, 120) × [60, 140)
    (line,) = desk.call("OCR", image="image_2", lines=True)["lines"]
    assert line["box"] == (250, 250, 500, 375)


def test_a_frame_is_read_like_a_picture(desk):
    desk.play([inked((10, 10, 20, 20)), inked((60, 80, 80, 90))])
    (line,) = desk.call("OCR", image="frame_2", lines=True)["lines"]
    assert line["box"] == (300, 400, 400, 450)


def test_a_level_polygon_reads_what_its_box_reads(desk, reader):
    desk.show(inked((60, 80, 80, 90)))
    boxed = desk.call("OCR", image="image_1", box=[200, 300, 600, 700], lines=True)
    cornered = desk.call("OCR", image="image_1", polygon=[[600, 300], [600, 700], [200, 700], [200, 300]], lines=True)
    assert boxed == cornered and np.array_equal(*reader.seen)


def rotated(degrees, length=90.0, height=24.0, centre=(100.0, 100.0)):
    """Corners of a bar turned about its middle, clockwise from its top left."""
    angle = math.radians(degrees)
    along, down = (math.cos(angle), math.sin(angle)), (-math.sin(angle), math.cos(angle))
    return [
        (
            centre[0] + sx * length / 2 * along[0] + sy * height / 2 * down[0],
            centre[1] + sx * length / 2 * along[1] + sy * height / 2 * down[1],
        )
        for sx, sy in ((-1, -1), (1, -1), (1, 1), (-1, 1))
    ]


@pytest.mark.parametrize("degrees", [-40, -20, 8, 15, 30, 40])
def test_a_turned_polygon_is_read_level_and_its_line_lies_on_the_turned_ink(desk, reader, degrees):
    import cv2

    ink = rotated(degrees, 60, 10)
    pixels = np.full((200, 200, 3), 220, np.uint8)
    cv2.fillPoly(pixels, [np.array(ink).round().astype(np.int32)], (20, 20, 20))
    desk.show(pixels)
    around = [[x * 5, y * 5] for x, y in rotated(degrees)]
    (line,) = desk.call("OCR", image="image_1", polygon=around, lines=True)["lines"]
    height, width = reader.seen[0].shape[:2]
    assert (width, height) == (90, 24)
    found = np.array(line["polygon"]) / 5
    assert np.abs(found - ink).max() <= 2.5  # drawn and found to a pixel, and half a step of the grid
    assert line["box"] == bounds_on_grid(found)


def bounds_on_grid(corners):
    """The box around corners as the payload rounds it is within a pixel (5 of 1000) of them."""
    return pytest.approx((*(corners.min(axis=0) * 5), *(corners.max(axis=0) * 5)), abs=6)


def test_what_lies_outside_a_polygon_of_many_corners_is_not_read(desk, reader):
    pixels = inked((90, 90, 110, 100))
    pixels[70:80, 40:50] = 20  # inside the box around the roof-like polygon, outside the polygon
    desk.show(pixels)
    roof = [[500, 350], [850, 430], [850, 550], [150, 550], [150, 430]]
    (line,) = desk.call("OCR", image="image_1", polygon=roof, lines=True)["lines"]
    assert line["box"] == pytest.approx((450, 450, 550, 500), abs=6)
    (line,) = desk.call("OCR", image="image_1", box=[150, 350, 850, 550], lines=True)["lines"]
    assert line["box"] == (200, 350, 550, 500)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"polygon": [[0, 0], [10, 0], [10, 10]], "box": [0, 0, 10, 10]}, "bad_argument"),
        ({"polygon": [[0, 0], [10, 0]]}, "bad_argument"),
        ({"polygon": [[0, 0], [500, 500], [1000, 1000]]}, "empty_box"),
        ({"polygon": [[5, 5]] * 4}, "empty_box"),
        ({"polygon": [[0, 0], [10, 0], [1001, 10]]}, "bad_argument"),
    ],
)
def test_a_polygon_that_holds_nothing_is_refused(desk, arguments, code):
    desk.show(inked((60, 80, 80, 90)))
    with pytest.raises(ToolError, match=code):
        desk.call("OCR", image="image_1", **arguments)


def test_one_line_is_text_alone_unless_lines_are_asked_for(tmp_path):
    desk = Desk(tmp_path, reader=FixedReader("493"))
    desk.show(inked((60, 80, 80, 90)))
    assert desk.call("OCR", image="image_1") == {"text": "493"}
    listed = desk.call("OCR", image="image_1", lines=True)
    assert listed["text"] == "493" and [line["text"] for line in listed["lines"]] == ["493"]


def test_asking_for_lines_does_not_change_the_job(desk):
    desk.show(inked((60, 80, 80, 90)))
    desk.call("OCR", image="image_1")
    plain = desk.plan.job
    desk.call("OCR", image="image_1", lines=True)
    assert desk.plan.job == plain


# Strips


@settings(max_examples=50, deadline=None)
@given(st.floats(-0.7, 0.7), st.floats(20, 80), st.floats(8, 30))
def test_a_warp_and_its_way_back_are_inverse(angle, length, height):
    quad = np.array(rotated(math.degrees(angle), length, height))
    flat, back = warped(np.zeros((200, 200, 3), np.uint8), quad)
    rows, columns = flat.shape[:2]
    found = mapped(((0, 0), (columns, 0), (columns, rows), (0, rows)), back)
    assert np.abs(np.array(found) - quad).max() < 1e-3


def test_a_warp_of_a_level_quad_is_the_slice(desk):
    pixels = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    quad = np.array([(10, 20), (40, 20), (40, 35), (10, 35)], float)
    assert is_level(quad) and np.array_equal(warped(pixels, quad)[0], pixels[20:35, 10:40])
    assert bounds(quad, pixels.shape) == (10, 20, 40, 35)


def test_ink_that_differs_in_colour_only_stands_out_in_the_first_plane():
    strip = np.zeros((40, 120, 3), np.uint8)
    strip[:] = (90, 150, 60)
    strip[10:30, 20:100:10] = (150, 90, 60)  # as bright, by the mean of the channels
    first, *others = planes(strip)
    assert contrast(first) > 0.95 and float(np.ptp(first)) > 50
    assert any(np.ptp(plane) == 0 for plane in others)


def test_contrast_is_the_share_of_variance_between_two_levels():
    assert contrast(np.array([[0, 0, 255, 255]], np.uint8)) == pytest.approx(1)
    assert contrast(np.full((2, 2), 7, np.uint8)) == 0
    # 0, 1, 2 split into {0} and {1, 2}: variance 2/3, between classes 1/3 · 2/3 · 1.5²
    assert contrast(np.array([[0, 1, 2]], np.uint8)) == pytest.approx(0.5 / (2 / 3))


def test_lines_are_ordered_by_rows_then_from_the_left():
    def strip(box):
        return Strip(box=box, corners=None, planes=())

    boxes = [(50, 2, 90, 12), (0, 20, 40, 30), (0, 0, 40, 10), (45, 22, 80, 31)]
    assert [item.box for item in in_rows([strip(box) for box in boxes])] == [boxes[i] for i in (2, 0, 1, 3)]


# Weights


def test_easyocr_chooses_the_same_networks():
    """Names as easyocr.Reader's own table gives them."""
    expected = {
        ("en",): "english_g2.pth",
        ("de", "en"): "latin_g2.pth",
        ("ru",): "cyrillic_g2.pth",
        ("ja", "en"): "japanese_g2.pth",
        ("ch_sim",): "zh_sim_g2.pth",
        ("ar", "fa"): "arabic.pth",
        ("hi",): "devanagari.pth",
        ("th",): "thai.pth",
        ("bn",): "bengali.pth",
    }
    assert {languages: recogniser_of(languages) for languages in expected} == expected


@pytest.mark.parametrize(
    ("languages", "words"),
    [(("xx",), "knows no 'xx'"), (("ja", "ko"), "cannot be read together"), (("ru", "de"), "cannot be read together")],
)
def test_languages_that_cannot_be_read_are_named_in_one_line(languages, words):
    with pytest.raises(ModelError, match=words) as caught:
        find_files(languages, None)
    assert "\n" not in str(caught.value) and "tools.ocr_languages" in str(caught.value)


def test_weights_come_from_the_weights_folder_first_and_missing_ones_are_named(tmp_path):
    with pytest.raises(ModelError, match=r"latin_g2\.pth .*tools\.weights_dir") as caught:
        find_files(("de", "en"), tmp_path)
    assert "\n" not in str(caught.value)
    (tmp_path / "latin_g2.pth").write_bytes(b"")
    found = find_files(("de", "en"), tmp_path)
    assert found.recogniser == tmp_path / "latin_g2.pth" and found.detector.name == "craft_mlt_25k.pth"
    assert find_files(("en",), tmp_path).recogniser.parent != tmp_path
