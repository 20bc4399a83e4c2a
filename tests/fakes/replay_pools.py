"""Pools made at once from their groups, and a look at every group where the replay keeps count."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import accumulate

import numpy as np
import pytest
from fakes.replay_model import Model

from common.seeds import stream
from replay.candidates import Candidates
from replay.config import Drawing
from replay.pool import BITS, Pool, Shares
from replay.selectors import MIN_PRIORITY, share_of
from replay.state import Group, State

FIFO = Drawing()


def pool_of(
    groups: Iterable[Group], *, drawing: Drawing = FIFO, ready: Callable[[Group], bool] = lambda group: True
) -> Pool:
    pool = Pool()
    for group in groups:
        part = (pool.drawn if group.draws else pool.fresh) if ready(group) else pool.waiting
        part.put(group.number, share_of(group, drawing) if ready(group) else 1)
    return pool


def check_sums(shares: Shares, kept: dict[int, int]) -> None:
    """Every sum is that of the integers below it, and there is no other."""
    for level, sums in enumerate(shares.sums):
        expected: dict[int, int] = {}
        for number, share in kept.items():
            place = number >> BITS * level
            expected[place] = expected.get(place, 0) + share
        assert sums == expected
    assert (len(shares), shares.total) == (len(kept), sum(kept.values()))


def check_candidates(candidates: Candidates, model: Model, state: State, step: int) -> None:
    """What is kept count of is what the model finds by looking at every group, and a restart chooses the same."""
    names = list(model.groups)
    live = {number: name for number, name in enumerate(names) if name in set(model.live())}
    parts: dict[str, dict[int, int]] = {"waiting": {}, "fresh": {}, "drawn": {}}
    ages: dict[int, set[str]] = {}
    for number, name in live.items():
        group = model.groups[name]
        if not group.ready:
            parts["waiting"][number] = 1
            continue
        part = parts["drawn" if model.times(name) else "fresh"]
        part[number] = candidates.pool.share(number)
        ages.setdefault(min(version for version, _ in group.usable.values()), set()).add(name)
        spread = max(float(np.std([score for _, score in group.usable.values()])), MIN_PRIORITY)
        prioritised = model.drawing.selector == "prioritised"
        expected = (spread / MIN_PRIORITY) ** model.drawing.exponent * 2.0**53 if prioritised else 1
        assert part[number] == pytest.approx(expected, rel=1e-9)
    for part_name, kept in parts.items():
        check_sums(getattr(candidates.pool, part_name), kept)
    assert candidates._names == live
    assert {oldest: set(group_ids) for oldest, group_ids in candidates._ages.items()} == ages
    restarted = Candidates(State.unpack(state.pack()), configured=model.drawing)
    restarted.renew()
    assert restarted.choose(step) == candidates.choose(step)


def chosen_by_looking_at_all(
    groups: list[Group], ready: Callable[[Group], bool], drawing: Drawing, *, phase: str, count: int, step: int
) -> list[int] | None:
    """What docs/replay.md says that selectors take, from the list of all ready groups."""
    groups = sorted(groups, key=lambda group: group.number)
    pool, random = [group for group in groups if ready(group)], stream(drawing.seed, "draw", phase, step)
    if drawing.selector == "in_order" and not all(map(ready, groups[:count])):
        return None
    if len(pool) < count:
        return None
    if drawing.selector in ("fifo", "in_order"):
        return [group.number for group in pool[:count]]
    if drawing.selector in ("uniform", "windowed"):
        pool = pool[-drawing.window :]
        if len(pool) < count:
            return None
        return [pool[place].number for place in sorted(random.choice(len(pool), count, replace=False))]
    if drawing.selector == "mixture":
        new, old = [group for group in pool if not group.draws], [group for group in pool if group.draws]
        num_old = min(count - int(np.ceil(drawing.fresh * count)), len(old))
        if len(new) < count - num_old:
            return None
        places = random.choice(len(old), num_old, replace=False) if num_old else ()
        return sorted(group.number for group in new[: count - num_old] + [old[place] for place in places])
    left = {group.number: share_of(group, drawing) for group in pool}
    for chance in random.random(count):
        place = int(chance * 2**53) * sum(left.values()) >> 53
        del left[next(n for n, end in zip(left, accumulate(left.values()), strict=True) if place < end)]
    return [group.number for group in pool if group.number not in left]
