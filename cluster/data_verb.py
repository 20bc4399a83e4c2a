"""`pixelis data`: sets of tasks, written, looked at, and compared; published conversations made into traces.

    pixelis data world --out sets/world --split test --count 1000 --shift dark:0.3
    pixelis data show sets/world
    pixelis data leaks sets/world easy-vqa world:train --refuse
    pixelis data import sft.json --format pixel_reasoner --media pictures --out sets/pixel-reasoner

What `show` and `leaks` take as a set: whatever `read_tasks` reads (actors/tasks/datasets/readers.py); of `leaks` also
world:SPLIT, a set of traces, or a run's folder, which stands for the queries that its neighbour index holds.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import DataError

if TYPE_CHECKING:
    from cluster.config import RunConfig
    from cluster.data.imports import Imported
    from cluster.data.leaks import Compared
    from cluster.data.show import Shown
    from cluster.data.world import Exported
    from cluster.progress import Progress


def perform(options: Any, config: RunConfig, progress: Progress) -> tuple[Exported | Shown | Compared | Imported, int]:
    """What `pixelis data` was asked for, and its exit status. Raises UserError, one line."""
    if options.what == "world":
        return _exported(options, config, progress), 0
    if options.what == "show":
        return _shown(options, config, progress), 0
    if options.what == "import":
        return _imported(options, config, progress), 0
    compared = _compared(options, config, progress)
    return compared, int(options.refuse and not compared.clean)


def _exported(options: Any, config: RunConfig, progress: Progress) -> Exported:
    from cluster.data.sources import WORLD_COUNT
    from cluster.data.world import export_world

    if options.out is None or options.sets:
        raise DataError("data world needs --out and takes no sets")
    return export_world(
        config,
        Path(options.out),
        split=options.split,
        number=WORLD_COUNT if options.count is None else options.count,
        shift=options.shift,
        force=options.force,
        progress=progress,
    )


def _shown(options: Any, config: RunConfig, progress: Progress) -> Shown:
    from cluster.data.show import show

    if len(options.sets) != 1:
        raise DataError("data show takes one set")
    (name,) = options.sets
    return show(config, name, _media(options), num_rows=options.rows, check=options.check, progress=progress)


def _compared(options: Any, config: RunConfig, progress: Progress) -> Compared:
    from actors.tasks.datasets.leaks import DISTANCE
    from cluster.data.leaks import compare

    distance = None if options.exact else DISTANCE if options.distance is None else options.distance
    return compare(config, options.sets, _media(options), number=options.count, distance=distance, progress=progress)


def _imported(options: Any, config: RunConfig, progress: Progress) -> Imported:
    from cluster.data.imports import import_set

    if len(options.sets) != 1 or options.format is None or options.out is None:
        raise DataError("data import needs one FILE, --format pixel_reasoner or deepeyes, and --out")
    file = Path(options.sets[0])
    return import_set(
        config,
        file,
        Path(options.out),
        format=options.format,
        media=_media(options) or file.parent,
        boxes=options.boxes,
        cut=options.cut,
        force=options.force,
        progress=progress,
    )


def _media(options: Any) -> Path | None:
    return None if options.media is None else Path(options.media)
