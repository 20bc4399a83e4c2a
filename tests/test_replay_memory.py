"""What a replay holds in memory is bounded by its configuration, however long its log."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from common.columns import RolloutKeys
from replay.config import Drawing
from replay.records import Admit, Advance, Begin, Drawn, Release, Rewind, Spend
from replay.state import MAX_CLOSED, PACKED_AT_ONCE, State

KEEP_DRAWS, SIBLINGS = 8, 4

CHILD = """
import asyncio, sys
from pathlib import Path
from fakes.replays import OS, a_buffer, a_phase, put
from fakes.values import a_query, a_rollout, an_answer_turn

def anonymous():
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")]
    return int(line.split()[1]) << 10

async def main(folder, *marks):
    settings = dict(segment_bytes=1 << 20, snapshot_bytes=2 << 20, keep_draws=4)
    async with a_buffer(folder, **settings) as buffer:
        await a_phase(buffer)
        for step in range(marks[-1]):
            await buffer.admit(f"g{step}")
            for i in range(2):
                said = an_answer_turn(tuple(range(6000)), version=step)
                more = dict(query=a_query(images=()), calls=(), turns=(said,))
                await put(buffer, a_rollout(step, i, score=float(i), **more))
            await buffer.sample(step)
            await buffer.advance(step + 1, step + 1)
            if step + 1 in marks:
                print((await buffer.stats()).log_bytes, anonymous())

asyncio.run(main(Path(sys.argv[1]), *map(int, sys.argv[2:])))
"""
"""Prints the bytes of the log and those of the process's own memory, after so many steps."""


def keys(number: int, group_id: str, **changes: object) -> RolloutKeys:
    fields: dict[str, object] = {
        "rollout_id": f"{group_id}/{number}",
        "producer": f"actor-{number % 3}",
        "epoch": number // 500,
        "sequence": number // 3,
        "group_id": group_id,
        "group_size": SIBLINGS,
        "phase": "rft",
        "oldest_version": 0,
        "score": 0.5,
        "quarantined": False,
        "media": (),
    }
    return RolloutKeys(**(fields | changes))  # type: ignore[arg-type]


def grown(num_steps: int, *, max_reuse: int = 1, first_version: int = 1000) -> State:
    """The state after so many steps of one group each; every third group is spent, some rollouts come late, some never,
    every seventh step is taken back once.
    """
    state = State()
    drawing = Drawing(max_reuse=max_reuse)
    begin = Begin(
        phase="rft", groups_per_step=1, max_policy_lag=2, votes=False, step=0, version=first_version, drawing=drawing
    )
    state.apply(begin)
    numbers, groups, records = itertools.count(), itertools.count(10_000), itertools.count(100_000)
    for step in range(num_steps):
        for fate in ("drawn", "zero_variance") if step % 3 == 0 else ("drawn",):
            number = next(groups)
            name = f"rft/{number}" if step % 2 else f"own-{number}"
            state.apply(Admit(number=number, group_id=name))
            for _ in range(SIBLINGS):
                state.add(keys(next(numbers), name, oldest_version=first_version + step), next(records))
            if fate != "drawn":
                state.apply(Spend(group_id=name, reason=fate))
                state.add(keys(next(numbers), name), next(records))
        group = next(group for group in state.groups.values() if step not in group.draws)
        drawn = Drawn(
            step=step,
            watermark=0,
            group_ids=(group.group_id,),
            rollout_ids=tuple(member.rollout_id for member in group.usable),
            sequences=tuple(member.sequence for member in group.usable),
            lag=0,
        )
        state.apply(drawn)
        if step % 7 == 0:
            state.apply(Rewind(step=step, version=first_version + step, orphans=False))
            state.apply(drawn)
        state.apply(Advance(step=step + 1, version=first_version + step + 1))
        if len(state.draws) > KEEP_DRAWS:
            state.apply(Release(step=next(iter(state.draws)) + 1))
    return state


def test_ten_times_the_rollouts_do_not_make_a_larger_state() -> None:
    few, many = grown(60), grown(600)
    assert many.inserted > 9 * few.inserted
    assert (len(many.draws), many.fresh) == (KEEP_DRAWS, {})
    for name in ("versions", "groups", "closed", "used", "spent"):
        assert len(getattr(many, name)) <= len(getattr(few, name)) + 2, name
    assert len(many.pack()) < 1.25 * len(few.pack())


def test_groups_that_end_while_nothing_is_drawn_are_forgotten_too() -> None:
    state = State()
    state.apply(Begin(phase="rft", groups_per_step=1, max_policy_lag=0, votes=False, step=0, version=0))
    for number in range(MAX_CLOSED + 100):
        name = f"own-{number}" if number % 2 else f"rft/{number}"
        state.apply(Admit(number=number, group_id=name))
        state.apply(Spend(group_id=name, reason="zero_variance"))
    assert len(state.closed) == MAX_CLOSED
    assert state.forgotten == 50
    assert state.why_over("rft/0") == state.why_over("own-1") == "forgotten"
    assert state.why_over(f"rft/{MAX_CLOSED}") == "zero_variance"


@settings(max_examples=20, deadline=None)
@given(num_steps=st.integers(0, 2 * PACKED_AT_ONCE), more=st.integers(0, 3))
def test_a_packed_copy_is_what_the_state_was(num_steps: int, more: int) -> None:
    state = grown(num_steps, max_reuse=2)
    copied, packed = state.copy(), state.pack()
    assert packed == msgspec.json.encode(state)
    assert State.unpack(packed) == copied == state
    state.apply(Rewind(step=max(0, state.next_step - more), version=5, orphans=True))
    for group in list(state.groups.values()):
        state.apply(Spend(group_id=group.group_id, reason="lost"))
    state.add(keys(10**6, "another"), 10**6)
    state.apply(Release(step=state.next_step))
    assert State.unpack(packed) == copied
    assert copied.pack() == packed


def test_a_process_that_writes_a_longer_log_does_not_grow_with_it(tmp_path: Path) -> None:
    """Far less than the log: what allocators keep of what is allocated on the way (decoded rollouts, buffers of Arrow)
    varies by some MB.
    """
    tests = Path(__file__).parent
    allocators = {"MALLOC_ARENA_MAX": "1", "ARROW_DEFAULT_MEMORY_POOL": "system"}
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent)])} | allocators
    words = [sys.executable, "-c", CHILD, str(tmp_path), "30", "230"]
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=True)
    (few_bytes, before), (many_bytes, after) = (map(int, line.split()) for line in done.stdout.splitlines())
    written = many_bytes - few_bytes
    assert written > 20 << 20
    assert after - before < written / 2
