"""What a draw and a search for neighbours take, and whether it depends on how much there is to choose from."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.benchmarks.harness import Figure, compared, in_turn, single
from cluster.benchmarks.replay_log import WHOLE, begin_phase, cpu_s
from cluster.benchmarks.replay_rows import SIBLINGS, Rows, group_name
from replay.buffer import ReplayBuffer
from replay.config import Durability, IndexConfig, ReplayConfig
from replay.index import NeighbourIndex
from replay.log import Log
from replay.records import Admit, Experience, Kind
from replay.state import State

FLATNESS, INDEX = 1.2, 0.9
NEIGHBOURS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawSizes:
    """live: rollouts that a draw chooses from, ascending; the first and the last are compared. stored: rollouts that
    really lie in each log, in whose place the others are read. draws: in a round. entries, dimension: of the index.
    """

    live: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    stored: int = 1024
    draws: int = 8
    entries: int = 20_000
    dimension: int = 384
    queries: int = 64


async def measure_draws(folder: Path, rows: Rows, sizes: DrawSizes, rounds: int) -> list[Figure]:
    """Processor milliseconds of `ReplayBuffer.sample`, reading the rollouts from the log included, syncing not."""
    subjects = [_Subject(folder / str(live), rows, live, sizes) for live in sizes.live]
    gc.freeze()  # a million values would be visited again and again by collections that their number sets off
    try:
        most, least, again = await in_turn(subjects[-1].draw_ms, subjects[0].draw_ms, rounds=rounds)
        between = [[await subject.draw_ms() for _ in range(rounds)] for subject in subjects[1:-1]]
    finally:
        for subject in subjects:
            subject.close()
        gc.unfreeze()
    name = f"CPU ms a draw of {SIBLINGS * SIBLINGS} rollouts"
    flatness = compared(
        "sample_flatness",
        most,
        least,
        unit=f"{name}, {sizes.live[-1]:,} live",
        against=f"{sizes.live[0]:,} live",
        target=FLATNESS,
        better="lower",
        again=again,
    )
    middle = [
        single(f"sample_{live}_ms", values, unit=name) for live, values in zip(sizes.live[1:-1], between, strict=True)
    ]
    return [flatness, *middle]


class _Subject:
    """A buffer that may draw from `live` rollouts, all ready. The state is the fold's own; of the log only the first
    `stored` rollouts exist, and the records of others are said to be theirs.
    """

    def __init__(self, folder: Path, rows: Rows, live: int, sizes: DrawSizes) -> None:
        self._log, self._step, self._draws = Log(folder / "log", segment_bytes=WHOLE), 0, sizes.draws
        state = State()
        begin_phase(self._log, state)
        first = self._log.next_sequence
        for body in rows.bodies(0, sizes.stored):
            self._log.append(Kind.ROLLOUT, body)
        for number in range(live):
            if number % SIBLINGS == 0:
                state.apply(Admit(number=number // SIBLINGS, group_id=group_name(number // SIBLINGS)))
            state.add(rows.keys(number), first + number % sizes.stored)
        config = ReplayConfig(folder=folder, durability=Durability(mode="os"), snapshot_bytes=WHOLE)
        self._buffer = ReplayBuffer(config, log=self._log, state=state)

    async def draw_ms(self) -> float:
        began = time.process_time()
        for _ in range(self._draws):
            await self._buffer.sample(self._step)
            self._step += 1
        return 1e3 * (time.process_time() - began) / self._draws

    def close(self) -> None:
        self._log.close()


async def measure_index(folder: Path, sizes: DrawSizes, rounds: int) -> list[Figure]:
    """Searches, one query at a time, and entries, one at a time, against FAISS's exact index of inner products; in one
    thread, because threads that wait for others spin and are counted.
    """
    import faiss

    faiss.omp_set_num_threads(1)
    random = np.random.default_rng(0)
    vectors, queries = _units(random, sizes.entries, sizes.dimension), _units(random, sizes.queries, sizes.dimension)
    experiences = [_experience(number, vector) for number, vector in enumerate(vectors)]

    def filled() -> NeighbourIndex:
        index = NeighbourIndex(folder, IndexConfig(encoder="bench", dimension=sizes.dimension))
        for number, experience in enumerate(experiences):
            index.follow(experience, number)
        return index

    def filled_peer() -> Any:
        bare = faiss.IndexFlatIP(sizes.dimension)
        for vector in vectors:
            bare.add(vector[None])
        return bare

    async def following() -> float:
        return _per_second(filled, sizes.entries)

    async def adding() -> float:
        return _per_second(filled_peer, sizes.entries)

    index, bare = filled(), filled_peer()

    async def ours() -> float:
        return _per_second(lambda: [index.nearest(query, NEIGHBOURS) for query in queries], len(queries))

    async def peer() -> float:
        return _per_second(lambda: [bare.search(query[None], NEIGHBOURS) for query in queries], len(queries))

    mine, theirs, again = await in_turn(ours, peer, rounds=rounds)
    searched = compared(
        "index_vs_faiss",
        mine,
        theirs,
        unit=f"searches per CPU second, {sizes.entries:,} vectors of {sizes.dimension}",
        against="bare IndexFlatIP",
        target=INDEX,
        again=again,
    )
    mine, theirs, again = await in_turn(following, adding, rounds=rounds)
    unit, against = f"entries per CPU second, {sizes.entries:,} of them", "bare IndexFlatIP.add"
    return [searched, compared("index_follow", mine, theirs, unit=unit, against=against, again=again)]


def _per_second(work: Callable[[], object], count: int) -> float:
    return count / cpu_s(work)


def _units(random: np.random.Generator, count: int, dimension: int) -> NDArray[np.float32]:
    vectors = random.standard_normal((count, dimension), dtype=np.float32)
    units: NDArray[np.float32] = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return units


def _experience(number: int, vector: NDArray[np.float32]) -> Experience:
    return Experience(
        query_id=f"q{number}",
        family="bench",
        chain=("ZOOM", "OCR"),
        answer="493",
        confidence=0.5,
        encoder="bench",
        vector=vector.astype("<f4").tobytes(),
    )
