"""What the figures of OCR and TEMP count, checked by hand, and the tools on a few scenes and receipts."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.tasks.scenes.truth import Written
from actors.tools.ports import ReadLine
from cluster.benchmarks.perception_reading import judged, measure_moments, measure_receipts, temporal_iou

SROIE = Path(__file__).parents[2] / "shared" / "data" / "sroie"
spans = st.lists(st.tuples(st.integers(0, 20), st.integers(1, 10)).map(lambda pair: (pair[0], pair[0] + pair[1])))


def written(text, box):
    x0, y0, x1, y1 = box
    corners = ((x0, y0), (x1, y0), (x1, y1), (x0, y1))
    return Written(text=text, box=box, polygon=corners, height_px=16, on=None)


def line(text, box):
    return ReadLine(text=text, confidence=0.9, box=box)


@settings(deadline=None)
@given(spans, spans)
def test_temporal_iou_counts_the_seconds_in_both_over_those_in_either(found, true):
    inside = [{at for start, stop in part for at in range(start, stop)} for part in (found, true)]
    either = inside[0] | inside[1]
    assert temporal_iou(found, true) == pytest.approx(len(inside[0] & inside[1]) / len(either) if either else 1.0)


def test_edits_are_counted_line_by_line_and_what_is_not_there_counts_too():
    strings = (
        written("TOTAL 12", (10, 10, 90, 26)),
        written("cash", (10, 40, 50, 56)),
        written("x", (200, 200, 210, 210)),
    )
    lines = [
        line("TOTAL", (8, 8, 60, 28)),
        line("72", (66, 9, 92, 27)),
        line("cash", (9, 38, 52, 58)),
        line("~", (52, 44, 56, 48)),
    ]
    found = judged(lines, strings)
    assert [(edits, read) for _, edits, read in found] == [(1, True), (2, True), (1, False)]


def test_moments_are_found_in_a_medium_clip():
    found = measure_moments(1, "medium", 3)
    assert found["num"] >= 3 and found["iou"] >= 0.7


class KeyReader:
    """Reads what it is told in turn."""

    def __init__(self, *texts):
        self._texts = iter(texts)

    def read(self, pixels):
        return (line(next(self._texts), (0, 0, 10, 10)),)

    def read_many(self, pictures):
        return [self.read(pixels) for pixels in pictures]


def test_a_receipt_counts_as_read_by_its_total_and_its_date(tmp_path):
    from PIL import Image

    for name in ("img", "key"):
        (tmp_path / name).mkdir()
    for at, total in enumerate(("9.00", "12.50")):
        Image.fromarray(np.full((20, 20, 3), 255, np.uint8)).save(tmp_path / "img" / f"{at}.jpg")
        (tmp_path / "key" / f"{at}.json").write_text(f'{{"total": "{total}", "date": "25/12/2018"}}')
    reader = KeyReader("Total 9.00 on 25/12/2018", "Total 12,50 on 25/12/2018")
    assert measure_receipts(tmp_path, reader=reader) == {"totals": 0.5, "dates": 1.0, "num": 2.0}


@pytest.mark.skipif(not SROIE.is_dir(), reason=f"the receipts are not in {SROIE}")
def test_a_total_is_read_on_a_real_receipt():
    assert measure_receipts(SROIE, num=1)["totals"] == 1.0
