"""Coordinates on the 0–1000 grid and pixels: outward rounding, so what was inside stays inside."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from common.geometry import area, covers, grid_to_pixels, iou, pixels_to_grid
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
