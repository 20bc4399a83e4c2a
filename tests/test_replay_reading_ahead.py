"""The next draw is read ahead and never decided ahead; what is read lies in the memory map, nothing copied."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.replays import OS, a_buffer, a_phase, put
from fakes.values import a_consensus, a_group, a_query, a_rollout, an_answer_turn

from common.errors import LogDamaged
from common.media import FolderMediaStore, put_view
from common.schema import decode_rollouts, rollout_table
from common.types import Draw, Turn
from replay.buffer import ReplayBuffer
from replay.config import Drawing, ReplayConfig
from replay.opening import open_replay
from replay.records import Kind
from replay.segments import Frame, read_frames


async def settled(buffer: ReplayBuffer) -> None:
    """Until nothing is being read."""
    while buffer._handing_out.reading:
        await asyncio.sleep(0)


async def admitted(buffer: ReplayBuffer, *numbers: int) -> None:
    for number in numbers:
        await buffer.admit(f"g{number}")


async def test_the_next_draw_is_read_while_the_learner_works(tmp_path: Path) -> None:
    async with a_buffer(tmp_path) as buffer:
        await a_phase(buffer, lag=9)
        await admitted(buffer, 0, 1, 2)
        await put(buffer, *a_group(0), *a_group(1))
        await buffer.sample(0)
        await settled(buffer)
        num_records = (await buffer.stats()).num_records
        draw = await buffer.sample(1)
        assert draw.rollout_ids == ("g1/0", "g1/1") == tuple(r.rollout_id for r in decode_rollouts(draw.rollouts))
        assert buffer._handing_out.num_ahead == 1
        assert (await buffer.stats()).num_records == num_records + 1
        await put(buffer, *a_group(2))
        await settled(buffer)
        assert [rollout.rollout_id for rollout in decode_rollouts((await buffer.sample(2)).rollouts)] == [
            "g2/0",
            "g2/1",
        ]
        assert buffer._handing_out.num_ahead == 2
    assert sum(frame.kind == Kind.DRAW for frame in read_frames(tmp_path / "log")) == 3


async def test_what_was_read_ahead_is_thrown_away_when_the_decision_is_another(tmp_path: Path) -> None:
    async with a_buffer(tmp_path) as buffer:
        await a_phase(buffer, lag=9)
        await admitted(buffer, 0, 1, 2)
        await put(buffer, *a_group(0), *a_group(2))
        await buffer.sample(0)
        await settled(buffer)
        await put(buffer, *a_group(1))
        draw = await buffer.sample(1)
        assert draw.rollout_ids == ("g1/0", "g1/1") == tuple(r.rollout_id for r in decode_rollouts(draw.rollouts))
        assert buffer._handing_out.num_ahead == 0
        await settled(buffer)
        await buffer.rewind(1, version=0)
        assert (await buffer.sample(1)).rollouts == draw.rollouts
        assert (await buffer.sample(2)).rollout_ids == ("g2/0", "g2/1")


async def test_what_is_too_old_by_then_is_not_drawn_though_it_was_read(tmp_path: Path) -> None:
    async with a_buffer(tmp_path, drawing=Drawing(error_budget=4)) as buffer:
        await a_phase(buffer, lag=1)
        await admitted(buffer, 0, 1, 2)
        await put(buffer, *a_group(0), *a_group(1), *a_group(2))
        await buffer.sample(0)
        await buffer.advance(1, 1)
        await buffer.sample(1)
        await settled(buffer)
        await buffer.advance(2, 2)
        await admitted(buffer, 3)
        await put(buffer, *a_group(3, version=2))
        assert (await buffer.sample(2)).rollout_ids == ("g3/0", "g3/1")
        assert buffer.state.expired == 2


async def test_who_stops_waiting_for_a_draw_stops_nobody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()
    async with a_buffer(tmp_path) as buffer:
        mapped = buffer._log.mapped

        def slowly(sequences: Iterable[int]) -> list[Frame]:
            go.wait()
            return mapped(sequences)

        await a_phase(buffer, lag=9)
        await admitted(buffer, 0, 1)
        await put(buffer, *a_group(0))
        await buffer.sample(0)
        monkeypatch.setattr(buffer._log, "mapped", slowly)
        await put(buffer, *a_group(1))
        assert buffer._handing_out.is_ahead
        waiting = asyncio.create_task(buffer.sample(1))
        while buffer.state.next_step < 2:
            await asyncio.sleep(0)
        await asyncio.sleep(0.05)  # until it waits for what is being read
        closing = asyncio.create_task(buffer.close())
        await asyncio.sleep(0.05)  # until it waits for that too
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        go.set()
        await closing


async def drawn(folder: Path, drawing: Drawing, *, ahead: bool) -> list[Draw]:
    """The draws of a replay into which two groups come before each; without `ahead` it is closed and opened in between,
    so nothing was read.
    """
    draws: list[Draw] = []
    config = ReplayConfig(folder=folder, durability=OS, drawing=drawing)
    buffer = open_replay(config)
    await a_phase(buffer, lag=20, groups_per_step=2)
    await admitted(buffer, *range(12))
    for step in range(6):
        for number in (2 * step, 2 * step + 1):
            await put(buffer, *a_group(number, scores=(1.0, number / 12)))
        await settled(buffer)
        if not ahead:
            await buffer.close()
            buffer = open_replay(config)
        draws.append(await buffer.sample(step))
        assert ahead or buffer._handing_out.num_ahead == 0
    await buffer.close()
    return draws


@pytest.mark.parametrize("selector", ["fifo", "in_order", "uniform", "prioritised", "mixture"])
async def test_draws_are_those_of_a_replay_that_does_not_read_ahead(tmp_path: Path, selector: Any) -> None:
    drawing = Drawing(selector=selector, seed=3, max_reuse=2)
    assert await drawn(tmp_path / "a", drawing, ahead=True) == await drawn(tmp_path / "b", drawing, ahead=False)


async def test_a_vote_makes_it_enough(tmp_path: Path) -> None:
    async with a_buffer(tmp_path) as buffer:
        await a_phase(buffer, lag=9, votes=True)
        await admitted(buffer, 0, 1)
        await put(buffer, *a_group(0, scores=(None, None)), *a_group(1, scores=(None, None)))
        await buffer.settle(a_consensus(0))
        await buffer.sample(0)
        await buffer.settle(a_consensus(1))
        await settled(buffer)
        draw = await buffer.sample(1)
        assert [vote.group_id for vote in draw.consensus] == ["g1"]
        assert buffer._handing_out.num_ahead == 1


async def test_pictures_are_put_back_that_were_forgotten_after_the_read(tmp_path: Path) -> None:
    live = FolderMediaStore(tmp_path / "live")
    ref = put_view(live, np.full((8, 8, 3), 9, np.uint8))
    async with a_buffer(tmp_path / "run", live_media=live.root) as buffer:
        await a_phase(buffer, lag=9)
        await admitted(buffer, 0, 1)
        for group in range(2):
            seen = Turn(role="tool", token_ids=(1, 3, 2), images=(ref,))
            more: dict[str, Any] = {"query": a_query(images=()), "calls": (), "turns": (seen, an_answer_turn())}
            await put(buffer, *(a_rollout(group, i, score=float(i), **more) for i in range(2)))
        await buffer.sample(0)
        await settled(buffer)
        live.trim(0)
        await buffer.sample(1)
        assert buffer._handing_out.num_ahead == 1
        assert ref.digest in live


async def test_damage_is_told_to_whoever_draws_not_before(tmp_path: Path) -> None:
    async with a_buffer(tmp_path) as buffer:
        await a_phase(buffer, lag=9)
        await admitted(buffer, 0, 1)
        await put(buffer, *a_group(0), *a_group(1))
        [segment] = (tmp_path / "log").glob("*.segment")
        data = segment.read_bytes()
        at = data.index(b"g1/1")
        with segment.open("r+b") as file:
            file.seek(at)
            file.write(b"g1/2")
        await buffer.sample(0)
        await settled(buffer)
        with pytest.raises(LogDamaged):
            await buffer.sample(1)


async def test_tokens_and_log_probs_lie_in_the_memory_map(tmp_path: Path) -> None:
    async with a_buffer(tmp_path) as buffer:
        await a_phase(buffer, lag=9)
        await admitted(buffer, 0, 1)
        rollouts = [*a_group(0), *a_group(1)]
        await put(buffer, *rollouts)
        members = [member for group in buffer.state.groups.values() for member in group.usable]
        frames = buffer._log.mapped([member.sequence for member in members])
        assert len({id(frame.body.obj) for frame in frames if isinstance(frame.body, memoryview)}) == 1
        whole = frames[0].body.obj  # type: ignore[union-attr]
        start = np.frombuffer(whole, np.uint8).ctypes.data
        for frame, rollout in zip(frames, rollouts, strict=True):
            turns = rollout_table(frame.body)["turns"].chunk(0).flatten()
            for name, dtype in (("token_ids", np.int32), ("logprobs", np.float32)):
                values = turns.field(name).flatten().to_numpy(zero_copy_only=True)
                assert values.dtype == dtype
                assert start < values.ctypes.data and values.ctypes.data + values.nbytes < start + len(whole)
            assert turns.field("token_ids").to_pylist() == [list(turn.token_ids) for turn in rollout.turns]
