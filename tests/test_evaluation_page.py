"""An evaluation as tables, as a page, and as a part of a run's report."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from html.parser import HTMLParser

from fakes.outcomes import an_outcome, outcomes
from rich.console import Console

from cluster.evaluation.arms import Measured
from cluster.evaluation.chart import families_chart
from cluster.evaluation.page import render
from cluster.evaluation.phase import phase_row
from cluster.evaluation.results import Evaluation, compare, item_lines, to_be_read
from cluster.evaluation.tables import cell
from cluster.report import render as render_report
from cluster.summary import PhaseSummary, Summary


def measured() -> Measured:
    """Ten texts and five controls in four arms; tools help on the texts."""

    def arm(name: str, texts: list[float], **changes: object) -> tuple:
        controls = [an_outcome(100 + n, arm=name, family="side", chain=(), **changes) for n in range(5)]
        return (*outcomes(texts, arm=name, **changes), *controls)

    none = {"tools": (), "composite": False, "chained": False}
    return Measured(
        arms={
            "learned": arm("learned", [1.0] * 8 + [0.0] * 2),
            "no_tool": arm("no_tool", [0.0] * 9 + [1.0], answer="<b>7</b>", **none),
            "random_tool": arm("random_tool", [0.0] * 10, tools=("SEG",), composite=False, chained=False),
            "forced_tool": arm("forced_tool", [1.0] * 7 + [0.0] * 3),
        },
        planned=True,
        wall_s=20.0,
        num_tokens=2000,
    )


def evaluation() -> Evaluation:
    made = measured()
    return Evaluation(
        name="demo",
        command="eval",
        tasks="test split of the world",
        num_tasks=15,
        seed=0,
        version=3,
        comparison=compare(made),
        shown=to_be_read(made),
        versions={"vllm": "0.32.0"},
        config={"seed": 0},
        back_ends={"OCR": "easyocr"},
        machine="two cores",
        measuring_s=20.0,
        wall_s=61.0,
        num_tokens=2000,
        page="runs/demo/eval.html",
    )


def printed() -> str:
    console = Console(width=220, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(evaluation().table())
    return console.export_text()


def test_the_tables_say_what_each_arm_did() -> None:
    text = printed()
    for expected in ("demo · 15 tasks: test split of the world", "no tool", "random tool", "forced tool", "RaCPR"):
        assert expected in text
    assert "86.7 [62.1, 96.3]" in text  # 13 of 15, Wilson
    assert "against no tool: gain 53.3 [30.1, 75.2], harm 6.7 [1.2, 29.8]" in text
    assert "p = 0.039" in text  # 8 gained, 1 harmed: 2 · (1 + 9) / 2⁹
    assert "MRA" not in text  # no task has it


def test_figures_read_as_words() -> None:
    accuracy = compare(measured()).arms["learned"].overall
    assert cell(accuracy.tokens, "tokens").startswith("40 [40, 40]")
    assert cell(None, "mra") == "–"
    assert cell(replace(accuracy.calls, low=None, high=None), "calls") == "2.00"


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.scripts = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()


def test_the_page_is_whole_needs_nothing_else_and_escapes_what_was_answered() -> None:
    text = render(evaluation())
    page = Page(text)
    assert (page.open, page.scripts) == ([], 0)
    assert not re.search(r"url\((?!#)|@import|src=", text)
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert "<b>7</b>" not in text and "&lt;b&gt;7&lt;/b&gt;" in text
    for expected in ("86.7 [62.1, 96.3]", "two cores", "easyocr", "✓ 493", "learned against no tool: gain 53.3"):
        assert expected in text


def test_the_chart_has_a_bar_and_a_whisker_for_every_family_in_every_arm() -> None:
    made = measured()
    svg = families_chart(compare(made))
    for colour in ("#3b82f6", "#8a8f98", "#f59e0b", "#a855f7"):
        assert svg.count(f"fill: {colour}") == 3  # all tasks, side, tiny_text
    assert "tiny text" in svg and "currentColor" in svg and "#010203" not in svg
    assert 'id="LineCollection_' in svg


def test_a_phases_row_carries_its_arms_to_the_report() -> None:
    row = phase_row("sft", measured(), seed=0, token_kl=None)
    assert (row.accuracy, row.accuracy_without_tools) == (13 / 15, 6 / 15)
    assert (row.rapr, row.racpr, row.mean_chain_length) == (1.0, 1.0, 2.0)
    assert row.rollout_tokens_per_s == 100.0
    assert row.accuracy_by_family == {"side": 1.0, "tiny_text": 0.8}
    kept = PhaseSummary(**json.loads(json.dumps(asdict(row))))
    summary = Summary(
        name="demo",
        command="run",
        phases=(kept,),
        versions={},
        config={},
        back_ends={},
        machine="two cores",
        wall_s=1.0,
    )
    text = render_report(summary.to_json(), [], [])
    assert Page(text).open == []
    assert "<h2>Evaluation</h2>" in text and "after SFT" in text and "forced tool" in text
    bare = replace(summary, phases=(replace(kept, comparison={}),))
    assert "<h2>Evaluation</h2>" not in render_report(bare.to_json(), [], [])


def test_a_line_an_outcome_can_be_paired_across_policies() -> None:
    lines = [json.loads(json.dumps(line)) for line in item_lines(measured())]
    assert len(lines) == 60
    assert len({(line["arm"], line["task_id"]) for line in lines}) == 60
    assert lines[0]["score"] == 1.0 and lines[0]["tools"] == ["ZOOM", "OCR"]
