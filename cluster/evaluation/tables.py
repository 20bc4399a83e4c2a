"""An evaluation in words: figures by arms, then families by arms. Shares are in percent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from actors.arms import ABLATIONS
from cluster.evaluation.metrics import FIGURES, Effect, Figure, Figures
from cluster.evaluation.results import Comparison, Evaluation
from cluster.summary import clock

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

ARM_TITLES = {"learned": "learned", "no_tool": "no tool", "random_tool": "random tool", "forced_tool": "forced tool"}
ARM_TITLES |= {arm: arm.replace("_", " ") for arm in ABLATIONS}
TITLES: Mapping[str, str] = {
    "accuracy": "accuracy",
    "anls": "ANLS",
    "mra": "MRA",
    "coverage": "coverage",
    "selective_accuracy": "accuracy where answered",
    "valid_calls": "valid calls",
    "rapr": "RaPR",
    "racpr": "RaCPR",
    "calls": "calls a rollout",
    "excess_calls": "excess calls",
    "tokens": "tokens sampled",
}
COUNTS = ("calls", "excess_calls", "tokens")
"""Figures that are no shares."""


def table(evaluation: Evaluation) -> RenderableType:
    """Everything, for a terminal."""
    from rich.console import Group
    from rich.text import Text

    comparison = evaluation.comparison
    head = Text(f"{evaluation.name} · {evaluation.num_tasks} tasks: {evaluation.tasks}", style="bold")
    foot = (
        f"{clock(evaluation.measuring_s)} for all arms, {clock(evaluation.wall_s)} in all · 95 % intervals · "
        f"seed {evaluation.seed} · {evaluation.machine}"
    )
    page = [Text(f"page: {evaluation.page}", style="dim")] if evaluation.page else []
    return Group(
        head,
        _table(*overall(comparison)),
        _table(*families(comparison)),
        *(Text(line) for line in effect_lines(comparison)),
        Text(foot, style="dim"),
        *page,
    )


def overall(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Header and rows: a figure a row, an arm a column."""
    shown = [name for name in FIGURES if any(_figure(scores.overall, name) for scores in comparison.arms.values())]
    rows = [
        [TITLES[name], *(cell(_figure(scores.overall, name), name) for scores in comparison.arms.values())]
        for name in shown
    ]
    return ["all tasks", *(ARM_TITLES.get(arm, arm) for arm in comparison.arms)], rows


def families(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Header and rows: a family a row; accuracy of every arm, then what tools gain and harm and how the policy acts."""
    learned = comparison.arms["learned"].families
    against = comparison.effects.get("no_tool")
    header = ["family", "tasks", *(ARM_TITLES.get(arm, arm) for arm in comparison.arms)]
    header += ["gain", "harm", "p"] if against else []
    header += ["valid calls", "calls", "excess"]
    rows = []
    for name, figures in learned.items():
        row = [name, str(figures.num_tasks)]
        row += [cell(scores.families[name].accuracy, "accuracy") for scores in comparison.arms.values()]
        if against:
            row += [percent(against.families[name].gain.value), percent(against.families[name].harm.value)]
            row += [p_text(against.families[name].p_value)]
        row += [percent(figures.valid_calls.value) if figures.valid_calls else "–", f"{figures.calls.value:.2f}"]
        row += [f"{figures.excess_calls.value:.2f}" if figures.excess_calls else "–"]
        rows.append(row)
    return header, rows


def effect_lines(comparison: Comparison) -> list[str]:
    """What the learned arm does against each other one, a line each."""
    return [effect_line(effects.overall) for effects in comparison.effects.values()]


def effect_line(effect: Effect) -> str:
    difference = effect.difference
    span = "" if difference.low is None else f" [{100 * difference.low:+.1f}, {100 * (difference.high or 0):+.1f}]"
    return (
        f"against {ARM_TITLES.get(effect.base, effect.base)}: gain {cell(effect.gain, 'gain')}, harm "
        f"{cell(effect.harm, 'harm')}, difference {100 * difference.value:+.1f}{span} points, "
        f"McNemar {p_text(effect.p_value)}"
    )


def cell(figure: Figure | None, name: str) -> str:
    """ "62.4 [58.1, 66.5]": a share in percent, a count as it is."""
    if figure is None:
        return "–"
    scale, digits = (1, 0 if name == "tokens" else 2) if name in COUNTS else (100, 1)
    value = f"{scale * figure.value:.{digits}f}"
    if figure.low is None or figure.high is None:
        return value
    return f"{value} [{scale * figure.low:.{digits}f}, {scale * figure.high:.{digits}f}]"


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


def p_text(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def _figure(figures: Figures, name: str) -> Figure | None:
    found: Figure | None = getattr(figures, name)
    return found


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    from rich.table import Table

    made = Table(header_style="bold")
    for number, column in enumerate(header):
        made.add_column(column, justify="left" if number == 0 else "right")
    for row in rows:
        made.add_row(*row)
    return made
