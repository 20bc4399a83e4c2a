"""What the tools cost beside the functions that they are, what faults cost, and how well they see.

`tool_pool_vs_bare_*`: calls a second through the worker pool, against the same jobs run by the bare function in as
many processes, nothing between. `tool_faulty_vs_clean`: the pool with 1 % hangs, 1 % crashes and 1 % slow calls
against the pool without; every call must come back. What the back ends see is measured on scenes whose truth is known
(perception_segments, perception_reading), at medium difficulty where a promise is made.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from actors.tools.cache import ResultCache
from actors.tools.catalogue import describe_back_ends
from actors.tools.config import ToolsConfig
from actors.tools.nursery import ONE_THREAD
from actors.tools.pool import WorkerPool
from actors.tools.ports import Job
from actors.tools.toolbox import Toolbox
from actors.tools.workspace import Workspace
from cluster.benchmarks.faults import COMMAND, faulty
from cluster.benchmarks.harness import Figure, compared, interleaved, single
from cluster.benchmarks.perception import perception_figures
from common.media import FolderMediaStore, load_image, put_image
from common.types import MediaRef, Query, ToolCall

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from actors.tools.ports import Workbench
    from cluster.config import RunConfig
    from cluster.progress import Progress

TOOLS = ("ZOOM", "PROP", "SEG", "OCR")
NUM_JOBS = {"ZOOM": 300, "PROP": 300, "SEG": 8, "OCR": 8}
"""Calls of a round: a second or so."""
MORE_ROUNDS = {"ZOOM": 3, "PROP": 3}
"""Times as many rounds of calls so short that whatever else the machine does shows."""
SIDE, FAULTY_SIDE = 448, 160
POOL_SHARE, FAULTY_SHARE = 0.9, 0.85
MAX_CACHED_MS, MAX_ZOOM_MS, MAX_LATE_MS = 2.0, 5.0, 100.0
NUM_FAULTY, FAULT_EVERY, IN_FLIGHT = 100, 100, 16
"""Calls of a faulty round; of every hundred one hangs, one crashes and one is slow; as many rollouts wait at once."""
DEADLINE, PATIENCE, SLOW = 20, 2, 5
"""Of those calls, in mean times of a call on this machine as it is now."""
NUM_HUNG, HUNG_DEADLINE_S = 10, 0.3


def measure(config: RunConfig, progress: Progress, rounds: int) -> Sequence[Figure]:
    settings = replace(config.tools, num_workers=num_workers(), cache_dir=None, max_queue=1000)
    with tempfile.TemporaryDirectory(prefix="pixelis-bench-") as folder:
        figures = asyncio.run(_speed(settings, Path(folder), progress, rounds))
    return [*figures, *perception_figures(settings, progress)]


def num_workers() -> int:
    """One process a core, except one core for the loop that feeds them."""
    return max(1, len(os.sched_getaffinity(0)) - 1)


async def _speed(config: ToolsConfig, folder: Path, progress: Progress, rounds: int) -> list[Figure]:
    store = FolderMediaStore(folder / "media")
    pictures = Pictures.made(store)
    figures = []
    progress.start("bench tools: the pool beside the bare functions", len(TOOLS))
    pool = WorkerPool(config, store.root)
    bare = Bare(config, store.root)
    try:
        await pool.start()
        for number, tool in enumerate(TOOLS):
            jobs = pictures.jobs(tool, config)
            times = rounds * MORE_ROUNDS.get(tool, 1)
            ours, peer = await interleaved(_rate(_all_at_once(pool), jobs), _rate(bare.run, jobs), rounds=times)
            figures.append(
                compared(
                    f"tool_pool_vs_bare_{tool.lower()}",
                    ours,
                    peer,
                    unit="calls/s",
                    against=f"the function in {config.num_workers} process(es)",
                    target=POOL_SHARE,
                )
            )
            progress.update(number + 1)
    finally:
        bare.close()
        await pool.close()
    progress.start("bench tools: single calls")
    figures += await _latencies(config, folder, store, pictures, rounds)
    progress.start("bench tools: faults")
    return [*figures, *await _faults(config, store, pictures, rounds)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """Photographs with words on them. large: 1920×1080 px. small: of side SIDE. tiny: of side FAULTY_SIDE."""

    large: tuple[MediaRef, ...]
    small: tuple[MediaRef, ...]
    tiny: tuple[MediaRef, ...]

    @classmethod
    def made(cls, store: FolderMediaStore) -> Pictures:
        names = ("astronaut", "coffee", "chelsea", "rocket")
        return cls(
            large=tuple(put_image(store, _photograph(name, 1920, 1080)) for name in names),
            small=tuple(put_image(store, _photograph(name, SIDE, SIDE)) for name in names),
            tiny=tuple(put_image(store, _photograph(name, FAULTY_SIDE, FAULTY_SIDE)) for name in names),
        )

    def jobs(self, tool: str, config: ToolsConfig) -> list[Job]:
        """As many different jobs as NUM_JOBS says, planned as a rollout's calls are."""
        return self._planned(tool, self.large if tool == "ZOOM" else self.small, NUM_JOBS[tool], config)

    def quick_jobs(self, config: ToolsConfig) -> list[Job]:
        """SEG of tiny pictures, one for every call of a faulty round."""
        return self._planned("SEG", self.tiny, NUM_FAULTY, config)

    def _planned(self, tool: str, refs: Sequence[MediaRef], count: int, config: ToolsConfig) -> list[Job]:
        from actors.tools.catalogue import parse_arguments, tool_named

        jobs = []
        for number in range(count):
            call = ToolCall(name=tool, arguments=_arguments(tool, number))
            space = Workspace.of(Query(query_id="bench", question="?", images=(refs[number % len(refs)],)))
            jobs.append(tool_named(tool).plan(parse_arguments(call), space, config).job)
        return jobs


def _arguments(tool: str, number: int) -> dict[str, Any]:
    """Different boxes: a quarter of the picture, or where a word stands."""
    x, y = 13 * number % 500, 29 * number % 500
    if tool == "OCR":
        return {"image": "image_1", "box": [40, 40 + number % 10, 500, 200 + number // 4]}
    return {"image": "image_1", "box": [x, y, x + 300, y + 300]}


def _photograph(name: str, width: int, height: int) -> NDArray[np.uint8]:
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont
    from skimage import data

    picture = Image.fromarray(getattr(data, name)()).convert("RGB").resize((width, height))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((width // 20, height // 20, width // 2, height // 6), fill="white")
    draw.text((width // 15, height // 14), f"{name} 42", fill="black", font=ImageFont.load_default(height // 16))
    return np.asarray(picture)


# The pool beside the bare function

Run = Callable[[Sequence[Job]], Awaitable[None]]


def _rate(run: Run, jobs: Sequence[Job]) -> Callable[[], Awaitable[float]]:
    """Calls a second."""

    async def measured() -> float:
        began = time.perf_counter()
        await run(jobs)
        return len(jobs) / (time.perf_counter() - began)

    return measured


def _all_at_once(pool: WorkerPool) -> Run:
    async def run(jobs: Sequence[Job]) -> None:
        replies = await asyncio.gather(*map(pool.run, jobs))
        for job, reply in zip(jobs, replies, strict=True):
            if reply.error is not None:
                raise AssertionError(f"{job.tool} {job.options} ended in {reply.error}: {reply.hint}")

    return run


class Bare:
    """The same jobs in as many processes, an equal share each, called in a row."""

    def __init__(self, config: ToolsConfig, store_root: Path) -> None:
        os.environ.update(ONE_THREAD)  # the children inherit it
        self._num = config.num_workers
        self._processes = [
            ProcessPoolExecutor(1, get_context("spawn"), initializer=_furnish, initargs=(config, store_root))
            for _ in range(self._num)
        ]

    async def run(self, jobs: Sequence[Job]) -> None:
        loop = asyncio.get_running_loop()
        shares = [list(jobs[number :: self._num]) for number in range(self._num)]
        await asyncio.gather(
            *(
                loop.run_in_executor(process, _in_a_row, share)
                for process, share in zip(self._processes, shares, strict=True)
            )
        )

    def close(self) -> None:
        for process in self._processes:
            process.shutdown()


_bench: Workbench | None = None


def _furnish(config: ToolsConfig, store_root: Path) -> None:
    from actors.tools.frames import Setup
    from actors.tools.worker import furnished

    global _bench
    _bench = furnished(Setup(config=config, store_root=str(store_root)))


def _in_a_row(jobs: Sequence[Job]) -> None:
    from actors.tools.catalogue import tool_named

    assert _bench is not None
    for job in jobs:
        tool_named(job.tool).run(job, _bench)


# Single calls


async def _latencies(
    config: ToolsConfig, folder: Path, store: FolderMediaStore, pictures: Pictures, rounds: int
) -> list[Figure]:
    """A call from the caches, and ZOOM of a large picture; through the whole toolbox."""
    cached_ms, disk_ms, zoom_ms, first_ms, packed_ms = [], [], [], [], []
    cache_dir = folder / "cache"
    toolbox = _toolbox(config, store, cache_dir)
    await toolbox.start()
    try:
        for number in range(rounds + 1):
            calls = [
                ToolCall(name=tool, arguments=_arguments(tool, 7 * number + place))
                for tool in TOOLS
                for place in range(4)
            ]
            space = Workspace.of(Query(query_id="bench", question="?", images=pictures.small[:1]))
            for call in calls:
                await toolbox.execute(call, space)
            cached_ms.append(median([await _ms(toolbox, call, space, cached=True) for call in calls]))
            zooms = [ToolCall(name="ZOOM", arguments=_arguments("ZOOM", place)) for place in range(20)]
            packed = _alone(put_image(store, _fresh(2 * number)))
            packed_ms.append(await _ms(toolbox, zooms[0], packed, cached=False))
            large = _alone(_brought(store, folder, _fresh(2 * number + 1)))
            first_ms.append(await _ms(toolbox, zooms[0], large, cached=False))
            zoom_ms.append(median([await _ms(toolbox, call, large, cached=False) for call in zooms[1:]]))
            await asyncio.to_thread(toolbox.flush)
            again = _toolbox(config, FolderMediaStore(folder / f"media-{number}"), cache_dir)
            disk_ms.append(median([await _ms(again, call, space, cached=True) for call in calls]))
            await again.close()
    finally:
        await toolbox.close()
    return [
        single("tool_cached_ms", cached_ms[1:], unit="ms", target=MAX_CACHED_MS),
        single("tool_cached_disk_ms", disk_ms[1:], unit="ms", target=MAX_CACHED_MS),
        single("zoom_1080p_ms", zoom_ms[1:], unit="ms", target=MAX_ZOOM_MS),
        single("zoom_1080p_first_ms", first_ms[1:], unit="ms", target=MAX_ZOOM_MS),
        single("zoom_1080p_first_compressed_ms", packed_ms[1:], unit="ms"),
    ]


def _fresh(number: int) -> NDArray[np.uint8]:
    """A large photograph that nobody has seen."""
    picture = _photograph("astronaut", 1920, 1080).copy()
    picture[0, 0] = number
    return picture


def _brought(store: FolderMediaStore, folder: Path, pixels: NDArray[np.uint8]) -> MediaRef:
    """A picture that a user brings as a file."""
    from PIL import Image

    path = folder / "brought.png"
    Image.fromarray(pixels).save(path, compress_level=1)
    return load_image(store, path)


def _alone(ref: MediaRef) -> Workspace:
    return Workspace.of(Query(query_id="bench", question="?", images=(ref,)))


def _toolbox(config: ToolsConfig, store: FolderMediaStore, cache_dir: Path) -> Toolbox:
    cache = ResultCache(store=store, num_entries=config.cache_entries, folder=cache_dir, max_bytes=config.cache_bytes)
    return Toolbox(
        config=config, runner=WorkerPool(config, store.root), cache=cache, back_ends=describe_back_ends(config)
    )


async def _ms(toolbox: Toolbox, call: ToolCall, space: Workspace, *, cached: bool) -> float:
    began = time.perf_counter()
    executed, _ = await toolbox.execute(call, space)
    took = 1000 * (time.perf_counter() - began)
    if executed.observation.error is not None or executed.observation.cached != cached:
        raise AssertionError(f"{call} ended in {executed.observation}")
    return took


# Faults


async def _faults(config: ToolsConfig, store: FolderMediaStore, pictures: Pictures, rounds: int) -> list[Figure]:
    config = replace(config, ocr="none")  # its network loads for seconds
    clean = pictures.quick_jobs(config)
    call_s = await _mean_s(config, store, clean[:20])
    spoilt = list(clean)
    for first in range(0, NUM_FAULTY, FAULT_EVERY):
        for place, fault in ((17, "hang"), (45, "crash"), (78, "slow")):
            spoilt[first + place] = faulty(clean[first + place], fault, SLOW * call_s)
    settings = replace(
        config,
        deadline_s=max(1.0, DEADLINE * call_s),
        patience_s=PATIENCE * call_s,
        num_spares=max(1, config.num_spares),
    )
    pool = WorkerPool(settings, store.root, command=COMMAND)
    hanging = WorkerPool(replace(settings, deadline_s=HUNG_DEADLINE_S), store.root, command=COMMAND)
    harmed: list[int] = []
    try:
        await pool.start()
        ours, peer = await interleaved(
            _rate(_as_rollouts(pool, harmed), spoilt), _rate(_as_rollouts(pool), clean), rounds=rounds
        )
        await hanging.start()
        late_ms = [await _latest_ms(hanging, faulty(clean[0], "hang")) for _ in range(rounds)]
    finally:
        await pool.close()
        await hanging.close()
    return [
        compared(
            "tool_faulty_vs_clean",
            ours,
            peer,
            unit="calls/s",
            against="the same calls without faults",
            target=FAULTY_SHARE,
        ),
        single("tool_innocent_errors", [float(max(harmed))], unit="calls", target=0),
        single("tool_hung_late_ms", late_ms, unit="ms", target=MAX_LATE_MS),
    ]


async def _mean_s(config: ToolsConfig, store: FolderMediaStore, jobs: Sequence[Job]) -> float:
    """Seconds that a call takes when one runs at a time."""
    pool = WorkerPool(replace(config, num_workers=1), store.root, command=COMMAND)
    try:
        await pool.start()
        await pool.run(jobs[0])
        return 1 / await _rate(_as_rollouts(pool), jobs)()
    finally:
        await pool.close()


def _as_rollouts(pool: WorkerPool, harmed: list[int] | None = None) -> Run:
    """IN_FLIGHT rollouts that each wait for one call after the other; every call comes back.

    harmed: takes, a run, the number of calls that ended otherwise than their own fault says.
    """
    codes = {"hang": "timeout", "crash": "tool_crashed"}

    async def run(jobs: Sequence[Job]) -> None:
        waiting = iter(jobs)
        wrong = 0

        async def rollout() -> None:
            nonlocal wrong
            for job in waiting:
                reply = await pool.run(job)
                wrong += reply.error != codes.get(job.options.get("fault", ""))

        await asyncio.gather(*(rollout() for _ in range(IN_FLIGHT)))
        if harmed is not None:
            harmed.append(wrong)

    return run


async def _latest_ms(pool: WorkerPool, job: Job) -> float:
    """How long after its deadline the last of NUM_HUNG hung calls ended, ms."""
    late = []
    for _ in range(NUM_HUNG):
        began = time.perf_counter()
        reply = await pool.run(job)
        late.append(1000 * (time.perf_counter() - began - HUNG_DEADLINE_S))
        if reply.error != "timeout":
            raise AssertionError(f"a hung call ended in {reply.error}")
    return max(late)
