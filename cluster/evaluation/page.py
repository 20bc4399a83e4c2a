"""eval.html: an evaluation for people, in one file that needs nothing else; and its part of a run's report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from cluster.evaluation.chart import ARM_COLOURS, families_chart
from cluster.evaluation.results import Comparison, Evaluation
from cluster.evaluation.tables import ARM_TITLES, effect_lines, families, overall
from cluster.report import templates
from cluster.summary import clock


def section(comparison: Comparison) -> dict[str, Any]:
    """What the template `evaluation.html.j2` shows."""
    return {
        "chart": families_chart(comparison),
        "arms": [(ARM_TITLES.get(arm, arm), ARM_COLOURS.get(arm, "#14b8a6")) for arm in comparison.arms],
        "overall": overall(comparison),
        "families": families(comparison),
        "effects": effect_lines(comparison),
    }


def section_of(phase: Mapping[str, Any]) -> dict[str, Any] | None:
    """The same of a phase in summary.json; None where it holds no comparison."""
    return section(Comparison.of(phase["comparison"])) if phase.get("comparison") else None


def render(evaluation: Evaluation) -> str:
    """The page as text."""
    return (
        templates()
        .get_template("eval.html.j2")
        .render(
            evaluation=evaluation,
            section=section(evaluation.comparison),
            arm_titles=ARM_TITLES,
            clock=clock,
            config=json.dumps(evaluation.config, indent=2, ensure_ascii=False),
        )
    )
