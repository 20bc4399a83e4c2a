"""Rollouts through this replay and through others', side by side: every row is put and got back once.

Rows come singly, as rollouts end, IN_FLIGHT of them at a time. With pictures, a row is a rollout with what its siblings
share, a view or the frames of a clip, and a crop of its own: a part of the view or of the first frame, or resampled, so
that no pixel of it is there. Before the clock starts, pictures are where the tools of a run leave them: ours lie in the
node's store, others' are arrays in the memory of the process that puts them, and they keep a copy a row. What each
survives is said beside its name. Rates are of wall time, but for "pixels" against the peer that a target is set for:
those are of the processor time of all processes that either takes, and "pixels_wall" is of wall time.

Peers with packages of their own run in the environments that `scripts/setup peers` makes, each as one process that is
told when to do a round (cluster/benchmarks/replay_peer.py); one without an environment is left out, with a line.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from asyncio.subprocess import Process
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, Protocol, TypeAlias, get_args

import numpy as np
import psutil
import pyarrow as pa
from numpy.typing import NDArray

from cluster.benchmarks import replay_putter
from cluster.benchmarks.harness import Figure, compared, in_turn, interleaved
from cluster.benchmarks.replay_rows import CLIP, PHASE, SIBLINGS, STILL, Rows, group_name, pixels_of_group
from common.media import FolderMediaStore, content_digest, pixels_of
from common.types import MediaRef
from replay import inspector
from replay.buffer import ReplayBuffer
from replay.config import ReplayConfig
from replay.opening import open_replay

IN_FLIGHT = 32
"""Rollouts that end at about the same time, and rows of a batch that is got back."""
GROUPS = IN_FLIGHT // SIBLINGS
PIXELS_VS_TRANSFERQUEUE = 10.0
ROOT = Path(__file__).parents[2]

Kind: TypeAlias = Literal["rows", "pixels", "resampled", "stored", "clips"]
"""Rollouts alone; with crops that are a part of the view; with crops that are not; "pixels" with the time that a
process takes to put the pictures in the store; and with the frames of a clip instead of a view.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerSizes:
    """Groups in a round of rows without pictures, in one with a view, and in one with clips."""

    plain_groups: int = 32
    pixel_groups: int = 16
    clip_groups: int = 8

    def groups(self, kind: Kind) -> int:
        return {"rows": self.plain_groups, "clips": self.clip_groups}.get(kind, self.pixel_groups)


@dataclass(frozen=True, slots=True)
class Took:
    """Seconds of a round: of the clock, and of processors."""

    wall_s: float
    cpu_s: float


class Peer(Protocol):
    """Somebody else's replay."""

    name: str

    def round(self, rows: Sequence[dict[str, NDArray[np.uint8]]]) -> Took:
        """Put every row and get it back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """A peer of packages of its own. environment: a folder of this checkout. survives: what a row survives there."""

    name: str
    environment: str
    survives: str


REMOTES = (
    Remote(name="TransferQueue", environment=".venv-peers", survives="in memory"),
    Remote(name="torchrl", environment=".venv-peers", survives="memory-mapped files, never synced"),
    Remote(name="cpprb", environment=".venv-peers", survives="in memory"),
    Remote(name="dm-reverb", environment=".venv-reverb", survives="in memory"),
)


async def measure_peers(
    folder: Path, rows: Rows, sizes: PeerSizes, rounds: int, remotes: Sequence[Remote] = REMOTES
) -> list[Figure]:
    """rows_vs_… and pixels_vs_…, in rows a second."""
    folder.mkdir()
    figures = []
    with tempfile.TemporaryDirectory(prefix="pixelis-bench-", dir=_shared_memory()) as live:
        arrays = _arrays(rows, sizes)
        for name, values in arrays.items():
            np.save(Path(live) / f"{name}.npy", values)
        ours = await _Ours.opened(folder / "ours", Path(live) / "media", rows)
        try:
            for peer in _peers(folder, Path(live), remotes):
                try:
                    with peer as opened:
                        figures += await _beside(ours, opened, arrays, sizes, rounds)
                except PeerEnded as error:
                    print(f"bench replay: {error}", file=sys.stderr)
        finally:
            await ours.close()
    return figures


async def _beside(
    ours: _Ours, peer: Peer, arrays: dict[str, NDArray[np.uint8]], sizes: PeerSizes, rounds: int
) -> list[Figure]:
    short = peer.name.split()[0].replace("dm-", "").replace("-", "_").lower()
    promised = short == "transferqueue"
    kinds: tuple[Kind, ...] = get_args(Kind) if promised else ("rows", "pixels")
    figures = []
    for kind in kinds:
        groups = sizes.groups(kind)
        wanted = _rows_of(arrays, groups, _shown(kind))

        async def theirs(wanted: list[dict[str, NDArray[np.uint8]]] = wanted) -> Took:
            return await asyncio.to_thread(peer.round, wanted)

        async def mine(groups: int = groups, kind: Kind = kind) -> Took:
            return await ours.round(groups, kind)

        size = f"{sum(value.nbytes for value in wanted[0].values()) / 1e6:.3g} MB"
        if kind == "pixels" and promised:
            took = await in_turn(mine, theirs, rounds=rounds)
            figures += _both(f"{kind}{{}}_vs_{short}", took, len(wanted), size, peer.name)
        else:
            rates = (_rates(took, len(wanted)) for took in await interleaved(mine, theirs, rounds=rounds))
            figures.append(compared(f"{kind}_vs_{short}", *rates, unit=f"rows/s of {size}", against=peer.name))
    return figures


def _both(
    name: str, took: tuple[list[Took], list[Took], list[Took]], num_rows: int, size: str, against: str
) -> list[Figure]:
    """Rows in a second of processors, which the target is about, and in one of the clock. took: ours, the peer, and the
    peer again.
    """
    figures = []
    for what, unit, cpu in (("", "rows per CPU second", True), ("_wall", "rows/s", False)):
        mine, theirs, again = (_rates(one, num_rows, cpu=cpu) for one in took)
        figures.append(
            compared(
                name.format(what),
                mine,
                theirs,
                unit=f"{unit} of {size}",
                against=against,
                target=PIXELS_VS_TRANSFERQUEUE if cpu else None,
                again=again,
            )
        )
    return figures


def _rates(took: Sequence[Took], num_rows: int, *, cpu: bool = False) -> list[float]:
    return [num_rows / (one.cpu_s if cpu else one.wall_s) for one in took]


def _cpu_s(processes: Iterable[psutil.Process]) -> float:
    """Processor seconds that the threads of these have taken so far, as Linux counts them, to the microsecond; those of
    threads that have ended are left out.
    """
    used_ns = 0
    for file in (file for process in processes for file in Path(f"/proc/{process.pid}/task").glob("*/schedstat")):
        with suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            used_ns += int(file.read_text().split()[0])
    return used_ns / 1e9


def _arrays(rows: Rows, sizes: PeerSizes) -> dict[str, NDArray[np.uint8]]:
    """What every peer puts: rollouts, shape (rows, bytes); of stills and of clips, views (groups, views, side, side, 3)
    and crops (rows, side, side, 3).
    """
    random = np.random.default_rng(0)
    bodies = [np.frombuffer(body, np.uint8) for body in rows.bodies(0, SIBLINGS * sizes.plain_groups)]
    arrays = {"rollouts": np.stack(bodies)}
    for name, shown, groups in (("still", STILL, sizes.pixel_groups), ("clip", CLIP, sizes.clip_groups)):
        pictures = [pixels_of_group(random, shown) for _ in range(groups)]
        arrays[f"views-{name}"] = np.stack([views for views, _ in pictures])
        arrays[f"crops-{name}"] = np.concatenate([crops for _, crops in pictures])
    return arrays


def _shown(kind: Kind) -> str:
    """Which pictures its rows show; "" for none."""
    return {"rows": "", "clips": "clip"}.get(kind, "still")


def _shown_in(rows: Sequence[dict[str, NDArray[np.uint8]]]) -> str:
    views = rows[0].get("view")
    if views is None:
        return ""
    return "clip" if len(views) > 1 else "still"


def _rows_of(arrays: dict[str, NDArray[np.uint8]], groups: int, shown: str) -> list[dict[str, NDArray[np.uint8]]]:
    rows = [{"rollout": arrays["rollouts"][i]} for i in range(groups * SIBLINGS)]
    for i, row in enumerate(rows if shown else ()):
        row |= {"view": arrays[f"views-{shown}"][i // SIBLINGS], "crop": arrays[f"crops-{shown}"][i]}
    return rows


class _Ours:
    """A replay with a durability of "group". The pictures are put by a process of their own, as tools do, and are new
    in every round, so that none is kept already.
    """

    def __init__(self, buffer: ReplayBuffer, live: FolderMediaStore, rows: Rows, putter: Process) -> None:
        self._buffer, self._live, self._putter = buffer, live, putter
        self._rows = {"": rows, "still": Rows(shown=STILL), "clip": Rows(shown=CLIP)}
        self._group = self._step = 0

    @classmethod
    async def opened(cls, folder: Path, live: Path, rows: Rows) -> _Ours:
        buffer = open_replay(ReplayConfig(folder=folder, live_media=live, inspectors=1))
        await buffer.begin(PHASE, groups_per_step=GROUPS, max_policy_lag=1 << 20, votes=False)
        command = (sys.executable, "-m", replay_putter.__name__, str(live))
        putter = await asyncio.create_subprocess_exec(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
        return cls(buffer, FolderMediaStore(live), rows, putter)

    async def round(self, groups: int, kind: Kind) -> Took:
        """To put the rollouts of so many groups, and to draw all of them with their pictures mapped."""
        acted = [await self._acted(self._group + i, kind) for i in range(groups)]
        self._group += groups
        if kind not in ("rows", "stored"):
            self._order({"put": groups})
            for _ in range(sum(len(group.refs) for group in acted)):
                await self._said()
        used, began = _cpu_s(self._processes()), time.perf_counter()
        await self._put(acted, stored=kind != "stored")
        for _ in range(groups // GROUPS):
            draw = await self._buffer.sample(self._step)
            assert len(draw.rollout_ids) == IN_FLIGHT
            self._step += 1
        for group in acted:
            for ref in group.refs:
                assert pixels_of(self._live, ref).shape == (ref.height, ref.width, 3)
        took = Took(time.perf_counter() - began, _cpu_s(self._processes()) - used)
        self._live.trim(0)
        return took

    def _processes(self) -> list[psutil.Process]:
        """This one, and who looks at rollouts."""
        mine = psutil.Process()
        return [mine, *(child for child in mine.children() if inspector.__name__ in " ".join(child.cmdline()))]

    async def close(self) -> None:
        assert self._putter.stdin is not None
        self._putter.stdin.close()
        await self._putter.wait()
        await self._buffer.close()

    async def _acted(self, number: int, kind: Kind) -> _Group:
        """What the siblings of a group have done, encoded as their actors send it."""
        numbers, shown = range(number * SIBLINGS, (number + 1) * SIBLINGS), _shown(kind)
        rows = self._rows[shown]
        if not shown:
            return _Group(name=group_name(number), bodies=[rows.body(i) for i in numbers])
        seed, clip, resampled = [1, number], shown == "clip", kind == "resampled"
        self._order({"seed": seed, "clip": clip, "resampled": resampled})
        pixels = pixels_of_group(np.random.default_rng(seed), CLIP if clip else STILL, resampled=resampled)
        views, crops = (tuple(map(_ref, pictures)) for pictures in pixels)
        bodies = [rows.body(i, (*views, crop)) for i, crop in zip(numbers, crops, strict=True)]
        assert await self._said() == "made"
        return _Group(name=group_name(number), bodies=bodies, views=views, crops=crops)

    async def _put(self, groups: Sequence[_Group], *, stored: bool) -> None:
        """Every rollout, IN_FLIGHT at a time. stored: their pictures lie in the store; else each waits for its own."""
        free = asyncio.Semaphore(IN_FLIGHT)

        async def add(body: bytes) -> None:
            try:
                await self._buffer.add(body)
            finally:
                free.release()

        if not stored:
            self._order({"put": len(groups)})
        async with asyncio.TaskGroup() as adding:
            for group in groups:
                await self._buffer.admit(group.name)
                for _ in () if stored else group.views:
                    await self._said()
                for body in group.bodies:
                    await free.acquire()
                    if not stored:
                        await self._said()
                    adding.create_task(add(body))

    def _order(self, order: dict[str, Any]) -> None:
        assert self._putter.stdin is not None
        self._putter.stdin.write(f"{json.dumps(order)}\n".encode())

    async def _said(self) -> str:
        assert self._putter.stdout is not None
        return (await self._putter.stdout.readline()).decode().strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Group:
    """Rollouts of siblings, and the pictures that they show: the views and a crop each, or none."""

    name: str
    bodies: list[bytes]
    views: tuple[MediaRef, ...] = ()
    crops: tuple[MediaRef, ...] = ()

    @property
    def refs(self) -> tuple[MediaRef, ...]:
        return (*self.views, *self.crops)


def _ref(pixels: NDArray[np.uint8]) -> MediaRef:
    height, width, _ = pixels.shape
    digest = content_digest(pixels.tobytes())
    return MediaRef(digest=digest, kind="view", width=width, height=height, num_bytes=pixels.nbytes)


class ArrowFile:
    """A raw Arrow IPC file, a batch a row, read back through a memory map."""

    def __init__(self, folder: Path) -> None:
        self.name = f"Arrow-file {pa.__version__} (page cache, never synced)"
        self._path = folder / "rows.arrow"

    def round(self, rows: Sequence[dict[str, NDArray[np.uint8]]]) -> Took:
        schema = pa.schema([(name, pa.large_binary()) for name in rows[0]])
        used, began = time.process_time(), time.perf_counter()
        with pa.OSFile(str(self._path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
            for row in rows:
                writer.write_batch(pa.record_batch([_binary(value) for value in row.values()], schema=schema))
        with pa.memory_map(str(self._path)) as file, pa.ipc.open_file(file) as reader:
            came = sum(reader.get_batch(number).num_rows for number in range(reader.num_record_batches))
        assert came == len(rows)
        return Took(time.perf_counter() - began, time.process_time() - used)


def _binary(value: NDArray[np.uint8]) -> pa.Array:
    """One value of bytes, nothing copied."""
    offsets = pa.py_buffer(np.array([0, value.nbytes], np.int64))
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, pa.py_buffer(value)])


class Sqlite:
    """A table with a write-ahead log and full syncing; what is in flight shares a transaction, and so does a draw."""

    def __init__(self, folder: Path) -> None:
        self.name = f"SQLite {sqlite3.sqlite_version} (WAL, synced)"
        self._path = folder / "rows.sqlite"

    def round(self, rows: Sequence[dict[str, NDArray[np.uint8]]]) -> Took:
        with closing(sqlite3.connect(self._path, isolation_level=None)) as base:
            base.execute("PRAGMA journal_mode=WAL")
            base.execute("PRAGMA synchronous=FULL")
            columns = ", ".join(f"{name} BLOB" for name in rows[0])
            base.execute(f"CREATE TABLE rows (id INTEGER PRIMARY KEY, drawn INTEGER DEFAULT 0, {columns})")
            used, began = time.process_time(), time.perf_counter()
            self._put(base, rows)
            came = self._drawn(base, rows)
            took = Took(time.perf_counter() - began, time.process_time() - used)
            base.execute("DROP TABLE rows")
        assert came == len(rows)
        return took

    def _put(self, base: sqlite3.Connection, rows: Sequence[dict[str, NDArray[np.uint8]]]) -> None:
        names, marks = ", ".join(rows[0]), ", ".join("?" for _ in rows[0])
        for start in range(0, len(rows), IN_FLIGHT):
            base.execute("BEGIN")
            base.executemany(
                f"INSERT INTO rows ({names}) VALUES ({marks})",
                ([value.data for value in row.values()] for row in rows[start : start + IN_FLIGHT]),
            )
            base.execute("COMMIT")

    def _drawn(self, base: sqlite3.Connection, rows: Sequence[dict[str, NDArray[np.uint8]]]) -> int:
        names, came = ", ".join(rows[0]), 0
        for _ in range(0, len(rows), IN_FLIGHT):
            base.execute("BEGIN")
            found = base.execute(
                f"SELECT id, {names} FROM rows WHERE NOT drawn ORDER BY id LIMIT {IN_FLIGHT}"
            ).fetchall()
            base.executemany("UPDATE rows SET drawn = 1 WHERE id = ?", ([row[0]] for row in found))
            base.execute("COMMIT")
            came += len(found)
        return came


class PeerEnded(Exception):
    """A peer's process ended by itself; the message has the last line of what it said."""


class _Child:
    """A peer in a process of its own. Raises PeerEnded when that is so."""

    def __init__(self, remote: Remote, process: subprocess.Popen[str], said: IO[str]) -> None:
        self._remote, self._process, self._said = remote, process, said
        self.name = f"{self._answer()['ready']} ({remote.survives})"

    def round(self, rows: Sequence[dict[str, NDArray[np.uint8]]]) -> Took:
        assert self._process.stdin is not None
        peer = psutil.Process(self._process.pid)
        processes = [peer, *peer.children(recursive=True)]
        used = _cpu_s(processes)
        order = {"rows": len(rows), "shown": _shown_in(rows), "batch": IN_FLIGHT}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        assert answer["rows"] == len(rows)
        return Took(answer["seconds"], _cpu_s(processes) - used)

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._said.seek(0)
            last = [line.strip() for line in self._said if line.strip()][-1:]
            raise PeerEnded(f"{self._remote.name} is left out, because it ended: {' '.join(last)}")
        answer = json.loads(line)
        assert isinstance(answer, dict)
        return answer


@contextmanager
def _child(remote: Remote, folder: Path, arrays: Path) -> Iterator[Peer]:
    scratch = folder / remote.name
    scratch.mkdir()
    command = [str(ROOT / remote.environment / "bin" / "python"), str(Path(__file__).with_name("replay_peer.py"))]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "RAY_"))}
    with ExitStack() as stack:
        said = stack.enter_context((folder / f"{remote.name}.said").open("w+"))
        process = subprocess.Popen(
            [*command, remote.name, str(arrays), str(scratch)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            env=kept,
            start_new_session=True,
        )
        stack.callback(_ended, process)
        yield _Child(remote, process, said)
    shutil.rmtree(scratch)


def _ended(process: subprocess.Popen[str]) -> None:
    """Let it end by itself, and then not."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.close()
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()


@contextmanager
def _here(peer: Peer) -> Iterator[Peer]:
    yield peer


def _peers(folder: Path, arrays: Path, remotes: Sequence[Remote]) -> Iterator[AbstractContextManager[Peer]]:
    yield _here(ArrowFile(folder))
    yield _here(Sqlite(folder))
    for remote in remotes:
        if (ROOT / remote.environment / "bin" / "python").exists():
            yield _child(remote, folder, arrays)
        else:
            print(f"bench replay: {remote.name} is left out; `scripts/setup peers` installs it", file=sys.stderr)


def _shared_memory() -> str | None:
    memory = Path("/dev/shm")
    return str(memory) if memory.is_dir() else None
