"""Curves as inline SVG. Text and axes take the page's own colour, so one drawing serves light and dark."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PHASE_COLOURS = {"base": "#8a8f98", "sft": "#3b82f6", "rft": "#a855f7", "ttrl": "#f59e0b"}
"""Readable on white and on near-black."""

INK = "#010203"
"""Stands for the page's text colour in matplotlib's output, where it is replaced by currentColor."""

LEADING = ("reward", "score", "accuracy", "loss", "token_kl", "kl", "curiosity", "coherence", "policy_lag", "agreement")
"""Metrics that come first, in this order; the others follow as they appear."""


@dataclass(frozen=True, slots=True)
class Curve:
    """A drawn metric. last: its last value, as text."""

    title: str
    svg: str
    last: str


def curves(metrics: Sequence[Mapping[str, Any]], *, at_most: int = 24) -> list[Curve]:
    """A curve for each numeric metric that varies; `phase` and `step` of each line say where it belongs."""
    names = list(dict.fromkeys(name for line in metrics for name, value in line.items() if _is_number(value)))
    drawn = []
    for name in sorted((name for name in names if name not in ("step", "time_s", "wall_s")), key=_rank):
        points = [
            (index, float(line[name]), str(line.get("phase", "")))
            for index, line in enumerate(metrics)
            if _is_number(line.get(name))
        ]
        if len({value for _, value, _ in points}) > 1:
            drawn.append(Curve(name.replace("_", " "), _draw(points, salt=name), f"{points[-1][1]:.3g}"))
    return drawn[:at_most]


def _rank(name: str) -> tuple[int, int]:
    places = [place for place, leading in enumerate(LEADING) if name == leading or name.startswith(f"{leading}_")]
    return (0, places[0]) if places else (1, 0)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def svg_style(salt: str) -> dict[str, Any]:
    """matplotlib's settings for every drawing. salt: what its ids are made of, so that a page's do not meet."""
    return {
        "svg.fonttype": "none",
        "svg.hashsalt": salt,
        "font.size": 9,
        "font.family": "sans-serif",
        "text.color": INK,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "axes.linewidth": 0.6,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }


def as_inline_svg(figure: Figure) -> str:
    """A drawn figure as an element of a page: no size of its own, its ink the page's colour."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    return re.sub(r'width="[\d.]+pt" height="[\d.]+pt"|height="[\d.]+pt" width="[\d.]+pt"', "", svg, count=1)


def _draw(points: Sequence[tuple[int, float, str]], *, salt: str) -> str:
    """One small chart: every value faintly, their running mean clearly, a colour a phase."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context(svg_style(salt)):
        figure = Figure(figsize=(3.4, 1.9), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        for phase in dict.fromkeys(phase for _, _, phase in points):
            steps = [index for index, _, where in points if where == phase]
            values = [value for _, value, where in points if where == phase]
            colour = PHASE_COLOURS.get(phase, "#14b8a6")
            axes.plot(steps, values, color=colour, linewidth=0.8, alpha=0.35)
            axes.plot(steps, running_mean(values), color=colour, linewidth=1.8)
        axes.grid(axis="y", color=INK, alpha=0.12, linewidth=0.6)
        axes.locator_params(axis="both", nbins=4)
        axes.tick_params(length=0)
        return as_inline_svg(figure)


def running_mean(values: Sequence[float]) -> list[float]:
    """The mean of each value and those shortly before it: a tenth of the curve, at least 1."""
    width = max(1, len(values) // 10)
    return [
        sum(values[max(0, end - width) : end]) / len(values[max(0, end - width) : end])
        for end in range(1, len(values) + 1)
    ]
