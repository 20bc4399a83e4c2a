"""The report: one file that needs nothing else, holds every picture and number, and escapes what it is given."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from cluster.charts import curves, running_mean
from cluster.report import Step, Strip, png_size, rebuild, render, write_report
from cluster.summary import Answer, PhaseSummary, Summary
from common.errors import RunFolderError


def png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "green").save(buffer, "PNG")
    return buffer.getvalue()


SUMMARY = Summary(
    name="demo",
    command="run",
    versions={"ray": "2.60.0"},
    config={"seed": 0},
    back_ends={"OCR": "easyocr"},
    machine="two cores",
    wall_s=61.0,
    phases=(
        PhaseSummary(
            name="sft",
            accuracy=0.875,
            accuracy_without_tools=0.125,
            valid_chain_rate=1.0,
            mean_chain_length=2.0,
            rapr=1.0,
            racpr=1.0,
            token_kl=None,
            num_tasks=64,
            seed=0,
        ),
    ),
    answers=(Answer(picture="page", question="word?", answer=None),),
)
STRIP = Strip(
    section="Held-out tasks",
    title="tiny-text",
    question="Which code is on the <red> plate?",
    picture=png(200, 100),
    steps=(
        Step(
            name="ZOOM",
            arguments='{"box":[0,0,500,500]}',
            picture=png(200, 100),
            boxes=((0, 0, 100, 50),),
            returned=png(100, 50),
        ),
        Step(name="OCR", arguments='{"image":"image_2"}', picture=png(100, 50), text='{"text":"493"}'),
    ),
    answer="493",
    truth="493",
    right=True,
)
METRICS = [{"phase": "sft", "step": step, "loss": 1.0 / (step + 1), "same": 1.0, "name": "x"} for step in range(20)]


class Page(HTMLParser):
    """Collects what a page refers to and whether its tags are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.open: list[str] = []
        self.scripts = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        self.references += [value for name, value in attrs if name in ("src", "href", "xlink:href") and value]
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.references += [value for name, value in attrs if name in ("src", "href", "xlink:href") and value]

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()


def test_the_page_is_whole_and_needs_nothing_else() -> None:
    page = Page(render(SUMMARY.to_json(), METRICS, [STRIP]))
    assert page.open == []
    assert page.scripts == 0
    assert all(reference.startswith(("data:image/png;base64,", "#")) for reference in page.references)
    text = render(SUMMARY.to_json(), METRICS, [STRIP])
    assert not re.search(r"url\((?!#)|@import", text)


def test_the_page_says_what_happened() -> None:
    text = render(SUMMARY.to_json(), METRICS, [STRIP])
    for expected in (
        "87.5 %",
        "12.5 %",
        "two cores",
        "1:01",
        "✓ right",
        "easyocr",
        "2.60.0",
        "tiny-text",
        "known answer",
    ):
        assert expected in text
    assert '<rect x="0" y="0" width="100" height="50"/>' in text


def test_what_the_model_wrote_is_escaped() -> None:
    hostile = replace(STRIP, question="<script>alert(1)</script>", answer='"><img src=x>')
    text = render(SUMMARY.to_json(), METRICS, [hostile])
    assert "<script>" not in text and "<img" not in text


def test_each_picture_is_shown_once() -> None:
    text = render(SUMMARY.to_json(), [], [STRIP])
    assert text.count("data:image/png") == 2  # the picture with its box, the crop; OCR looks at the crop just shown


def test_what_a_tool_found_is_drawn_in_place_of_its_text() -> None:
    found = Step(
        name="SEG",
        arguments='{"point":[1,2]}',
        picture=png(200, 100),
        boxes=((0, 0, 1, 1),),
        overlay=png(640, 160),
        text='{"mask":"mask_1"}',
    )
    text = render(SUMMARY.to_json(), [], [replace(STRIP, steps=(found,))])
    assert text.count("data:image/png") == 1 and 'class="frame row"' in text and "SEG found this" in text
    assert Page(text).open == []
    failed = replace(found, overlay=None, error=True, text="no")
    assert "failed" in render(SUMMARY.to_json(), [], [replace(STRIP, steps=(failed,))])


def test_wrong_unknown_and_missing_answers_are_told_apart() -> None:
    strips = [
        replace(STRIP, right=False),
        replace(STRIP, right=None, truth=None),
        replace(STRIP, answer=None, right=False, steps=()),
    ]
    text = render(SUMMARY.to_json(), [], strips)
    assert text.count("✗ wrong") == 2 and text.count("no known answer") == 1 and "no answer" in text


def test_a_report_can_be_made_again_from_the_folder(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text(json.dumps(SUMMARY.to_json()))
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in METRICS))
    path = write_report(tmp_path, SUMMARY.to_json(), METRICS, [STRIP])
    written = path.read_text()
    path.unlink()
    assert rebuild(tmp_path).read_text() == written


def test_a_folder_without_a_finished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="no finished run"):
        rebuild(tmp_path)


def test_metrics_that_vary_are_drawn_and_colours_follow_the_page() -> None:
    (curve,) = curves(METRICS)
    assert (curve.title, curve.last) == ("loss", "0.05")
    assert "currentColor" in curve.svg and "#010203" not in curve.svg and "<metadata" not in curve.svg
    assert curves([]) == []


def test_the_leading_metrics_come_first() -> None:
    lines = [
        {"phase": "rft", "zeta": float(step), "token_kl": float(step), "reward_mean": float(step)} for step in range(3)
    ]
    assert [curve.title for curve in curves(lines)] == ["reward mean", "token kl", "zeta"]


def test_values_that_are_no_numbers_are_left_out() -> None:
    assert curves([{"loss": float("nan")}, {"loss": 1.0}, {"loss": None}, {"loss": 1.0}]) == []


def test_the_running_mean_looks_back_a_tenth() -> None:
    assert running_mean([1.0, 3.0]) == [1.0, 3.0]
    assert running_mean([0.0] * 19 + [2.0])[-1] == 1.0


def test_a_png_tells_its_size() -> None:
    assert png_size(png(7, 5)) == (7, 5)
    with pytest.raises(ValueError, match="not a PNG"):
        png_size(b"GIF89a")
