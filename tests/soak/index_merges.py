"""Kills of a neighbour index: whatever is saved or merged when its process ends, the next one finds what the log says.

A round draws experiences (some of them repeats), searches, saves and merges, and ends the process before a call to the
disk that it draws, a few times. Then the index is opened, follows what it missed, and must find what the reference
finds.
"""

from __future__ import annotations

import random
from pathlib import Path

from fakes.disks import Killed, KillingDisk
from fakes.experiences import Model, an_experience, some_vectors

from replay.config import IndexConfig
from replay.disk import Disk
from replay.index import NeighbourIndex, Wanted
from replay.index.merging import merge

NUM_ROUNDS = 500
NUM_IN_CI = 8
LIVES = 4
VECTORS = some_vectors(300, 6)


def run_round(number: int, folder: Path) -> dict[str, int]:
    """Raises AssertionError that names the round and what was violated."""
    chance = random.Random(number)
    config = IndexConfig(
        encoder="e",
        dimension=6,
        max_entries=chance.choice([10, 1000]),
        merge_entries=chance.choice([3, 12]),
        ivf_entries=chance.choice([1, 1000]),
    )
    model = Model(config.max_entries)
    counts = {"lives": 0, "killed": 0, "merges": 0, "loaded": 0, "searches": 0}
    for life in range(LIVES):
        disk = KillingDisk(chance.randrange(120)) if life < LIVES - 1 else Disk()
        index = NeighbourIndex(folder, config, disk=disk)
        counts["lives"] += 1
        counts["loaded"] += index.loaded > 0
        for sequence, experience in model.held.items():
            index.follow(experience, sequence)
        _check(index, model, chance, f"round {number}, life {life}, opened")
        try:
            counts["merges"] += _live(index, model, chance, folder, disk)
        except Killed:
            counts["killed"] += 1
        _check(index, model, chance, f"round {number}, life {life}, at its end")
        counts["searches"] += 2 * len(_WANTED)
    return counts


def _live(index: NeighbourIndex, model: Model, chance: random.Random, folder: Path, disk: Disk) -> int:
    """Returns how many merges there were."""
    num_merges = 0
    for _ in range(40):
        sequence = max(model.held, default=-1) + chance.randint(1, 3)
        vector = VECTORS[chance.randrange(len(VECTORS))]
        name, source = f"q{chance.randrange(40)}", f"s{chance.randrange(3)}"
        experience = an_experience(vector, query_id=name, source=source, version=chance.choice([None, 0, 1, 2]))
        model.held[sequence] = experience
        index.follow(experience, sequence)
        if chance.random() < 0.05:
            index.save()
        if index.merge_due():
            frozen = index.freeze()
            index.keep(frozen)
            merge(folder, disk)
            index.adopt(frozen, *index.merged())
            index.save()
            num_merges += 1
    return num_merges


_WANTED = (Wanted(), Wanted(source="s1"), Wanted(min_version=1), Wanted(source="s0", max_version=1))


def _check(index: NeighbourIndex, model: Model, chance: random.Random, where: str) -> None:
    assert len(index) == len(model.entries()), f"{where}: {len(index)} entries, {len(model.entries())} in the log"
    for wanted in _WANTED:
        query, name = VECTORS[chance.randrange(len(VECTORS))], f"q{chance.randrange(40)}"
        found = index.search(query, 6, exclude_query=name, wanted=wanted)
        expected = model.nearest(query, 6, name, wanted)
        assert found == expected, f"{where}: {wanted} but not {name} found {found}, there is {expected}"
