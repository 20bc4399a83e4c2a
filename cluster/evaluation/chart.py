"""Accuracy of every family in every arm, with its interval, as inline SVG."""

from __future__ import annotations

from cluster.charts import INK, as_inline_svg, svg_style
from cluster.evaluation.results import Comparison

ARM_COLOURS = {"learned": "#3b82f6", "no_tool": "#8a8f98", "random_tool": "#f59e0b", "forced_tool": "#a855f7"}
"""Readable on white and on near-black."""


def families_chart(comparison: Comparison) -> str:
    """Grouped bars: all tasks first, then each family; whiskers are the intervals."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    names = ["all", *comparison.arms["learned"].families]
    width = 0.8 / len(comparison.arms)
    with mpl.rc_context(svg_style("families")):
        figure = Figure(figsize=(max(5.0, 1.0 + 0.85 * len(names)), 3.2), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        for number, (arm, scores) in enumerate(comparison.arms.items()):
            found = [scores.overall.accuracy, *(scores.families[name].accuracy for name in names[1:])]
            places = [at + (number - (len(comparison.arms) - 1) / 2) * width for at in range(len(names))]
            values = [100 * each.value for each in found]
            below = [
                value - 100 * (each.value if each.low is None else each.low)
                for value, each in zip(values, found, strict=True)
            ]
            above = [
                100 * (each.value if each.high is None else each.high) - value
                for value, each in zip(values, found, strict=True)
            ]
            axes.bar(places, values, 0.9 * width, color=ARM_COLOURS.get(arm, "#14b8a6"))
            whiskers = [[max(0.0, item) for item in side] for side in (below, above)]
            axes.errorbar(places, values, yerr=whiskers, fmt="none", ecolor=INK, elinewidth=0.8, capsize=1.5)
        axes.set_xticks(range(len(names)), [name.replace("_", " ") for name in names])
        if len(names) > 6:
            axes.tick_params(axis="x", rotation=25)
        axes.set_ylim(0, 100)
        axes.set_ylabel("accuracy, %")
        axes.axvline(0.5, color=INK, alpha=0.25, linewidth=0.6)
        axes.grid(axis="y", color=INK, alpha=0.12, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(length=0)
        return as_inline_svg(figure)
