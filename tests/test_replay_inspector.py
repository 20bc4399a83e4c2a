"""Rollouts that a process of its own looks at: it finds what this one would, no part of it need be trusted to live, and
what it proved of pictures is true of them.
"""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes.replays import a_phase, put
from fakes.values import a_query, a_rollout, an_answer_turn, an_executed_call

from common.errors import ContractError, ReplayError, Stopped
from common.media import FolderMediaStore, put_view
from common.schema import encode_rollouts, encode_traces
from common.types import Box, ExecutedCall, Observation, Rollout, Turn
from replay.audit.audit import audit_replay
from replay.buffer import ReplayBuffer
from replay.config import ReplayConfig
from replay.inspecting import AT_ONCE, TRIES, Inspected, Inspecting, InspectorEnded, inspect_all
from replay.inspector import Inspector
from replay.opening import open_replay
from replay.packs import PackedMedia
from replay.proving import Proofs

BOX: Box = (2, 1, 9, 8)


@pytest.fixture
def live(tmp_path: Path) -> FolderMediaStore:
    return FolderMediaStore(tmp_path / "live")


@asynccontextmanager
async def an_inspector(live: FolderMediaStore | None) -> AsyncIterator[Inspector]:
    inspector = Inspector(None if live is None else live.root)
    try:
        yield inspector
    finally:
        await inspector.close()


def zoomed(live: FolderMediaStore, number: int, *, touched: bool = False) -> Rollout:
    """A rollout that shows a view and a part of it. touched: one pixel of the part is another."""
    pixels = np.random.default_rng(number).integers(0, 256, (16, 12, 3), dtype=np.uint8)
    x0, y0, x1, y1 = BOX
    crop = pixels[y0:y1, x0:x1].copy()
    crop[0, 0] ^= touched
    view, part = put_view(live, pixels), put_view(live, crop)
    done = an_executed_call()
    seen = Observation(text="{}", view=part)
    turns = (Turn(role="user", token_ids=(1, 2), images=(view,)), an_answer_turn())
    calls: tuple[ExecutedCall, ...] = (replace(done, observation=seen, source=view.digest, footprint=BOX),)
    query = a_query(f"q{number}", images=(view,))
    return a_rollout(0, number, group_size=16, score=float(number), query=query, calls=calls, turns=turns)


def body(rollout: Rollout) -> bytes:
    return encode_rollouts([rollout])


async def test_it_finds_what_this_process_would(live: FolderMediaStore) -> None:
    good = [body(zoomed(live, number)) for number in range(3)]
    damaged = bytes(good[0][:-40]) + bytes(40)
    two = encode_rollouts([zoomed(live, 4), zoomed(live, 5)])
    bodies = [good[0], b"no stream", damaged, good[1], encode_traces([]), two, good[2], b"", good[0]]
    async with an_inspector(None) as inspector:
        theirs = await inspector.inspect(bodies)
    for one, other in zip(theirs, inspect_all(bodies), strict=True):
        assert type(one) is type(other)
        assert str(one) == str(other)
    assert [isinstance(one, Inspected) for one in theirs] == [True, False, False, True, False, False, True, False, True]


async def test_what_it_proves_is_true_of_the_pictures(live: FolderMediaStore) -> None:
    part_of, touched, lost, wrong = zoomed(live, 0), zoomed(live, 1, touched=True), zoomed(live, 2), zoomed(live, 3)
    views = [rollout.query.images[0].digest for rollout in (part_of, touched, lost, wrong)]
    parts = [rollout.calls[0].observation.view.digest for rollout in (part_of, touched)]  # type: ignore[union-attr]
    live.path(parts[0]).unlink()
    live.path(views[2]).unlink()
    live.path(views[3]).write_bytes(bytes(16 * 12 * 3))
    async with an_inspector(live) as inspector:
        found = await inspector.inspect([body(one) for one in (part_of, touched, lost, wrong)])
    first, second, third, fourth = (one for one in found if isinstance(one, Inspected))
    assert [cut.target.digest for cut in first.cuts] == [parts[0]], "a part need not lie in the store"
    assert first.proven == {views[0]}
    assert second.cuts == () and second.proven == {views[1], parts[1]}
    assert third.cuts == () and third.proven is not None and views[2] not in third.proven
    assert fourth.cuts == () and fourth.proven is not None and views[3] not in fourth.proven


def test_a_file_that_took_the_place_of_another_is_compared_again(live: FolderMediaStore) -> None:
    ref, proofs = put_view(live, np.ones((4, 4, 3), np.uint8)), Proofs(live)
    assert [one.whole for one in proofs.of_all([((ref,), ())])] == [(ref.digest,)]
    aside = live.root / "aside"
    aside.write_bytes(bytes(48))
    aside.rename(live.path(ref.digest))
    assert [one.whole for one in proofs.of_all([((ref,), ())])] == [()]


def test_a_file_is_compared_once(live: FolderMediaStore, monkeypatch: pytest.MonkeyPatch) -> None:
    ref, proofs = put_view(live, np.ones((4, 4, 3), np.uint8)), Proofs(live)
    proofs.of_all([((ref,), ())])
    monkeypatch.setattr("replay.proving.content_digest", lambda _: pytest.fail("it was compared again"))
    assert [one.whole for one in proofs.of_all([((ref,), ())])] == [(ref.digest,)]


async def kept(folder: Path, live: FolderMediaStore, rollouts: Sequence[Rollout], inspectors: int) -> ReplayBuffer:
    buffer = open_replay(ReplayConfig(folder=folder, live_media=live.root, inspectors=inspectors))
    await a_phase(buffer)
    await buffer.admit("g0")
    assert all(await asyncio.gather(*(buffer.add(body(rollout)) for rollout in rollouts)))
    return buffer


async def test_a_replay_keeps_the_same_whoever_looks(tmp_path: Path, live: FolderMediaStore) -> None:
    rollouts = [zoomed(live, number, touched=number % 3 == 0) for number in range(16)]
    held = []
    for name, inspectors in (("here", 0), ("there", 1), ("theirs", 2)):
        buffer = await kept(tmp_path / name, live, rollouts, inspectors)
        draw = await buffer.sample(0)
        assert set(draw.rollout_ids) == {rollout.rollout_id for rollout in rollouts}
        await buffer.close()
        assert not audit_replay(tmp_path / name).violations
        [pack] = PackedMedia(tmp_path / name / "media").packs
        held.append({digest: (place.length, place.form) for digest, place in pack.entries().items()})
    assert held[0] == held[1] == held[2]
    assert len(held[0]) == 32


@pytest.mark.parametrize("inspectors", [0, 1])
async def test_a_picture_that_is_not_what_it_is_called_is_refused(
    tmp_path: Path, live: FolderMediaStore, inspectors: int
) -> None:
    buffer = await kept(tmp_path / "run", live, [], inspectors)
    wrong, lost = zoomed(live, 0, touched=True), zoomed(live, 1)
    live.path(wrong.query.images[0].digest).write_bytes(bytes(16 * 12 * 3))
    live.path(lost.query.images[0].digest).unlink()
    with pytest.raises(ContractError, match="other bytes under"):
        await put(buffer, wrong)
    with pytest.raises(ContractError, match="does not hold"):
        await put(buffer, lost)
    assert await put(buffer, zoomed(live, 2)) == [True]
    await buffer.close()


async def process_of(inspector: Inspector) -> subprocess.Popen[bytes]:
    assert inspector._starting is not None
    return (await inspector._starting)._process


async def test_rollouts_survive_who_looks_at_them(live: FolderMediaStore) -> None:
    async with an_inspector(live) as inspector:
        inspecting, bodies = Inspecting([inspector]), [body(zoomed(live, number)) for number in range(4 * AT_ONCE)]
        await inspecting.inspect(bodies[0])
        pids = {(await process_of(inspector)).pid}
        waiting = [asyncio.ensure_future(inspecting.inspect(one)) for one in bodies]
        for _ in range(TRIES):
            await asyncio.sleep(random.random() / 500)
            process = await process_of(inspector)
            pids.add(process.pid)
            process.kill()
        assert len(await asyncio.gather(*waiting)) == len(bodies), "a rollout was refused because a process was killed"
        await inspecting.inspect(bodies[0])
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids), "a process was left behind"


class Fragile:
    """Ends when it sees `poison`."""

    def __init__(self, poison: bytes) -> None:
        self.poison, self.asked = poison, list[int]()

    def start(self) -> None: ...

    async def inspect(self, bodies: Sequence[bytes]) -> list[Inspected | ContractError]:
        self.asked.append(len(bodies))
        await asyncio.sleep(0)
        if self.poison in bodies:
            raise InspectorEnded
        return inspect_all(bodies)

    async def close(self) -> None: ...


async def test_only_the_rollout_that_ends_a_process_is_refused(live: FolderMediaStore) -> None:
    bodies = [body(zoomed(live, number)) for number in range(AT_ONCE)]
    fragile = Fragile(poison=bodies[3])
    inspecting = Inspecting([fragile])
    found = await asyncio.gather(*map(inspecting.inspect, bodies), return_exceptions=True)
    assert [isinstance(one, Inspected) for one in found] == [number != 3 for number in range(AT_ONCE)]
    assert isinstance(found[3], ContractError)
    assert fragile.asked == [AT_ONCE, *[1] * (AT_ONCE - 1 + TRIES)]


async def test_whoever_waits_is_told_that_the_replay_closed(live: FolderMediaStore) -> None:
    inspector = Inspector(live.root)
    inspecting, one = Inspecting([inspector]), body(zoomed(live, 0))
    await inspecting.inspect(one)
    process = await process_of(inspector)
    process.send_signal(signal.SIGSTOP)
    waiting = asyncio.ensure_future(inspecting.inspect(one))
    await asyncio.sleep(0.01)
    closing = asyncio.ensure_future(inspecting.close())
    with pytest.raises(Stopped):
        await waiting
    process.send_signal(signal.SIGCONT)
    await closing
    assert not Path(f"/proc/{process.pid}").exists()


async def test_one_that_cannot_start_is_said_so(live: FolderMediaStore, monkeypatch: pytest.MonkeyPatch) -> None:
    one = body(zoomed(live, 0))
    for program, why in (("/nowhere/python", "cannot be started: No such file"), ("/bin/false", "did not start")):
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(sys, "executable", program)
            inspecting = Inspecting([Inspector(live.root)])
            with pytest.raises(ReplayError, match=why):
                await inspecting.inspect(one)
            await inspecting.close()


async def test_it_ends_with_whoever_asks(tmp_path: Path) -> None:
    program = (
        "import asyncio, os\n"
        "from replay.inspector import Inspector\n"
        "async def main():\n"
        "    inspector = Inspector(None)\n"
        "    await inspector.inspect([b''])\n"
        "    print((await inspector._starting)._process.pid, flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[1]
    )
    assert process.stdout is not None
    pid = int(await process.stdout.readline())
    process.kill()
    await process.wait()
    for _ in range(500):
        if not Path(f"/proc/{pid}").exists() or "(zombie)" in Path(f"/proc/{pid}/status").read_text():
            return
        await asyncio.sleep(0.01)
    pytest.fail("it outlives whoever asked")
