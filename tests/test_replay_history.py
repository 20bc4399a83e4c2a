"""Many producers and a learner that goes back, all at once: what anybody was told is what the log holds."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import pytest
from fakes.history import History, Workload, check, run_workload
from fakes.logs import put, records_of, rewritten
from fakes.values import a_group
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.schema import rollout_keys
from replay.audit.audit import audit_replay
from replay.config import Durability, ReplayConfig
from replay.opening import open_replay
from replay.records import Kind

LOAD = Workload(seed=3, steps=10)


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    load=st.builds(
        Workload,
        seed=st.integers(0, 2**32),
        num_producers=st.integers(1, 4),
        groups_per_step=st.integers(1, 3),
        group_size=st.integers(1, 3),
        lag=st.integers(0, 2),
        in_order=st.booleans(),
    )
)
def test_no_history_breaks_a_promise(tmp_path_factory: pytest.TempPathFactory, load: Workload) -> None:
    folder = tmp_path_factory.mktemp("run")
    history = asyncio.run(run_workload(folder, load))
    assert check(history, folder, load) == []
    audit = audit_replay(folder)
    assert audit.clean, audit.violations
    assert audit.balance.inserted >= load.steps * load.groups_per_step * load.group_size / 4


async def test_every_moment_of_a_live_run_looks_clean(tmp_path: Path) -> None:
    """Audits that read while others write see the log at some moment, and perhaps a record half written at its end."""
    load = Workload(seed=7, steps=12, num_producers=4)
    playing = asyncio.ensure_future(run_workload(tmp_path, load))
    audits = []
    while not (tmp_path / "log").exists():
        await asyncio.sleep(0)
    while not playing.done():
        audits.append(await asyncio.to_thread(audit_replay, tmp_path))
    await playing
    assert len({audit.num_records for audit in audits}) > 1
    assert [audit.violations for audit in audits if not audit.clean] == []


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[History, Path]:
    folder = tmp_path_factory.mktemp("played")
    return asyncio.run(run_workload(folder, LOAD)), folder


def test_the_workload_repeats_gives_up_goes_back_and_starts_again(played: tuple[History, Path]) -> None:
    history, folder = played
    assert check(history, folder, LOAD) == []
    assert any(not new for _, new in history.answers)
    rewinds = [what for what, _, _ in history.learner].count("rewind")
    assert history.num_cancelled > 0 and rewinds > history.num_restarts > 0


@pytest.fixture
def history(played: tuple[History, Path]) -> History:
    held = played[0]
    return dataclasses.replace(held, answers=[*held.answers], learner=[*held.learner], unwritten=[])


def test_a_lost_rollout_is_noticed(played: tuple[History, Path], tmp_path: Path) -> None:
    history, folder = played
    at, body = next((at, body) for at, (kind, body) in enumerate(records_of(folder)) if kind == Kind.ROLLOUT)
    lossy = _copy(folder, tmp_path)
    rewritten(lossy, lambda records: [*records[:at], *records[at + 1 :]])
    [keys] = rollout_keys(body)
    assert f"{keys.rollout_id} was acknowledged and is missing" in check(history, lossy, LOAD)
    rewritten(lossy, lambda records: [*records, (1, body), (1, body)])
    assert f"{keys.rollout_id} is kept 2 times" in check(history, lossy, LOAD)


def test_a_rollout_called_new_twice_is_noticed(played: tuple[History, Path], history: History) -> None:
    name = next(name for name, new in history.answers if new)
    history.answers.append((name, True))
    assert f"{name} was called new 2 times" in check(history, played[1], LOAD)


def test_a_group_drawn_twice_or_in_part_is_noticed(played: tuple[History, Path], history: History) -> None:
    last = max(i for i, (kind, _, _) in enumerate(history.learner) if kind == "sample")
    _, step, names = history.learner[last]
    history.learner.append(("sample", step + 1, names))
    broken = check(history, played[1], LOAD)
    assert any("2 times in one line" in line for line in broken)
    assert any(line.startswith("the surviving line was handed") for line in broken)
    history.learner[-1] = ("sample", step + 1, names[:-1])
    assert any("whole groups" in line for line in check(history, played[1], LOAD))


def test_a_stale_rollout_and_another_answer_are_noticed(played: tuple[History, Path], history: History) -> None:
    last = max(i for i, (kind, _, _) in enumerate(history.learner) if kind == "sample")
    _, step, names = history.learner[last]
    history.learner.append(("sample", step + 9, names))
    assert any(f"drawn for step {step + 9}" in line for line in check(history, played[1], LOAD))
    history.learner[-1] = ("sample", step, tuple(reversed(names)))
    assert f"step {step} was asked for twice and drawn differently" in check(history, played[1], LOAD)


def test_an_answer_before_the_write_is_noticed(played: tuple[History, Path], history: History) -> None:
    history.unwritten.append("rft/0/0")
    assert "rft/0/0 was acknowledged before it was written" in check(history, played[1], LOAD)


async def test_a_call_that_is_given_up_disturbs_no_other(tmp_path: Path) -> None:
    """A producer hangs up while its record waits for company; who waits for a later or the same sync hears of it
    nothing, and the record is kept.
    """
    durability = Durability(mode="group", group_ms=200)
    buffer = open_replay(ReplayConfig(folder=tmp_path, durability=durability))
    await buffer.begin("rft", groups_per_step=1, max_policy_lag=0, votes=False)
    await buffer.admit("g0")
    first, second = a_group(0)
    given_up = asyncio.ensure_future(put(buffer, first))
    while not buffer.state.inserted:
        await asyncio.sleep(0)
    assert given_up.cancel()
    again, other = await asyncio.gather(put(buffer, first), put(buffer, second))
    assert (again, other) == ([False], [True])
    assert (await buffer.sample(0)).rollout_ids == ("g0/0", "g0/1")
    await buffer.close()
    assert audit_replay(tmp_path).balance.inserted == 2


def _copy(folder: Path, to: Path) -> Path:
    import shutil

    return Path(shutil.copytree(folder, to / "copy"))
