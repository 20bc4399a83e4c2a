"""The buffer: whole groups, in order, once, within the lag; and a restart that remembers all of it."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.replays import OS, a_buffer, a_phase, balanced, order, put, random_run, resumed
from fakes.values import a_consensus, a_group, a_query, a_rollout, a_trace, an_answer_turn
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import ConfigError, ContractError, ReplayError, Stopped
from common.media import FolderMediaStore, put_view
from common.schema import decode_rollouts, encode_rollouts, encode_traces
from common.types import Draw, Provenance
from replay.audit.audit import audit_replay
from replay.buffer import ReplayBuffer
from replay.config import Drawing, Durability, IndexConfig, ReplayConfig
from replay.disk import Disk
from replay.folding import fold
from replay.log import Log
from replay.opening import open_replay
from replay.packs import PackedMedia
from replay.state import State
from replay.stats import ReplayStats


async def waits(coroutine: Any) -> asyncio.Task[Any]:
    """The coroutine as a task that is still waiting after everything else has had its turn."""
    task = asyncio.ensure_future(coroutine)
    await asyncio.sleep(0.05)
    assert not task.done()
    return task


async def test_a_group_is_drawn_whole_and_its_rollouts_come_back_unchanged(tmp_path: Path) -> None:
    async with a_buffer(tmp_path) as buffer:
        await a_phase(buffer)
        assert await buffer.admit("g0") == 0
        first, second = a_group(0)
        await put(buffer, second)
        sampling = await waits(buffer.sample(0))
        await put(buffer, first)
        draw = await sampling
        assert draw.rollout_ids == ("g0/0", "g0/1")
        assert decode_rollouts(draw.rollouts) == [first, second]
        assert (draw.step, draw.consensus) == (0, ())
        stats = await buffer.stats()
        assert (stats.inserted, stats.live, stats.spent_reasons) == (2, 0, {"drawn": 2})


async def test_groups_are_drawn_first_in_first_out_by_admission(tmp_path: Path) -> None:
    async with a_buffer(tmp_path) as buffer:
        await a_phase(buffer, groups_per_step=2, lag=1)
        for i in range(4):
            assert await buffer.admit(f"g{i}") == i
        await put(buffer, *a_group(3), *a_group(1), *a_group(0))
        assert (await buffer.sample(0)).rollout_ids == ("g0/0", "g0/1", "g1/0", "g1/1")
        await put(buffer, *a_group(2))
        assert (await buffer.sample(1)).rollout_ids == ("g2/0", "g2/1", "g3/0", "g3/1")


async def test_in_order_waits_for_the_lowest_number_and_otherwise_a_slow_group_is_overtaken(tmp_path: Path) -> None:
    for in_order in (False, True):
        async with a_buffer(tmp_path / str(in_order), drawing=order(in_order)) as buffer:
            await a_phase(buffer, lag=1)
            await buffer.admit("g0")
            await buffer.admit("g1")
            await put(buffer, *a_group(1))
            if not in_order:
                assert (await buffer.sample(0)).rollout_ids == ("g1/0", "g1/1")
                continue
            sampling = await waits(buffer.sample(0))
            await put(buffer, *a_group(0))
            assert (await sampling).rollout_ids == ("g0/0", "g0/1")


async def test_a_second_copy_is_acknowledged_and_not_kept(tmp_path: Path) -> None:
    async with a_buffer(tmp_path) as buffer:
        await a_phase(buffer)
        await buffer.admit("g0")
        rollout = a_rollout(0, 0)
        again = dataclasses.replace(rollout, producer="actor-1")
        assert await put(buffer, rollout, rollout, again) == [True, False, False]
        assert await put(buffer, a_rollout(0, 1, score=0.0)) == [True]
        assert len((await buffer.sample(0)).rollout_ids) == 2
        assert await put(buffer, rollout) == [False]
        stats = await buffer.stats()
        assert (stats.inserted, stats.duplicates) == (2, 3)


async def test_the_limiter_holds_groups_back_until_the_learner_advances(tmp_path: Path) -> None:
    """Two groups a step, lag 1: numbers below (0 + 1 + 1)·2 = 4 may start; after a step, two more."""
    async with a_buffer(tmp_path) as buffer:
        await a_phase(buffer, groups_per_step=2, lag=1)
        assert [await buffer.admit(f"g{i}") for i in range(4)] == [0, 1, 2, 3]
        await put(buffer, *a_group(0), *a_group(1))
        await buffer.sample(0)
        admitting = await waits(buffer.admit())
        await buffer.advance(1, 1)
        assert await admitting == 4
        assert await buffer.admit() == 5
        await waits(buffer.admit())


async def test_whoever_waits_to_be_admitted_goes_with_the_phase(tmp_path: Path) -> None:
    async with a_buffer(tmp_path) as buffer:
        await a_phase(buffer)
        await buffer.admit()
        late = await waits(buffer.admit())
        await buffer.begin("ttrl", groups_per_step=1, max_policy_lag=0, votes=True)
        with pytest.raises(Stopped, match="rft is over"):
            await late
        assert await buffer.admit() == 0


async def test_an_abandoned_group_returns_its_credit_and_its_late_rollouts_are_spent(tmp_path: Path) -> None:
    async with a_buffer(tmp_path) as buffer:
        await a_phase(buffer)
        await buffer.admit("g0")
        await put(buffer, a_rollout(0, 0))
        admitting = await waits(buffer.admit("g1"))
        await buffer.abandon("g0", "its actor was killed")
        assert await admitting == 1
        await put(buffer, a_rollout(0, 1))
        stats = await buffer.stats()
        assert stats.spent_reasons == {"its actor was killed": 1, "late": 1}
        assert (stats.inserted, stats.returned) == (2, 1)
        await buffer.abandon("g0", "twice changes nothing")
        assert (await buffer.stats()).returned == 1


async def test_a_group_without_variance_is_spent_unless_it_may_teach_otherwise(tmp_path: Path) -> None:
    for drop in (True, False):
        async with a_buffer(tmp_path / str(drop), drop_zero_variance=drop) as buffer:
            await a_phase(buffer)
            await buffer.admit("g0")
            await put(buffer, *a_group(0, scores=(1.0, 1.0)))
            stats = await buffer.stats()
            assert stats.spent_reasons == ({"zero_variance": 2} if drop else {})
            assert (stats.returned, stats.ready_groups) == ((1, 0) if drop else (0, 1))


async def test_a_quarantined_rollout_is_left_out_and_a_group_of_one_left_is_spent(tmp_path: Path) -> None:
    async with a_buffer(tmp_path) as buffer:
        await a_phase(buffer, lag=1)
        await buffer.admit("g0")
        await buffer.admit("g1")
        three = a_group(0, scores=(1.0, 0.0, 0.5))
        bad = dataclasses.replace(three[2], turns=(), stop_reason="quarantined")
        await put(buffer, *three[:2], bad)
        await put(buffer, a_rollout(1, 0), dataclasses.replace(a_rollout(1, 1), stop_reason="quarantined"))
        assert (await buffer.sample(0)).rollout_ids == ("g0/0", "g0/1")
        stats = await buffer.stats()
        assert (stats.quarantined, stats.spent_reasons) == (2, {"drawn": 2, "quarantined": 1})
        assert balanced(stats)


async def test_a_group_that_votes_is_drawn_after_its_vote_and_not_after_an_abstention(tmp_path: Path) -> None:
    async with a_buffer(tmp_path) as buffer:
        await a_phase(buffer, lag=1, votes=True)
        for i in range(2):
            await buffer.admit(f"g{i}")
            await put(buffer, *a_group(i, scores=(None, None)))
        sampling = await waits(buffer.sample(0))
        await buffer.settle(a_consensus(0, answer=None))
        vote = a_consensus(1)
        await buffer.settle(vote)
        draw = await sampling
        assert (draw.rollout_ids, draw.consensus) == (("g1/0", "g1/1"), (vote,))
        await buffer.settle(vote)
        stats = await buffer.stats()
        assert (stats.spent_reasons, stats.returned) == ({"abstained": 2, "drawn": 2}, 1)
        with pytest.raises(ContractError, match="never admitted"):
            await buffer.settle(a_consensus(7))


async def test_what_its_source_does_not_allow_to_learn_from_is_kept_and_never_drawn(tmp_path: Path) -> None:
    async with a_buffer(tmp_path) as buffer:
        await a_phase(buffer, lag=1)
        for i, consent in enumerate(("keep", "learn")):
            await buffer.admit(f"g{i}")
            provenance = Provenance(source="somebody", consent=consent)  # type: ignore[arg-type]
            assert await put(buffer, *a_group(i, provenance=provenance)) == [True, True]
        assert (await buffer.sample(0)).rollout_ids == ("g1/0", "g1/1")
        stats = await buffer.stats()
        assert (stats.quarantined, stats.returned, stats.inserted) == (2, 1, 4)
        assert balanced(stats)
    audit = audit_replay(tmp_path)
    assert audit.clean, audit.violations


async def test_a_second_vote_over_a_group_changes_neither_it_nor_a_draw_that_was_handed_out(tmp_path: Path) -> None:
    drawing = Drawing(max_reuse=2, samples_per_insert=2.0)
    async with a_buffer(tmp_path, drawing=drawing) as buffer:
        await a_phase(buffer, lag=1, votes=True)
        await buffer.admit("g0")
        await put(buffer, *a_group(0, scores=(None, None)))
        await buffer.settle(a_consensus(0))
        draw = await buffer.sample(0)
        await buffer.settle(a_consensus(0, answer=None))
        assert (await buffer.sample(0)).consensus == draw.consensus == (a_consensus(0),)
        assert (await buffer.stats()).spent_reasons == {}


async def test_what_is_older_than_the_bound_at_the_draw_is_expired_and_never_learned_from(tmp_path: Path) -> None:
    """Lag 1. Group 0 is overtaken twice: version 0 at step 2 is two steps old."""
    async with a_buffer(tmp_path) as buffer:
        await a_phase(buffer, lag=1)
        await buffer.admit("g0")
        await buffer.admit("g1")
        await put(buffer, *a_group(1, version=0))
        await buffer.sample(0)
        await buffer.advance(1, 1)
        await buffer.admit("g2")
        await put(buffer, *a_group(2, version=1))
        await buffer.sample(1)
        await buffer.advance(2, 2)
        await put(buffer, *a_group(0, version=0))
        await buffer.admit("g3")
        sampling = await waits(buffer.sample(2))
        assert await buffer.admit("g4") == 4
        await put(buffer, *a_group(4, version=1))
        assert (await sampling).rollout_ids == ("g4/0", "g4/1")
        stats = await buffer.stats()
        assert (stats.expired, stats.returned, stats.max_policy_lag_seen, stats.phase_policy_lag) == (2, 1, 1, 1)
        assert balanced(stats)


async def test_a_rollout_is_as_old_as_its_oldest_version(tmp_path: Path) -> None:
    async with a_buffer(tmp_path) as buffer:
        await a_phase(buffer)
        await buffer.advance(1, 5)
        await buffer.admit("g0")
        straddling = dataclasses.replace(a_rollout(0, 0), turns=(an_answer_turn(version=0), an_answer_turn(version=5)))
        await put(buffer, straddling, a_rollout(0, 1, score=0.0, version=5))
        assert buffer.state.lag(buffer.state.groups["g0"], 1) == 1


async def test_asking_for_a_step_again_gives_the_same_draw_and_skipping_one_is_refused(tmp_path: Path) -> None:
    async with a_buffer(tmp_path) as buffer:
        await a_phase(buffer, lag=2)
        for i in range(3):
            await buffer.admit(f"g{i}")
            await put(buffer, *a_group(i))
        assert await buffer.sample(0) == await buffer.sample(0)
        with pytest.raises(ContractError, match="the next one is for step 1"):
            await buffer.sample(2)
        one, two = await asyncio.gather(buffer.sample(1), buffer.sample(1))
        assert one == two


async def test_a_restored_learner_draws_the_same_groups_again_and_nothing_earlier(tmp_path: Path) -> None:
    async with a_buffer(tmp_path) as buffer:
        await a_phase(buffer, lag=2)
        draws = []
        for i in range(3):
            await buffer.admit(f"g{i}")
            await put(buffer, *a_group(i))
            draws.append(await buffer.sample(i))
        await buffer.advance(1, 1)
    async with a_buffer(tmp_path) as buffer:
        await resumed(buffer, lag=2, step=1, version=2)
        await buffer.rewind(1, version=2)
        assert (await buffer.stats()).spent_reasons == {"drawn": 2}
        again = [await buffer.sample(i) for i in (1, 2)]
        assert [draw.rollout_ids for draw in again] == [draw.rollout_ids for draw in draws[1:]]
        assert await buffer.sample(0) == draws[0]
        stats = await buffer.stats()
        assert (stats.inserted, stats.spent, stats.step) == (6, 6, 1)


async def test_a_resumed_phase_gives_up_groups_that_nobody_will_finish(tmp_path: Path) -> None:
    async with a_buffer(tmp_path, drawing=order(True)) as buffer:
        await a_phase(buffer, lag=1)
        await buffer.admit("g0")
        await buffer.admit("g1")
        await put(buffer, a_rollout(0, 0), *a_group(1))
    async with a_buffer(tmp_path, drawing=order(True)) as buffer:
        await resumed(buffer, lag=1, step=0, version=0)
        assert (await buffer.sample(0)).rollout_ids == ("g1/0", "g1/1")
        assert (await buffer.stats()).spent_reasons == {"drawn": 2, "orphaned": 1}


async def test_rollouts_of_an_abandoned_line_age_from_where_the_lines_part(tmp_path: Path) -> None:
    """Sampled under version 3 at step 3; the learner returns to step 1 and comes to step 3 anew: two steps old."""
    async with a_buffer(tmp_path) as buffer:
        await a_phase(buffer, lag=1)
        for step in (1, 2, 3):
            await buffer.admit(f"g{step}")
            await put(buffer, *a_group(step, version=step - 1))
            await buffer.sample(step - 1)
            await buffer.advance(step, step)
        await buffer.admit("g9")
        await put(buffer, *a_group(9, version=3))
        await buffer.rewind(1, version=4)
        await buffer.sample(1)
        await buffer.advance(2, 5)
        await buffer.sample(2)
        await buffer.advance(3, 6)
        await waits(buffer.sample(3))
        assert (await buffer.stats()).expired == 2


async def test_a_new_phase_spends_what_is_left_and_counts_from_zero(tmp_path: Path) -> None:
    async with a_buffer(tmp_path) as buffer:
        await a_phase(buffer)
        await buffer.admit()
        await put(buffer, a_rollout("rft/0", 0))
        await buffer.begin("ttrl", groups_per_step=1, max_policy_lag=0, votes=True, version=4)
        assert await put(buffer, a_rollout("rft/0", 1)) == [True]
        assert await buffer.admit() == 0
        await put(
            buffer,
            *(
                dataclasses.replace(r, phase="ttrl")
                for r in a_group(0, group_id="ttrl/0", version=4, producer="actor-1")
            ),
        )
        await buffer.settle(a_consensus("ttrl/0"))
        assert len((await buffer.sample(0)).rollout_ids) == 2
        stats = await buffer.stats()
        assert stats.spent_reasons == {"drawn": 2, "late": 1, "phase_over": 1}
        assert balanced(stats)


async def test_settings_that_would_deadlock_are_refused_with_the_reason(tmp_path: Path) -> None:
    async with a_buffer(tmp_path) as buffer:
        with pytest.raises(ConfigError, match="groups_per_step must be at least 1, got 0: no group could ever start"):
            await buffer.begin("rft", groups_per_step=0, max_policy_lag=0, votes=False)
        with pytest.raises(ConfigError, match="max_policy_lag must be at least 0, got -1"):
            await buffer.begin("rft", groups_per_step=1, max_policy_lag=-1, votes=False)
        await a_phase(buffer)
        await a_phase(buffer)
        with pytest.raises(ConfigError, match="use the old values or a new run folder"):
            await a_phase(buffer, lag=3)
        await buffer.admit("g0")
        with pytest.raises(ConfigError, match="raise group_size to 2 or more"):
            await put(buffer, *a_group(0, scores=(1.0,)))


async def test_what_breaks_a_law_is_refused_and_leaves_no_trace(tmp_path: Path) -> None:
    async with a_buffer(tmp_path) as buffer:
        with pytest.raises(ContractError, match="no phase has begun"):
            await buffer.admit()
        await a_phase(buffer)
        await buffer.admit("g0")
        records = (await buffer.stats()).num_records
        for data, message in [
            (encode_rollouts([a_rollout("unknown")]), "never admitted"),
            (encode_rollouts(a_group(0)), "one rollout at a time; got 2"),
            (encode_traces([a_trace()]), "got one of traces"),
            (b"noise", "not an Arrow stream"),
        ]:
            with pytest.raises(ContractError, match=message):
                await buffer.add(data)
        assert (await buffer.stats()).num_records == records
        await put(buffer, a_rollout(0, 0))
        with pytest.raises(ContractError, match="says group g0 has 3 rollouts"):
            await put(buffer, a_rollout(0, 1, group_size=3))


async def test_closing_ends_every_wait(tmp_path: Path) -> None:
    buffer = open_replay(ReplayConfig(folder=tmp_path, durability=OS))
    await a_phase(buffer)
    await buffer.admit()
    tasks = [await waits(buffer.admit()), await waits(buffer.sample(0))]
    await buffer.close()
    for task in tasks:
        with pytest.raises(Stopped):
            await task
    await buffer.close()


class FailingDisk(Disk):
    failing = False

    def sync(self, file: int) -> None:
        if self.failing:
            raise OSError(5, "Input/output error")


async def test_a_failed_sync_reaches_whoever_adds_and_whoever_waits(tmp_path: Path) -> None:
    disk = FailingDisk()
    log = Log(tmp_path, disk=disk)
    buffer = ReplayBuffer(ReplayConfig(folder=tmp_path, durability=Durability()), log=log, state=State())
    await a_phase(buffer)
    await buffer.admit("g0")
    sampling = await waits(buffer.sample(0))
    disk.failing = True
    for attempt in (put(buffer, a_rollout(0, 0)), sampling, put(buffer, a_rollout(0, 1)), buffer.close()):
        with pytest.raises(ReplayError, match=r"fdatasync failed|broken"):
            await attempt


@pytest.mark.parametrize("mode", ["always", "group", "os"])
async def test_every_durability_keeps_the_order_and_survives_a_clean_stop(tmp_path: Path, mode: Any) -> None:
    async with a_buffer(tmp_path, durability=Durability(mode=mode, group_ms=0.5)) as buffer:
        await a_phase(buffer, lag=4)
        for i in range(5):
            await buffer.admit(f"g{i}")
        await asyncio.gather(*(put(buffer, rollout) for i in range(5) for rollout in a_group(i)))
        live = buffer.state
    log = Log(tmp_path / "log")
    assert fold(log) == live
    log.close()


# ── media and memory ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_media_are_durable_before_the_acknowledgement_and_put_back_when_forgotten(tmp_path: Path) -> None:
    live = FolderMediaStore(tmp_path / "live")
    view = put_view(live, np.full((64, 64, 3), 7, np.uint8))
    group = [
        a_rollout(0, i, score=float(i), query=a_query(images=()), calls=(), turns=(
            dataclasses.replace(an_answer_turn(), role="tool", images=(view,), logprobs=(), versions=()),
            an_answer_turn(),
        ))
        for i in range(2)
    ]  # fmt: skip
    config = ReplayConfig(folder=tmp_path / "run", live_media=live.root)
    buffer = open_replay(config)
    await a_phase(buffer)
    await buffer.admit("g0")
    await put(buffer, *group)
    kept = PackedMedia(tmp_path / "run" / "media")
    assert kept.get(view.digest) == live.get(view.digest)
    assert list(kept.digests()) == [view.digest]
    await buffer.close()
    live.trim(0)
    assert view.digest not in live
    buffer = open_replay(config)
    await buffer.sample(0)
    assert live.get(view.digest) == kept.get(view.digest)
    await buffer.close()


async def test_a_rollout_whose_media_nobody_holds_is_refused(tmp_path: Path) -> None:
    async with a_buffer(tmp_path / "run", live_media=tmp_path / "live") as buffer:
        await a_phase(buffer)
        await buffer.admit("g0")
        with pytest.raises(ContractError, match="media that this node does not hold"):
            await put(buffer, a_rollout(0, 0))
        store = FolderMediaStore(tmp_path / "live")
        ref = put_view(store, np.zeros((64, 64, 3), np.uint8))
        store.path(ref.digest).write_bytes(b"other")
        with pytest.raises(ContractError, match="other bytes"):
            await put(buffer, a_rollout(0, 0, calls=(), query=a_query(images=(ref,))))
        assert (await buffer.stats()).inserted == 0


async def test_one_bad_rollout_among_those_that_come_at_once_is_refused_alone(tmp_path: Path) -> None:
    good = [encode_rollouts([a_rollout(0, i, group_size=3)]) for i in range(3)]
    column = good[1].replace(b"query", b"quary")
    assert column != good[1]
    async with a_buffer(tmp_path) as buffer:
        await a_phase(buffer)
        await buffer.admit("g0")
        bodies = [good[0], b"no stream", good[1], encode_traces([a_trace()]), column, good[2]]
        found = await asyncio.gather(*map(buffer.add, bodies), return_exceptions=True)
        assert [one is True for one in found] == [True, False, True, False, False, True]
        assert all(isinstance(one, ContractError) for one in found if one is not True)
        assert (await buffer.stats()).inserted == 3


async def test_a_bug_in_looking_at_rollouts_ends_every_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("replay.inspecting.inspect_all", broken)
    asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
    async with a_buffer(tmp_path) as buffer:
        await a_phase(buffer)
        await buffer.admit("g0")
        found = await asyncio.gather(*(put(buffer, one) for one in a_group(0)), return_exceptions=True)
        assert [type(one) for one in found] == [RuntimeError, RuntimeError]


@pytest.mark.parametrize("half", ["append_all", "sync"])
async def test_a_bug_in_the_keeping_of_media_ends_every_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, half: str
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("replay.keeping.AT_ONCE", 1)
    store = FolderMediaStore(tmp_path / "live")
    ref = put_view(store, np.zeros((4, 4, 3), np.uint8))
    query = a_query(images=(ref,))
    rollouts = [a_rollout(0, i, group_size=3, calls=(), query=query, turns=(an_answer_turn(),)) for i in range(3)]
    buffer = open_replay(ReplayConfig(folder=tmp_path / "run", live_media=store.root))
    await a_phase(buffer)
    await buffer.admit("g0")
    monkeypatch.setattr(f"replay.media.DurableMedia.{half}", broken)
    found = await asyncio.gather(*(put(buffer, rollout) for rollout in rollouts), return_exceptions=True)
    assert [type(one) for one in found] == [ReplayError] * 3
    with pytest.raises(ReplayError, match="a bug"):
        await buffer.admit("g1")
    with pytest.raises(ReplayError):
        await buffer.close()


def _unit(*components: float) -> np.ndarray[Any, Any]:
    vector = np.array(components, np.float32)
    return vector / np.linalg.norm(vector)


async def test_an_experience_is_found_again_also_after_a_restart_and_a_lost_index(tmp_path: Path) -> None:
    index = IndexConfig(encoder="e1", dimension=3)
    fields: dict[str, Any] = {"family": "tiny_text", "chain": ("ZOOM", "OCR"), "answer": "493", "confidence": 0.75}
    async with a_buffer(tmp_path, index=index) as buffer:
        near = await buffer.remember(_unit(1, 0, 0), query_id="near", **fields)
        await buffer.remember(_unit(0, 1, 0), query_id="far", **fields)
        found = await buffer.nearest(_unit(1, 0.1, 0), 2)
        assert [n.query_id for n in found] == ["near", "far"]
        assert (found[0].sequence, found[0].chain, found[0].confidence) == (near, ("ZOOM", "OCR"), 0.75)
        assert [n.query_id for n in await buffer.nearest(_unit(1, 0.1, 0), 1, exclude_query="near")] == ["far"]
        with pytest.raises(ContractError, match="normalise"):
            await buffer.nearest(np.ones(3, np.float32), 1)
    for loss in ("nothing", "*.faiss", "*.entries", "manifest.json"):
        for path in (tmp_path / "index").glob(loss):
            path.unlink()
        async with a_buffer(tmp_path, index=index) as buffer:
            assert await buffer.nearest(_unit(1, 0.1, 0), 2) == found
            assert (await buffer.stats()).num_experiences == 2
    async with a_buffer(tmp_path, index=IndexConfig(encoder="e2", dimension=3)) as buffer:
        assert await buffer.nearest(_unit(1, 0, 0), 2) == []


# ── laws ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=6, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    groups_per_step=st.integers(1, 3),
    lag=st.integers(0, 2),
    in_order=st.booleans(),
)
def test_any_run_keeps_the_lag_the_balance_and_the_fold(
    tmp_path_factory: pytest.TempPathFactory, seed: int, groups_per_step: int, lag: int, in_order: bool
) -> None:
    folder = tmp_path_factory.mktemp("run")

    async def run() -> tuple[list[Draw], ReplayStats, State]:
        async with a_buffer(folder, drawing=order(in_order)) as buffer:
            await a_phase(buffer, groups_per_step=groups_per_step, lag=lag)
            draws = await random_run(buffer, random.Random(seed), groups_per_step=groups_per_step, lag=lag)
            return draws, await buffer.stats(), buffer.state

    draws, stats, state = asyncio.run(run())
    assert balanced(stats)
    assert stats.max_policy_lag_seen <= lag
    drawn = [name for draw in draws for name in draw.rollout_ids]
    assert len(drawn) == len(set(drawn))
    for draw in draws:
        rollouts = decode_rollouts(draw.rollouts)
        assert all(0 <= draw.step - rollout.oldest_version <= lag for rollout in rollouts)
        sizes = {r.group_id: r.group_size for r in rollouts}
        assert len(sizes) == groups_per_step
        assert sum(sizes.values()) == len(rollouts)
    if in_order or lag == 0:
        assert stats.expired == 0
    assert len(draws) >= 5
    log = Log(folder / "log")
    assert fold(log) == state
    log.close()


Cut = Callable[[bytes], bytes]


@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 2**32), keep=st.floats(0.1, 1.0))
def test_a_log_cut_anywhere_folds_to_a_balanced_state_that_goes_on(
    tmp_path_factory: pytest.TempPathFactory, seed: int, keep: float
) -> None:
    folder = tmp_path_factory.mktemp("run")

    async def before() -> None:
        async with a_buffer(folder) as buffer:
            await a_phase(buffer, groups_per_step=2, lag=1)
            await random_run(buffer, random.Random(seed), groups_per_step=2, lag=1)

    async def after() -> ReplayStats:
        async with a_buffer(folder) as buffer:
            if not buffer.state.phase:
                return await buffer.stats()
            await a_phase(buffer, groups_per_step=2, lag=1)
            for i in range(1000, 1002):
                if not buffer.state.may_admit():
                    break
                await buffer.admit(f"g{i}")
                await put(buffer, *a_group(i))
            assert len({r.group_id for r in decode_rollouts((await buffer.sample(0)).rollouts)}) == 2
            return await buffer.stats()

    asyncio.run(before())
    [segment] = (folder / "log").glob("*.segment")
    data = segment.read_bytes()
    segment.write_bytes(data[: max(64, int(len(data) * keep))])
    assert balanced(asyncio.run(after()))
