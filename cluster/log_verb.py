"""`pixelis log`: what a run's replay log holds, in numbers, as lines, or as Parquet; and taking a source out of it.

pixelis log stats demo
pixelis log cat demo --kind draw,rewind --from 1000 --limit 20
pixelis log export demo --out demo-log
pixelis log erase demo --source actor-3
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from common.errors import DataError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from cluster.output import Result
    from replay.export import Exported
    from replay.survey import Survey


@dataclass(frozen=True, slots=True, kw_only=True)
class SurveyResult:
    """A survey, to be shown."""

    survey: Survey

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self.survey) | {"dedupe_ratio": self.survey.media.dedupe_ratio}

    def table(self) -> RenderableType:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        held, media = self.survey, self.survey.media
        epochs = {segment.epoch for segment in held.segments if segment.epoch is not None}
        lines: list[Any] = [
            Text(f"{held.folder}: {held.num_records:,} records, {held.num_bytes:,} bytes", style="bold"),
            Text(f"  {len(held.segments)} segments by {len(epochs)} writers"),
        ]
        if held.lost_records or held.torn_bytes or held.unreadable:
            damage = f"{held.lost_records} records lost, {held.unreadable} unreadable, {held.torn_bytes} bytes torn"
            lines.append(Text(f"  {damage}: see `pixelis audit`", style="yellow"))
        ratio = "" if media.dedupe_ratio is None else f", each byte mentioned {media.dedupe_ratio:.2f} times"
        lines.append(
            Text(f"  {media.num_kept:,} media, {media.num_bytes:,} bytes; {media.num_referred:,} needed{ratio}")
        )
        table = Table("records", "number", "bytes", header_style="bold")
        for name, count in held.kinds.items():
            table.add_row(name, f"{count.num_records:,}", f"{count.num_bytes:,}")
        lines.append(table)
        for title, counts in (("phase", held.phases), ("family", held.families), ("oldest version", held.versions)):
            lines.append(_counted(title, counts))
        return Group(*lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportResult:
    """An export, to be shown."""

    exported: Exported

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self.exported)

    def table(self) -> RenderableType:
        done = self.exported
        return (
            f"{done.folder}: {done.num_rollouts:,} rollouts and {done.num_records:,} other records, "
            f"{done.num_bytes:,} bytes"
        )


def arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "what",
        choices=("stats", "cat", "export", "erase"),
        help="count, list as lines of JSON, write as Parquet, or erase a source for good",
    )
    add("folder", metavar="run", help="the run's folder, or its name under runs/")
    add("--kind", default="", metavar="KINDS", help="cat: rollout, draw, rewind, …; several with commas")
    add("--from", dest="first", type=int, default=0, metavar="N", help="cat: the first record's number")
    add("--to", dest="last", type=int, metavar="N", help="cat: the last record's number")
    add("--limit", type=int, metavar="N", help="cat: at most so many records")
    add("--whole", action="store_true", help="cat: show long lists and texts to their end")
    add("--out", metavar="DIR", help="export: the new folder to write rollouts.parquet and records.parquet to")
    add("--source", metavar="NAME", help="erase: a source, the name of a producer, or the id of a query")
    add("--yes", action="store_true", help="erase: do not ask")


def perform(options: argparse.Namespace) -> Result:
    """stats, export and erase. Raises UserError, one line."""
    if options.what == "stats":
        from replay.survey import survey

        return SurveyResult(survey=survey(_replay(options)))
    if options.what == "erase":
        from cluster.erase_verb import erase

        if options.source is None:
            raise DataError("erase needs --source NAME: a source, a producer's name or a query's id")
        return erase(_replay(options), options.source, run=options.folder, ask=not options.yes)
    from replay.export import export

    if options.out is None:
        raise DataError("export needs --out DIR, a new folder to write to")
    return ExportResult(exported=export(_replay(options), Path(options.out)))


def cat(options: argparse.Namespace, out: TextIO) -> None:
    """A line of JSON a record. Ends quietly when whoever reads has seen enough. Raises UserError, one line."""
    from replay.listing import kind_of, listing
    from replay.reading import KIND_NAMES

    names = [name for name in options.kind.split(",") if name]
    known = set(KIND_NAMES.values())
    if unknown := [name for name in names if name not in known]:
        raise DataError(f"no kind of record is called {unknown[0]}; there are {', '.join(sorted(known))}")
    lines = listing(
        _replay(options),
        kinds={kind_of(name) for name in names},
        first=options.first,
        stop=None if options.last is None else options.last + 1,
        limit=options.limit,
        whole=options.whole,
    )
    try:
        for line in lines:
            out.write(json.dumps(line, ensure_ascii=False, default=str) + "\n")
        out.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains once more at its end


def _replay(options: argparse.Namespace) -> Path:
    from cluster.runs import named_run, replay_folder

    return replay_folder(named_run(options.folder))


def _counted(title: str, counts: Mapping[str, int]) -> RenderableType:
    from rich.text import Text

    return Text(f"  rollouts by {title}: " + ", ".join(f"{name} {number:,}" for name, number in counts.items()))
