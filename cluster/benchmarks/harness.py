"""Measuring fairly: ours and the peer in turn, medians, spread, and whether a promise holds.

A busy machine drifts by tens of percent within minutes. Rounds therefore alternate between ours and the peer, each
round gives one ratio of neighbours in time, and the median of ratios is reported, with the middle half of them as its
spread.

A suite is a module of this package with `measure(config, progress, rounds) -> Sequence[Figure]`.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
import statistics
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, cast

from cluster.benchmarks.machine import describe
from common.errors import UserError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from cluster.config import RunConfig
    from cluster.progress import Progress

T = TypeVar("T")

NOT_SUITES = (
    *("faults", "harness", "hostile", "hota", "machine", "models", "recorded", "soak"),
    *("perception", "perception_reading", "perception_segments"),
    *("replay_draws", "replay_log", "replay_peer", "replay_peers", "replay_putter", "replay_rows"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured figure.

    value, peer_value: medians in `unit`. ratio: median over rounds of value / peer_value. spread: width of the middle
    half, relative to the median, of the ratios where there is a peer, else of the values. noise: how far from 1 the
    middle half of the peer's ratios to itself reaches, measured the same way; None where it was not. target: what the
    ratio (with a peer) or the value (without) must reach; None makes no promise. better: which way is good.
    """

    name: str
    value: float
    unit: str
    peer: str | None = None
    peer_value: float | None = None
    ratio: float | None = None
    spread: float = 0.0
    noise: float | None = None
    target: float | None = None
    better: Literal["higher", "lower"] = "higher"

    @property
    def holds(self) -> bool:
        """Whether the target is reached; a figure without one always holds, one that is no number never does."""
        measured = self.value if self.ratio is None else self.ratio
        if math.isnan(measured):
            return False
        if self.target is None:
            return True
        return measured >= self.target if self.better == "higher" else measured <= self.target


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """All figures of a benchmark run."""

    machine: dict[str, Any]
    figures: tuple[Figure, ...]

    @property
    def holds(self) -> bool:
        return all(figure.holds for figure in self.figures)

    def to_json(self) -> dict[str, Any]:
        return {
            "machine": self.machine,
            "figures": [{**asdict(figure), "holds": figure.holds} for figure in self.figures],
        }

    def table(self) -> RenderableType:
        """A row a figure."""
        from rich.table import Table

        table = Table(header_style="bold")
        for number, column in enumerate(
            ("figure", "value", "unit", "peer", "peer's value", "ratio", "spread", "noise", "target", "")
        ):
            table.add_column(column, justify="left" if number in (0, 2, 3) else "right")
        for figure in self.figures:
            sign = "≥" if figure.better == "higher" else "≤"
            table.add_row(
                figure.name,
                f"{figure.value:.4g}",
                figure.unit,
                figure.peer or "–",
                _text(figure.peer_value),
                _text(figure.ratio),
                f"{100 * figure.spread:.0f} %",
                "–" if figure.noise is None else f"±{100 * figure.noise:.0f} %",
                "–" if figure.target is None else f"{sign} {figure.target:g}",
                "" if figure.target is None else ("[green]holds[/]" if figure.holds else "[bold red]does not hold[/]"),
            )
        return table


class Suite(Protocol):
    """What a suite's module offers."""

    def measure(self, config: RunConfig, progress: Progress, rounds: int) -> Sequence[Figure]: ...


def suites() -> tuple[str, ...]:
    """Names of all suites: the modules of this package, except those that serve them."""
    package = importlib.import_module("cluster.benchmarks")
    return tuple(
        sorted(module.name for module in pkgutil.iter_modules(package.__path__) if module.name not in NOT_SUITES)
    )


def measure(names: Sequence[str], config: RunConfig, progress: Progress, *, rounds: int) -> Outcome:
    """Run the suites called `names`, all when none is named. Raises UserError for a name that is none."""
    known = suites()
    for name in names:
        if name not in known:
            raise UserError(f"no suite {name!r}; there are {', '.join(known)}")
    if rounds < 1:
        raise UserError(f"--rounds must be at least 1, got {rounds}")
    figures: list[Figure] = []
    for name in names or known:
        suite = cast("Suite", importlib.import_module(f"cluster.benchmarks.{name}"))
        progress.start(f"bench {name}")
        figures.extend(suite.measure(config, progress, rounds))
    return Outcome(machine=asdict(describe()), figures=tuple(figures))


async def interleaved(
    ours: Callable[[], Awaitable[T]], peer: Callable[[], Awaitable[T]], *, rounds: int, warmups: int = 1
) -> tuple[list[T], list[T]]:
    """`rounds` values of each, measured in turn; who goes first alternates. Warm-ups are thrown away."""
    for _ in range(warmups):
        await ours()
        await peer()
    mine: list[T] = []
    theirs: list[T] = []
    for number in range(rounds):
        for subject, values in ((ours, mine), (peer, theirs)) if number % 2 == 0 else ((peer, theirs), (ours, mine)):
            values.append(await subject())
    return mine, theirs


async def in_turn(
    ours: Callable[[], Awaitable[T]], peer: Callable[[], Awaitable[T]], *, rounds: int, warmups: int = 1
) -> tuple[list[T], list[T], list[T]]:
    """As `interleaved`, and the peer once more in every round, so that it can be compared with itself."""
    for _ in range(warmups):
        await ours()
        await peer()
    mine, theirs, again = list[T](), list[T](), list[T]()
    for number in range(rounds):
        order = ((ours, mine), (peer, theirs), (peer, again))
        for subject, values in (order, (order[1], order[2], order[0]), (order[2], order[0], order[1]))[number % 3]:
            values.append(await subject())
    return mine, theirs, again


def compared(
    name: str,
    ours: Sequence[float],
    peer: Sequence[float],
    *,
    unit: str,
    against: str,
    target: float | None = None,
    better: Literal["higher", "lower"] = "higher",
    again: Sequence[float] = (),
) -> Figure:
    """A figure against a peer from interleaved rounds. again: the peer's second value in each, where there is one."""
    ratios = [mine / theirs for mine, theirs in zip(ours, peer, strict=True)]
    return Figure(
        name=name,
        value=statistics.median(ours),
        unit=unit,
        peer=against,
        peer_value=statistics.median(peer),
        ratio=statistics.median(ratios),
        spread=spread(ratios),
        noise=_noise([one / other for one, other in zip(peer, again, strict=True)]) if again else None,
        target=target,
        better=better,
    )


def single(
    name: str,
    values: Sequence[float],
    *,
    unit: str,
    target: float | None = None,
    better: Literal["higher", "lower"] = "lower",
) -> Figure:
    """A figure of our own."""
    return Figure(
        name=name, value=statistics.median(values), unit=unit, spread=spread(values), target=target, better=better
    )


def spread(values: Sequence[float]) -> float:
    """(third quartile − first quartile) / |median|; 0 for one value."""
    if len(values) < 2:
        return 0.0
    first, median, third = statistics.quantiles(values, n=4, method="inclusive")
    return (third - first) / abs(median) if median else 0.0


def _noise(ratios: Sequence[float]) -> float:
    """The larger distance of a quartile from 1; of one ratio, its own."""
    if len(ratios) < 2:
        return abs(ratios[0] - 1)
    first, _, third = statistics.quantiles(ratios, n=4, method="inclusive")
    return max(abs(first - 1), abs(third - 1))


def _text(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
