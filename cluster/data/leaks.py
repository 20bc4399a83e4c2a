"""`pixelis data leaks`: what sets share, two by two."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import combinations, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.data.sources import WORLD_COUNT, data_set, passing_store, tidy, world_tasks
from common.errors import DataError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from actors.tasks.datasets.leaks import Leaks
    from actors.tasks.datasets.prints import Prints
    from actors.tasks.datasets.row import Broken
    from actors.tasks.datasets.tasks import DataSet
    from actors.traces.sets import TraceSet
    from cluster.config import RunConfig
    from cluster.progress import Progress
    from common.media import FolderMediaStore, MediaSource
    from common.types import Query
    from replay.packs import PackedMedia


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
    from actors.traces.sets import ABOUT, open_set
    from common.layers import LayeredMediaStore
    from common.media import FolderMediaStore

    progress.start(f"looking at {name}")
    with passing_store() as store:
        broken: list[Broken] = []
        queries: Iterator[Query]
        home: MediaSource = store
        if name.startswith("world:"):
            split = name.removeprefix("world:")
            queries = (task.query for task in islice(world_tasks(config, store, split, ""), number or WORLD_COUNT))
        elif (Path(name) / "replay").is_dir():
            queries = islice(indexed_queries(Path(name), store, broken), number)
            home = LayeredMediaStore(store.root, [replay_media(Path(name))])
        elif (Path(name) / ABOUT).is_file():
            traces = open_set(Path(name))
            queries, home = islice(_asked(traces), number), FolderMediaStore(traces.media)
        else:
            queries = _usable(config, data_set(config, name, media), store, number, broken)

        def drawn(done: int) -> None:
            progress.update(done)
            tidy(store, done)

        prints = prints_of(name, queries, home, drawn=drawn)
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


def _asked(traces: TraceSet) -> Iterator[Query]:
    """What a set's traces answer, each query once."""
    known: set[str] = set()
    for trace in traces.traces():
        if trace.query.query_id not in known:
            known.add(trace.query.query_id)
            yield trace.query


def replay_media(run: Path) -> PackedMedia:
    """Where the replay of a run keeps what its rollouts show."""
    from replay.packs import PackedMedia

    return PackedMedia(run / "replay" / "media")


def indexed_queries(run: Path, store: FolderMediaStore, lost: list[Broken]) -> Iterator[Query]:
    """The queries that a run's neighbour index holds, each once; those that are not to be had go to `lost`. Raises
    UserError where the index holds none.

    The log is what the index is made from, so it is asked which they are. A recorded rollout carries its query; tasks
    of the world, which a run evaluates to fill its index and does not record, are drawn again into `store`.
    """
    from actors.tasks.datasets.row import Broken
    from cluster.reenact import rollouts_of
    from replay.records import Experience, Kind, decode
    from replay.segments import read_frames

    log = run / "replay" / "log"
    frames = read_frames(log) if log.is_dir() else iter(())
    records = (decode(frame.kind, bytes(frame.body)) for frame in frames if frame.kind == Kind.EXPERIENCE)
    wanted = dict.fromkeys(record.query_id for record in records if isinstance(record, Experience))
    if not wanted:
        raise DataError(f"{run}: its neighbour index holds nothing; a run remembers when it adapts")
    for rollout in rollouts_of(run, None):
        if rollout.query.query_id in wanted:
            del wanted[rollout.query.query_id]
            yield rollout.query
    draw = _drawn_again(run, store)
    for number, query_id in enumerate(wanted, 1):
        query = draw(query_id)
        if query is None:
            lost.append(Broken(source=str(run), number=number, reason=f"{query_id}: neither recorded nor of the world"))
        else:
            yield query


def _drawn_again(run: Path, store: FolderMediaStore) -> Callable[[str], Query | None]:
    """Tasks of the world that the run was trained on, by their names; None for a name that is none."""
    from actors.tasks.config import WorldConfig
    from actors.tasks.world.world import SPLITS, World
    from cluster.runs import read_manifest
    from cluster.strict import convert

    manifest = read_manifest(run)
    values = (manifest or {}).get("config")
    world = World(convert(values["world"], WorldConfig), store) if values else None

    def drawn(query_id: str) -> Query | None:
        split, _, index = query_id.rpartition("-")
        return world.task(split, int(index)).query if world and split in SPLITS and index.isdecimal() else None

    return drawn
