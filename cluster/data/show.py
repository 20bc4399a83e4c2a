"""`pixelis data show`: a set at a glance, and what is wrong with it."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.data.sources import data_set, passing_store, tidy

if TYPE_CHECKING:
    from rich.console import RenderableType

    from actors.tasks.datasets.row import Broken, Row
    from cluster.config import RunConfig
    from cluster.progress import Progress

_WIDTH = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A set at a glance. rows: the first of them. checked: every picture was decoded, not only found."""

    name: str
    rows: tuple[Row, ...]
    num_rows: int
    kinds: dict[str, int]
    families: dict[str, int]
    broken: tuple[Broken, ...]
    num_broken: int
    checked: bool

    def to_json(self) -> dict[str, Any]:
        rows = [dataclasses.asdict(row) | {"media": [_medium(item) for item in row.media]} for row in self.rows]
        return dataclasses.asdict(self) | {"rows": rows, "broken": [str(item) for item in self.broken]}

    def table(self) -> RenderableType:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(title=f"{self.name}: {self.num_rows} usable rows", title_justify="left")
        for heading in ("id", "media", "question", "answer", "kind", "family"):
            table.add_column(heading, overflow="fold")
        for row in self.rows:
            media = _medium(row.media[0]) + (f" and {len(row.media) - 1} more" if len(row.media) > 1 else "")
            answer = " | ".join(row.answers)
            texts = (row.row_id, media, _short(row.question), _short(answer), row.kind, row.family)
            table.add_row(*map(Text, texts))
        lines: list[RenderableType] = [table, Text(f"kinds: {_listed(self.kinds)}")]
        lines.append(Text(f"families: {_listed(self.families)}"))
        if self.num_broken:
            lines.append(Text(f"{self.num_broken} rows cannot be used:", style="red"))
            lines += [Text(f"  {item}") for item in self.broken]
        if not self.checked:
            lines.append(
                Text("pictures beyond the first rows were found, not decoded; --check decodes all", style="dim")
            )
        return Group(*lines)


def show(config: RunConfig, name: str, media: Path | None, *, num_rows: int, check: bool, progress: Progress) -> Shown:
    """The first rows, counts, and what is broken. Raises DataError, one line, where the set cannot be read."""
    from actors.tasks.datasets.row import Broken
    from actors.tasks.datasets.tasks import MOST_NAMED, nothing_left

    data = data_set(config, name, media)
    rows: list[Row] = []
    broken: list[Broken] = []
    kinds: Counter[str] = Counter()
    families: Counter[str] = Counter()
    num_broken = 0
    progress.start(f"reading {name}")
    with passing_store() as store:
        for done, row in enumerate(data.rows(), 1):
            fault: Broken | None = None
            if isinstance(row, Broken):
                fault = row
            elif check or len(rows) < num_rows:
                task = data.task(row, store, config.tools.media_limits)
                fault = task if isinstance(task, Broken) else None
                tidy(store, done)
            else:
                fault = data.missing(row)
            if fault is not None:
                num_broken += 1
                broken += [fault] if len(broken) < MOST_NAMED else []
            elif not isinstance(row, Broken):
                kinds[row.kind] += 1
                families[row.family] += 1
                rows += [row] if len(rows) < num_rows else []
            progress.update(done, broken=num_broken)
    progress.finish()
    if not kinds:
        raise nothing_left(data.name, broken)
    return Shown(
        name=name,
        rows=tuple(rows),
        num_rows=kinds.total(),
        kinds=dict(kinds.most_common()),
        families=dict(families.most_common()),
        broken=tuple(broken),
        num_broken=num_broken,
        checked=check,
    )


def _medium(item: str | bytes) -> str:
    return item if isinstance(item, str) else f"{len(item):,} bytes"


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _WIDTH else flat[: _WIDTH - 1] + "…"


def _listed(counts: dict[str, int]) -> str:
    shown = [f"{name} {number}" for name, number in list(counts.items())[:12]]
    return ", ".join(shown) + (f" and {len(counts) - 12} more" if len(counts) > 12 else "")
