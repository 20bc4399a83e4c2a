"""What a draw and a search for neighbours take, and whether it depends on how much there is to choose from."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.benchmarks.harness import Figure, compared, in_turn, single
from cluster.benchmarks.replay_log import BEGIN, WHOLE, cpu_s
from cluster.benchmarks.replay_rows import SIBLINGS, Rows, group_name
from replay.buffer import ReplayBuffer
from replay.config import Drawing, Durability, IndexConfig, ReplayConfig
from replay.index import NeighbourIndex
from replay.log import Log
from replay.records import Admit, Experience, Kind, encode
from replay.state import State

FLATNESS, INDEX = 1.2, 0.9
NEIGHBOURS = 8
DRAWINGS = (
    Drawing(),
    Drawing(selector="in_order"),
    Drawing(selector="uniform"),
    Drawing(selector="windowed", window=4 * SIBLINGS),
    Drawing(selector="prioritised"),
    Drawing(selector="mixture", fresh=0.5, max_reuse=2),
)
"""The default first. A draw is of SIBLINGS groups."""


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
    """Processor milliseconds of `ReplayBuffer.sample` with every selector, reading the rollouts from the log included,
    syncing not.
    """
    states = {live: _live_state(rows, live, sizes.stored) for live in sizes.live}
    gc.freeze()  # a million values would be visited again and again by collections that their number sets off
    try:
        return [
            figure
            for drawing in DRAWINGS
            for figure in await _measure_selector(
                folder / drawing.selector, rows, states, drawing=drawing, sizes=sizes, rounds=rounds
            )
        ]
    finally:
        gc.unfreeze()


async def _measure_selector(
    folder: Path, rows: Rows, states: dict[int, State], *, drawing: Drawing, sizes: DrawSizes, rounds: int
) -> list[Figure]:
    """Of the default selector also what a draw takes at the sizes between the first and the last."""
    default = drawing.selector == Drawing().selector
    lives = sizes.live if default else (sizes.live[0], sizes.live[-1])
    subjects = [_Subject(folder / str(live), rows, states[live], drawing, sizes) for live in lives]
    try:
        most, least, again = await in_turn(subjects[-1].draw_ms, subjects[0].draw_ms, rounds=rounds)
        between = [[await subject.draw_ms() for _ in range(rounds)] for subject in subjects[1:-1]]
    finally:
        for subject in subjects:
            subject.close()
    name = f"CPU ms a draw of {SIBLINGS * SIBLINGS} rollouts"
    flatness = compared(
        "sample_flatness" if default else f"sample_flatness_{drawing.selector}",
        most,
        least,
        unit=f"{name}, {lives[-1]:,} live",
        against=f"{lives[0]:,} live",
        target=FLATNESS,
        better="lower",
        again=again,
    )
    middle = [single(f"sample_{live}_ms", values, unit=name) for live, values in zip(lives[1:-1], between, strict=True)]
    return [flatness, *middle]


def _live_state(rows: Rows, live: int, stored: int) -> State:
    """The fold of a phase and of `live` rollouts, all in whole groups. Of a log only the first `stored` of them exist,
    after the record that begins the phase; the records of others are said to be theirs.
    """
    state = State()
    state.apply(BEGIN)
    for number in range(live):
        if number % SIBLINGS == 0:
            state.apply(Admit(number=number // SIBLINGS, group_id=group_name(number // SIBLINGS)))
        state.add(rows.keys(number), 1 + number % stored)
    return state


class _Subject:
    """A buffer that draws from a state of its own as `drawing` says."""

    def __init__(self, folder: Path, rows: Rows, live: State, drawing: Drawing, sizes: DrawSizes) -> None:
        self._log, self._step, self._draws = Log(folder / "log", segment_bytes=WHOLE), 0, sizes.draws
        state = live.copy()
        state.phase = replace(BEGIN, drawing=drawing)
        self._log.append(*encode(state.phase))
        for body in rows.bodies(0, sizes.stored):
            self._log.append(Kind.ROLLOUT, body)
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
