"""Coordinate frames: outward rounding on the grid, so what was inside stays inside; one conversion between frames."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.geometry import Frame, area, convert, covers, grid_to_pixels, iou, pixels_to_grid
from common.types import Box


@st.composite
def boxes(draw: st.DrawFn, width: int = 448, height: int = 336) -> Box:
    x0, y0 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    return x0, y0, draw(st.integers(x0 + 1, width)), draw(st.integers(y0 + 1, height))


@given(boxes(), st.sampled_from([1, 10, 50]))
def test_a_box_written_on_the_grid_still_covers_what_it_named(box: Box, step: int) -> None:
    written = pixels_to_grid(box, 448, 336, step=step)
    assert all(value % step == 0 and 0 <= value <= 1000 for value in written)
    assert covers(grid_to_pixels(written, 448, 336), box)


@given(boxes(), boxes())
def test_iou_is_symmetric_bounded_and_one_only_for_equals(a: Box, b: Box) -> None:
    assert iou(a, b) == iou(b, a)
    assert 0 <= iou(a, b) <= 1
    assert (iou(a, b) == 1) == (a == b)


def test_iou_of_half_overlapping_squares_is_a_third() -> None:
    assert iou((0, 0, 2, 2), (1, 0, 3, 2)) == 1 / 3
    assert area((3, 3, 1, 1)) == 0


# Frames

sides = st.integers(1, 5000)
frames = st.one_of(
    st.just(Frame.grid()),
    st.just(Frame.share()),
    st.builds(Frame.view, sides, sides),
    st.builds(Frame.original, sides, sides),
)
shares = st.floats(0, 1, allow_subnormal=False)


@given(frames, frames, st.lists(shares, min_size=4, max_size=4))
def test_a_place_is_the_same_place_in_every_frame_and_comes_back(a: Frame, b: Frame, place: list[float]) -> None:
    written = convert(place, Frame.share(), a)
    there = convert(written, a, b)
    assert there == pytest.approx(convert(place, Frame.share(), b), rel=1e-12, abs=1e-9)
    assert convert(there, b, a) == pytest.approx(written, rel=1e-12, abs=1e-9)


@given(boxes(4000, 3000), st.integers(1, 4000), st.integers(1, 3000))
def test_whole_pixels_of_the_file_survive_the_way_over_the_grid(box: Box, width: int, height: int) -> None:
    on_grid = convert(box, Frame.original(4000, 3000), Frame.grid())
    assert grid_to_pixels(on_grid, 4000, 3000) == box
    over_a_view = convert(
        convert(box, Frame.original(4000, 3000), Frame.view(width, height)), Frame.view(width, height), Frame.grid()
    )
    assert grid_to_pixels(over_a_view, 4000, 3000) == box


@given(boxes(1000, 1000), st.integers(1, 3000), st.integers(1, 3000))
def test_whole_numbers_on_the_grid_round_exactly_as_fractions_say(box: Box, width: int, height: int) -> None:
    x0, y0, x1, y1 = box
    exact = (x0 * width // 1000, y0 * height // 1000, -(-x1 * width // 1000), -(-y1 * height // 1000))
    assert grid_to_pixels(box, width, height) == exact


def test_a_box_of_the_resized_picture_is_four_times_as_large_in_the_file() -> None:
    view, file = Frame.view(448, 224), Frame.original(1792, 896)
    assert convert((100, 50, 200, 100), view, file) == (400, 200, 800, 400)
    assert iou((100, 50, 200, 100), (400, 200, 800, 400)) == 0  # what the published programs cut out instead


def test_a_frame_without_an_area_is_refused() -> None:
    with pytest.raises(ValueError, match="spans nothing"):
        Frame.view(0, 10)
