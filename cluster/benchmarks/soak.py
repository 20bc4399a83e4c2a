"""The long test of the tools: `python -m cluster.benchmarks.soak`, or scripts/soak tools.

    turns   100,000 fuzzed turns of a policy, read and executed
    files     5,000 pictures and videos that were tampered with, opened and used
    calls    10,000 calls of all six tools, during which a worker's memory must stay flat

Each part goes on where it was stopped. A case that fails is noted with its number, by which it can be had again. The
exit status is 0 when every case held and memory was flat, 1 when not, and 128 + the signal's number after Ctrl-C.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.interrupt import Interrupted, run_until_interrupted
from cluster.progress import Progress, make_progress
from common.errors import PixelisError

if TYPE_CHECKING:
    from actors.tools.config import ToolsConfig
    from common.types import Query

NUM_TURNS, NUM_FILES, NUM_CALLS = 100_000, 5_000, 10_000
SAVE_EVERY, SAMPLE_EVERY = 100, 100
WARM_UP = 0.1
"""Share of the calls before memory is judged."""
FLAT = 0.10
"""Memory lies within this share of its median."""
BEGIN, END = "<!-- soak -->", "<!-- /soak -->"
FAULTS = ("timeout", "tool_crashed", "limit_exceeded", "unavailable")
"""What a file must not end in: opening one happens beside the agent, not in a worker."""


@dataclass(slots=True, kw_only=True)
class Part:
    """How far a part is. outcomes: how many cases ended how. failures: numbers of those that failed, and why.

    rss_mb: the workers' memory, MiB a worker, a list an uninterrupted stretch.
    """

    done: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    rss_mb: list[list[float]] = field(default_factory=list)

    def count(self, number: int, outcome: str, failure: str = "") -> None:
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
        if failure:
            self.failures[str(number)] = failure


@dataclass(slots=True, kw_only=True)
class State:
    """The whole test. seed: of every case."""

    seed: int = 0
    turns: Part = field(default_factory=Part)
    files: Part = field(default_factory=Part)
    calls: Part = field(default_factory=Part)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How many cases there are of each part."""

    turns: int = NUM_TURNS
    files: int = NUM_FILES
    calls: int = NUM_CALLS


class Soak:
    """Runs what is left of the parts, and keeps their state in `folder`."""

    def __init__(self, folder: Path, sizes: Sizes, config: ToolsConfig, progress: Progress, seed: int = 0) -> None:
        self._folder = folder
        self._sizes = sizes
        self._config = config
        self._progress = progress
        self.state = _load(folder / "state.json", seed)

    async def run(self) -> None:
        """All parts. State is saved as it goes, and when this is cancelled."""
        for name, work in (("turns", self._turns), ("files", self._files), ("calls", self._calls)):
            part: Part = getattr(self.state, name)
            total: int = getattr(self._sizes, name)
            if part.done >= total:
                continue
            self._progress.start(f"soak {name}", total)
            try:
                await work(part, total)
            finally:
                self._save()
        self._progress.finish()

    async def _turns(self, part: Part, total: int) -> None:
        from actors.tools.toolbox import build_toolbox
        from cluster.benchmarks.hostile import Episode, scene, turn
        from common.media import FolderMediaStore

        root = self._folder / "turns"
        toolbox = build_toolbox(replace(self._config, max_images=32, max_masks=16), root)
        await toolbox.start()
        episode = Episode(toolbox, scene(FolderMediaStore(root)))

        async def case(number: int) -> str:
            return await episode.say(turn(self.state.seed, number))

        try:
            await self._cases(part, total, case, bad=("tool_crashed", "timeout"))
        finally:
            await toolbox.close()
            _empty(root)

    async def _files(self, part: Part, total: int) -> None:
        from actors.tools.pool import WorkerPool
        from actors.tools.ports import Job
        from cluster.benchmarks.hostile import file
        from common.media import FolderMediaStore

        root = self._folder / "files"
        root.mkdir(parents=True, exist_ok=True)
        command = (sys.executable, "-P", "-m", "cluster.benchmarks.hostile")
        pool = WorkerPool(replace(self._config, num_workers=1, memory_mb=1024), root / "store", command=command)
        await pool.start()

        async def case(number: int) -> str:
            path = root / "hostile"
            path.write_bytes(file(self.state.seed, number))
            reply = await pool.run(Job(tool="FILE", options={"path": str(path)}))
            return reply.error or str(reply.result.values["outcome"] if reply.result else "")

        def cleanup() -> None:
            FolderMediaStore(root / "store").trim(0)

        try:
            await self._cases(part, total, case, bad=FAULTS, cleanup=cleanup)
        finally:
            await pool.close()
            _empty(root)

    async def _calls(self, part: Part, total: int) -> None:
        from actors.tools.cache import ResultCache
        from actors.tools.catalogue import describe_back_ends
        from actors.tools.pool import WorkerPool
        from actors.tools.toolbox import Toolbox
        from cluster.benchmarks.hostile import Episode, right_call, scene
        from common.media import FolderMediaStore

        root = self._folder / "calls"
        store = FolderMediaStore(root)
        pool = WorkerPool(self._config, root)
        toolbox = Toolbox(
            config=self._config,
            runner=pool,
            cache=ResultCache(store=store, num_entries=1),  # every call executes
            back_ends=describe_back_ends(self._config),
        )
        await toolbox.start()
        query = scene(store, side=192)
        episode = Episode(toolbox, query)
        stretch: list[float] = []
        part.rss_mb.append(stretch)

        async def case(number: int) -> str:
            outcome = await episode.act(right_call(self.state.seed, number))
            if (number + 1) % SAMPLE_EVERY == 0:
                stretch.append(max(map(_rss_mb, pool.pids), default=0.0))
            return outcome

        def cleanup() -> None:
            store.trim(64 * 2**20, keep=_digests(query))

        try:
            await self._cases(part, total, case, bad=("tool_crashed", "timeout"), cleanup=cleanup)
            if pool.statistics.num_lost:
                part.failures["workers"] = f"{pool.statistics.num_lost} were lost"
        finally:
            await toolbox.close()
            _empty(root)

    async def _cases(
        self,
        part: Part,
        total: int,
        case: Callable[[int], Awaitable[str]],
        *,
        bad: Sequence[str],
        cleanup: Callable[[], None] | None = None,
    ) -> None:
        for number in range(part.done, total):
            try:
                outcome = await case(number)
            except Exception as error:  # noqa: BLE001  What must not be is what is looked for here, and it is noted.
                part.count(number, "raised", f"{type(error).__name__}: {error}"[:300])
            else:
                part.count(number, outcome, outcome if outcome in bad else "")
            part.done = number + 1
            if part.done % SAVE_EVERY == 0:
                self._save()
                self._progress.update(part.done, failures=len(part.failures))
                if cleanup is not None:
                    cleanup()

    def _save(self) -> None:
        import msgspec

        self._folder.mkdir(parents=True, exist_ok=True)
        aside = self._folder / ".state.json"
        aside.write_bytes(msgspec.json.format(msgspec.json.encode(self.state), indent=1))
        aside.rename(self._folder / "state.json")


def swing(part: Part) -> float:
    """The largest distance of a worker's memory from its median after the warm-up, as a share of it."""
    largest = 0.0
    for stretch in part.rss_mb:
        warm = stretch[max(1, round(WARM_UP * len(stretch))) :]
        if len(warm) > 1:
            median = statistics.median(warm)
            largest = max(largest, *(abs(value - median) / median for value in warm))
    return largest


def holds(state: State) -> bool:
    """Whether no case failed and memory was flat."""
    return not any((state.turns.failures, state.files.failures, state.calls.failures)) and swing(state.calls) <= FLAT


def rows(state: State) -> list[str]:
    """The table for docs/measurements.md."""
    warm = [value for stretch in state.calls.rss_mb for value in stretch[max(1, round(WARM_UP * len(stretch))) :]]
    memory = f"median {statistics.median(warm):.0f} MiB, swing ±{100 * swing(state.calls):.1f} %" if warm else "–"
    lines = ["| part | cases | failed | outcomes |", "|---|---|---|---|"]
    for name in ("turns", "files", "calls"):
        part: Part = getattr(state, name)
        ends = sorted(part.outcomes.items(), key=lambda outcome: -outcome[1])
        said = ", ".join(f"{outcome} {count:,}" for outcome, count in ends)
        lines.append(f"| {name} | {part.done:,} | {len(part.failures)} | {said} |")
    return [*lines, f"| a worker's memory over the calls | {len(warm)} samples | | {memory} (at most ±10 %) |"]


def write_rows(path: Path, table: Sequence[str]) -> None:
    """Put the table between its markers in a Markdown file, at its end where there are none."""
    text = path.read_text() if path.exists() else ""
    block = "\n".join([BEGIN, *table, END])
    if BEGIN in text and END in text:
        before, _, rest = text.partition(BEGIN)
        path.write_text(before + block + rest.partition(END)[2])
    else:
        path.write_text(f"{text.rstrip()}\n\n## The long test\n\n`scripts/soak tools`\n\n{block}\n")


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/soak tools", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs/soak"), help="where the state is kept")
    parser.add_argument("--turns", type=int, default=NUM_TURNS)
    parser.add_argument("--files", type=int, default=NUM_FILES)
    parser.add_argument("--calls", type=int, default=NUM_CALLS)
    parser.add_argument("--fresh", action="store_true", help="begin again instead of going on")
    parser.add_argument("--write", type=Path, metavar="FILE", help="also put the table into a Markdown file")
    options = parser.parse_args(words)

    from actors.tools.config import ToolsConfig

    if options.fresh:
        (options.folder / "state.json").unlink(missing_ok=True)
    progress = make_progress()
    sizes = Sizes(turns=options.turns, files=options.files, calls=options.calls)
    soak = Soak(options.folder, sizes, ToolsConfig(num_workers=1, num_spares=0), progress)
    try:
        run_until_interrupted(soak.run())
    except Interrupted as stopped:
        print(f"{stopped}; the same command goes on from here", file=sys.stderr)
        return stopped.status
    except PixelisError as error:
        print(f"soak: {error}", file=sys.stderr)
        return 2
    finally:
        progress.close()
    table = rows(soak.state)
    print("\n".join(table))
    if options.write is not None:
        write_rows(options.write, table)
    return 0 if holds(soak.state) else 1


def _load(path: Path, seed: int) -> State:
    import msgspec

    if not path.exists():
        return State(seed=seed)
    return msgspec.json.decode(path.read_bytes(), type=State)


def _rss_mb(pid: int) -> float:
    import psutil

    return float(psutil.Process(pid).memory_info().rss) / 2**20


def _digests(query: Query) -> frozenset[str]:
    frames = () if query.clip is None else query.clip.frames
    return frozenset(ref.digest for ref in (*query.images, *frames))


def _empty(root: Path) -> None:
    """Remove what a part has written."""
    import shutil

    shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
