"""`pixelis data`: sets of tasks, written, looked at, and compared.

    pixelis data world --out sets/world --split test --count 1000 --shift dark:0.3
    pixelis data show sets/world
    pixelis data leaks sets/world easy-vqa world:train --refuse

What `show` and `leaks` take as a set: whatever `read_tasks` reads (actors/tasks/datasets/readers.py), world:SPLIT, or a
run's folder, which stands for the queries that its neighbour index holds.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import combinations, count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.tool_verb import live_base
from common.errors import DataError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from actors.tasks.datasets.leaks import Leaks
    from actors.tasks.datasets.prints import Prints
    from actors.tasks.datasets.row import Broken, Row
    from actors.tasks.datasets.tasks import DataSet
    from cluster.config import RunConfig
    from cluster.progress import Progress
    from common.media import FolderMediaStore
    from common.types import Query, Task

WORLD_COUNT = 1000
"""Tasks of the world where nobody says how many."""
_TIDY_BYTES = 256 * 2**20
"""What a pass over a set keeps of its media."""
_WIDTH = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A set of the world that was written."""

    file: str
    split: str
    shift: str
    tasks: int
    families: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def table(self) -> RenderableType:
        parts = ", ".join(f"{number} {family}" for family, number in self.families.items())
        return (
            f"{self.file}: {self.tasks} tasks of {self.split}{f' under {self.shift}' if self.shift else ''} ({parts})"
        )


def export_world(
    config: RunConfig, out: Path, *, split: str, number: int, shift: str, force: bool, progress: Progress
) -> Exported:
    """Write the first `number` tasks of a split. Raises UserError, one line, where it cannot or would overwrite."""
    from actors.tasks.datasets.export import write_tasks

    if number < 1:
        raise DataError(f"--count must be at least 1, got {number}")
    file = out / f"{'-'.join(filter(None, (split, shift.replace(':', '-'))))}.parquet"
    if file.exists() and not force:
        raise DataError(f"{file} is there already; add --force to replace it, or choose another --out")
    families: Counter[str] = Counter()
    with _store() as store:
        tasks = islice(_counted(_world(config, store, split, shift), families), number)
        first = next(tasks)  # a wrong split or shift shows before anything is written
        try:
            out.mkdir(parents=True, exist_ok=True)
            progress.start(f"writing {file}", number)
            about = {"split": split, "shift": shift, "seed": str(config.world.seed)}
            write_tasks(_before(first, tasks), file, store, about=about, written=progress.update)
        except OSError as error:
            raise DataError(f"{file}: cannot be written ({error.strerror})") from error
        progress.finish()
    return Exported(file=str(file), split=split, shift=shift, tasks=number, families=dict(sorted(families.items())))


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

    data = _data(config, name, media)
    rows: list[Row] = []
    broken: list[Broken] = []
    kinds: Counter[str] = Counter()
    families: Counter[str] = Counter()
    num_broken = 0
    progress.start(f"reading {name}")
    with _store() as store:
        for done, row in enumerate(data.rows(), 1):
            fault: Broken | None = None
            if isinstance(row, Broken):
                fault = row
            elif check or len(rows) < num_rows:
                task = data.task(row, store, config.tools.media_limits)
                fault = task if isinstance(task, Broken) else None
                _tidy(store, done)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """What every two of the sets share. left_out: rows of each set that could not be used."""

    leaks: tuple[Leaks, ...]
    left_out: dict[str, int] = field(default_factory=dict)

    @property
    def clean(self) -> bool:
        return all(leak.clean for leak in self.leaks)

    def to_json(self) -> dict[str, Any]:
        return {
            "clean": self.clean,
            "left_out": self.left_out,
            "leaks": [dataclasses.asdict(leak) | {"clean": leak.clean} for leak in self.leaks],
        }

    def table(self) -> RenderableType:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(title="What the second set has from the first", title_justify="left")
        for heading in ("first", "second", "pictures", "same pixels", "alike", "same task", "same question"):
            table.add_column(heading, justify="left" if heading in ("first", "second") else "right")
        examples: list[RenderableType] = []
        for leak in self.leaks:
            alike = "not asked" if leak.distance is None else f"{leak.near} items, {leak.near_pairs} pairs"
            exact = f"{leak.exact} items, {leak.exact_pairs} pairs"
            pictures = f"{leak.pictures[0]:,} × {leak.pictures[1]:,}"
            of = f"of {leak.items[1]}"
            table.add_row(
                Text(leak.first),
                Text(leak.second),
                pictures,
                exact,
                alike,
                f"{leak.tasks} {of}",
                f"{leak.questions} {of}",
            )
            for pair in leak.pairs:
                how = "the same pixels" if pair.distance < 0 else f"{pair.distance} bits apart"
                asked = ", the same question" if pair.same_question else ""
                examples.append(Text(f"{leak.first} {pair.first} – {leak.second} {pair.second}: {how}{asked}"))
        lost = [Text(f"{name}: {number} rows could not be used", style="red") for name, number in self.left_out.items()]
        return Group(table, *examples, *lost)


def compare(
    config: RunConfig,
    names: list[str],
    media: Path | None,
    *,
    number: int | None,
    distance: int | None,
    progress: Progress,
) -> Compared:
    """Every two of the sets, at most `number` items of each. Raises UserError, one line."""
    from actors.tasks.datasets.leaks import find_leaks

    if len(names) < 2 or len(set(names)) < len(names):
        raise DataError(f"leaks compares two or more different sets, got {', '.join(names) or 'none'}")
    left_out: dict[str, int] = {}
    sets: list[Prints] = []
    for name in names:
        prints, num_broken = _prints(config, name, media, number, progress)
        sets.append(prints)
        if num_broken:
            left_out[name] = num_broken
    found = []
    for first, second in combinations(sets, 2):
        progress.start(f"comparing {first.name} and {second.name}", len(first.exact))
        try:
            found.append(find_leaks(first, second, distance=distance, compared=progress.update))
        except ValueError as error:
            raise DataError(str(error)) from error
        progress.finish()
    return Compared(leaks=tuple(found), left_out=left_out)


def _prints(
    config: RunConfig, name: str, media: Path | None, number: int | None, progress: Progress
) -> tuple[Prints, int]:
    """The fingerprints of a set, and how many of its rows could not be used."""
    from actors.tasks.datasets.prints import prints_of
    from actors.tasks.datasets.tasks import nothing_left
    from common.media import MediaSource
    from replay.packs import PackedMedia

    progress.start(f"looking at {name}")
    with _store() as store:
        broken: list[Broken] = []
        queries: Iterator[Query]
        home: MediaSource = store
        if name.startswith("world:"):
            split = name.removeprefix("world:")
            queries = (task.query for task in islice(_world(config, store, split, ""), number or WORLD_COUNT))
        elif (folder := Path(name) / "replay").is_dir():
            queries, home = islice(indexed_queries(Path(name)), number), PackedMedia(folder / "media")
        else:
            queries = _usable(config, _data(config, name, media), store, number, broken)

        def tidy(done: int) -> None:
            progress.update(done)
            _tidy(store, done)

        prints = prints_of(name, queries, home, drawn=tidy)
        if not prints.ids:
            raise nothing_left(name, broken)
    progress.finish()
    return prints, len(broken)


def _usable(
    config: RunConfig, data: DataSet, store: FolderMediaStore, number: int | None, broken: list[Broken]
) -> Iterator[Query]:
    from actors.tasks.datasets.row import Broken

    done = 0
    for task in data.tasks(store, config.tools.media_limits):
        if done == number:
            return
        if isinstance(task, Broken):
            broken.append(task)
        else:
            done += 1
            yield task.query


def indexed_queries(run: Path) -> Iterator[Query]:
    """The queries that a run's neighbour index holds, each once. Raises UserError where the index holds none.

    The log is what the index is made from, so it is asked; the rollouts in it carry the queries.
    """
    from cluster.reenact import rollouts_of
    from replay.records import Experience, Kind, decode
    from replay.segments import read_frames

    log = run / "replay" / "log"
    frames = read_frames(log) if log.is_dir() else iter(())
    records = (decode(frame.kind, bytes(frame.body)) for frame in frames if frame.kind == Kind.EXPERIENCE)
    wanted = {record.query_id for record in records if isinstance(record, Experience)}
    if not wanted:
        raise DataError(f"{run}: its neighbour index holds nothing; a run remembers when it adapts")
    for rollout in rollouts_of(run, None):
        if rollout.query.query_id in wanted:
            wanted.discard(rollout.query.query_id)
            yield rollout.query


def _data(config: RunConfig, name: str, media: Path | None) -> DataSet:
    from actors.tasks.datasets.readers import open_source
    from actors.tasks.datasets.tasks import DataSet

    return DataSet(open_source(name, media, reader=config.evaluation.reader))


def _world(config: RunConfig, store: FolderMediaStore, split: str, shift: str) -> Iterator[Task]:
    """Tasks of a split, without end. Raises DataError for a split or a shift that the world does not have."""
    from actors.tasks.world.world import World

    world = World(config.world, store)
    for index in count():
        try:
            task = world.task(split, index, shift=shift)
        except ValueError as error:
            if index:
                raise
            raise DataError(str(error)) from error
        yield task


def _counted(tasks: Iterable[Task], families: Counter[str]) -> Iterator[Task]:
    for task in tasks:
        families[task.family] += 1
        yield task


def _before(first: Task, others: Iterable[Task]) -> Iterator[Task]:
    yield first
    yield from others


@contextmanager
def _store() -> Iterator[FolderMediaStore]:
    from common.media import FolderMediaStore

    with tempfile.TemporaryDirectory(prefix="pixelis-data-", dir=live_base()) as live:
        yield FolderMediaStore(Path(live))


def _tidy(store: FolderMediaStore, done: int) -> None:
    """Forget media of earlier rows, now and then."""
    if done % 64 == 0:
        store.trim(_TIDY_BYTES)


def _medium(item: str | bytes) -> str:
    return item if isinstance(item, str) else f"{len(item):,} bytes"


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _WIDTH else flat[: _WIDTH - 1] + "…"


def _listed(counts: dict[str, int]) -> str:
    shown = [f"{name} {number}" for name, number in list(counts.items())[:12]]
    return ", ".join(shown) + (f" and {len(counts) - 12} more" if len(counts) > 12 else "")


def perform(options: Any, config: RunConfig, progress: Progress) -> tuple[Exported | Shown | Compared, int]:
    """What `pixelis data` was asked for, and its exit status. Raises UserError, one line."""
    media = None if options.media is None else Path(options.media)
    if options.what == "world":
        if options.out is None or options.sets:
            raise DataError("data world needs --out and takes no sets")
        number = options.count or WORLD_COUNT
        split, shift = options.split, options.shift
        out = Path(options.out)
        return export_world(
            config, out, split=split, number=number, shift=shift, force=options.force, progress=progress
        ), 0
    if options.what == "show":
        if len(options.sets) != 1:
            raise DataError("data show takes one set")
        (name,) = options.sets
        return show(config, name, media, num_rows=options.rows, check=options.check, progress=progress), 0
    from actors.tasks.datasets.leaks import DISTANCE

    distance = None if options.exact else DISTANCE if options.distance is None else options.distance
    compared = compare(config, options.sets, media, number=options.count, distance=distance, progress=progress)
    return compared, int(options.refuse and not compared.clean)
