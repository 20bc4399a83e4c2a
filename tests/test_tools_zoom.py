"""ZOOM: sizes, aspect, exact places, and a PNG that is written at once."""

import io

import numpy as np
import pytest
from fakes.desk import Desk
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from actors.tools.config import ToolsConfig
from actors.tools.errors import ToolError
from actors.tools.zoom import HALVED, resample
from common.media import FolderMediaStore, pixels_of, put_image
from common.stored_png import HEAD, MAX_WIDTH, stored_pixels, stored_png

CONFIG = ToolsConfig(num_workers=0, ocr="none", zoom_min_side=64, zoom_max_side=256, zoom_factor_side=512)


@pytest.fixture
def desk(tmp_path):
    return Desk(tmp_path, config=CONFIG)


def size(desk):
    return desk.seen.image.width, desk.seen.image.height


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_a_factor_says_how_many_pixels_one_becomes(desk):
    desk.show(noise(200, 400))
    assert desk.call("ZOOM", image="image_1", box=[0, 0, 500, 500], factor=2) == {"image": "image_2"}
    assert size(desk) == (400, 200)
    desk.call("ZOOM", image="image_1", box=[0, 0, 500, 500], factor=0.5)
    assert size(desk) == (100, 50)
    desk.call("ZOOM", image="image_1", box=[0, 0, 500, 500], factor=1)
    assert np.array_equal(pixels_of(desk.store, desk.seen.image), noise(200, 400)[:100, :200])


def test_a_factor_counts_from_the_source_even_in_a_crop(desk):
    desk.show(noise(200, 400))
    desk.call("ZOOM", image="image_1", box=[0, 0, 250, 250], factor=3)
    assert size(desk) == (300, 150)
    desk.call("ZOOM", image="image_2", box=[0, 0, 500, 1000], factor=3)
    assert desk.plan.footprint == (0, 0, 50, 50) and size(desk) == (150, 150)


def test_a_factor_cannot_pass_the_configured_side_nor_make_a_speck(desk):
    desk.show(noise(200, 400))
    desk.call("ZOOM", image="image_1", box=[0, 0, 1000, 1000], factor=32)
    assert size(desk) == (512, 256)
    desk.call("ZOOM", image="image_1", box=[0, 0, 100, 100], factor=0.1)
    assert size(desk) == (28, 14)


@pytest.mark.parametrize("factor", [0, -1, 33, float("nan"), "2", None])
def test_a_factor_that_is_none_is_refused_or_left_out(desk, factor):
    desk.show(noise(100, 100))
    if factor is None:
        desk.call("ZOOM", image="image_1", box=[0, 0, 500, 500], factor=None)
        assert size(desk) == (64, 64)
        return
    with pytest.raises(ToolError, match="bad_argument"):
        desk.call("ZOOM", image="image_1", box=[0, 0, 500, 500], factor=factor)


def test_a_frame_and_a_crop_of_a_frame_are_pictures_too(desk):
    frames = [noise(100, 100, seed) for seed in range(3)]
    desk.play(frames)
    desk.call("ZOOM", image="frame_3", box=[200, 200, 840, 840], factor=1)
    assert np.array_equal(pixels_of(desk.store, desk.seen.image), frames[2][20:84, 20:84])
    desk.call("ZOOM", image="image_1", box=[0, 0, 500, 500], factor=1)
    assert np.array_equal(pixels_of(desk.store, desk.seen.image), frames[2][20:52, 20:52])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 700), st.integers(1, 700), st.integers(1, 80), st.integers(80, 300))
def test_the_longer_side_lies_within_the_bounds_and_the_aspect_is_kept(width, height, low, high):
    made = resample(np.zeros((height, width, 3), np.uint8), min_side=low, max_side=high)
    longer = max(made.shape[:2])
    assert low <= longer <= high and (low <= max(width, height) <= high) <= (made.shape[:2] == (height, width))
    scale = longer / max(width, height)
    assert abs(made.shape[1] - width * scale) <= 1 and abs(made.shape[0] - height * scale) <= 1


def test_shrinking_by_halves_first_keeps_means_and_places():
    y, x = np.mgrid[:1080, :1920]
    pixels = np.stack([x * 255 / 1919, y * 255 / 1079, 128 + 100 * np.sin(x / 40 + y / 60)], axis=2).astype(np.uint8)
    small = resample(pixels, min_side=1, max_side=1920 // HALVED - 30)
    height, width = small.shape[:2]
    for row, column in ((0, 0), (height // 2, width // 3), (height - 1, width - 1)):
        part = pixels[
            row * 1080 // height : (row + 1) * 1080 // height, column * 1920 // width : (column + 1) * 1920 // width
        ]
        assert np.abs(small[row, column].astype(float) - part.reshape(-1, 3).mean(axis=0)).max() < 3


@settings(max_examples=60, deadline=None)
@given(arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3))))
def test_a_stored_png_reads_back_everywhere(pixels):
    import cv2

    data = stored_png(pixels)
    with Image.open(io.BytesIO(data)) as image:
        image.verify()
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), pixels)
    assert np.array_equal(stored_pixels(data, pixels.shape[1], pixels.shape[0]), pixels)
    assert np.array_equal(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1], pixels)


def test_a_stored_png_is_as_large_as_its_pixels_and_is_not_copied():
    pixels = noise(300, 333)
    data = stored_png(pixels)
    assert len(data) < pixels.size + 6 * 300 + 100
    found = stored_pixels(data, 333, 300)
    assert np.shares_memory(found, np.frombuffer(data, np.uint8)) and not found.flags.writeable


@pytest.mark.parametrize("width", [MAX_WIDTH, MAX_WIDTH + 1])
def test_a_picture_of_any_width_is_kept(tmp_path, width):
    store, pixels = FolderMediaStore(tmp_path), noise(2, width)
    ref = put_image(store, pixels, compress=False)
    assert np.array_equal(pixels_of(store, ref), pixels)
    assert (stored_pixels(store.get(ref.digest), width, 2) is None) == (width > MAX_WIDTH)


def test_another_png_is_not_taken_for_a_stored_one():
    pixels = noise(150, 170)
    data = stored_png(pixels)
    rows = 8 + 25 + 8 + 2 + HEAD
    filtered = bytearray(data)
    filtered[rows] = 1
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    for other in (
        buffer.getvalue(),
        bytes(filtered),
        data[:-1],
        data + b"0",
        data.replace(b"\x78\x01", b"\x78\x9c", 1),
    ):
        assert stored_pixels(other, 170, 150) is None
    assert stored_pixels(data, 150, 170) is None


def test_pictures_looked_at_again_are_not_decoded_again(desk):
    (ref,) = desk.show(noise(50, 60))
    first = desk.bench.pixels(ref)
    assert desk.bench.pixels(ref) is first and not first.flags.writeable


def test_decoded_pictures_stay_within_their_budget(desk):
    from actors.tools.ports import RECENT_BYTES

    refs = desk.show(*(noise(1000, 1200, seed) for seed in range(12)))
    kept = [desk.bench.pixels(ref) for ref in refs]
    assert sum(pixels.nbytes for pixels in kept) > RECENT_BYTES
    assert desk.bench.pixels(refs[-1]) is kept[-1] and desk.bench.pixels(refs[0]) is not kept[0]
