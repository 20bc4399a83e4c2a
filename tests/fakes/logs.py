"""A replay with a bit of everything, made by the real buffer, and logs written again with other records."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from fakes.values import a_consensus, a_group, a_query, a_rollout, an_executed_call

from common.media import FolderMediaStore, put_image, put_view
from common.schema import encode_rollouts
from common.types import MediaRef, Rollout
from replay.buffer import ReplayBuffer
from replay.config import Durability, IndexConfig, ReplayConfig
from replay.log import Log
from replay.opening import open_replay
from replay.records import Record, decode, encode
from replay.segments import read_frames

INDEX = IndexConfig(encoder="e1", dimension=3)
Change: TypeAlias = Callable[[list[tuple[int, bytes]]], Sequence[tuple[int, bytes]]]


async def put(buffer: ReplayBuffer, *rollouts: Rollout) -> list[bool]:
    """Add them one after another; whether each was new."""
    return [await buffer.add(encode_rollouts([rollout])) for rollout in rollouts]


def illustrated(rollout: Rollout, picture: MediaRef, view: MediaRef) -> Rollout:
    """The rollout with media that a store holds in place of those that none does."""
    turns = tuple(dataclasses.replace(turn, images=(view,) * len(turn.images)) for turn in rollout.turns)
    seen = dataclasses.replace(an_executed_call().observation, image=picture, view=view)
    calls = tuple(dataclasses.replace(done, observation=seen) for done in rollout.calls)
    query = a_query(rollout.query.query_id, images=(picture,))
    return dataclasses.replace(rollout, turns=turns, calls=calls, query=query)


async def a_replay(folder: Path, live: Path, *, segment_bytes: int = 64 << 20) -> Path:
    """A replay in `folder`, closed in order.

    Phase rft, lag 1, one group a step: g0, g2, g3 are drawn for steps 0 to 2; the learner is restored to step 2 and
    draws g3 again, then g4, of whose three rollouts one is quarantined. g1 is abandoned and a rollout of it comes late,
    g5 expires. Phase ttrl: ttrl/0 is voted over and drawn, the vote over ttrl/1 abstains, ttrl/2 is open. Two
    experiences. The learner ends at step 4 of rft and step 1 of ttrl. 18 rollouts: 10 drawn, 2 live, 2 abstained, 1
    late, 2 expired, 1 quarantined.
    """
    store = FolderMediaStore(live)
    pictures = [put_image(store, np.full((8, 8, 3), 10 * i, np.uint8)) for i in range(3)]
    view = put_view(store, np.full((8, 8, 3), 7, np.uint8))

    def group(number: int, *, version: int, name: str = "", **changes: Any) -> list[Rollout]:
        more = {"group_id": name} if name else {}
        rollouts = a_group(number, version=version, **(more | changes))
        named = [dataclasses.replace(r, rollout_id=f"{r.group_id}/{i}") for i, r in enumerate(rollouts)]
        return [illustrated(r, pictures[number % 3], view) for r in named]

    settings = {"segment_bytes": segment_bytes, "durability": Durability(mode="os"), "live_media": live, "index": INDEX}
    buffer = open_replay(ReplayConfig(folder=folder, **settings))
    for i, unit in enumerate(np.eye(3, dtype=np.float32)[:2]):
        more: dict[str, Any] = {"family": "tiny_text", "chain": ("ZOOM",), "answer": "493", "confidence": 0.5}
        await buffer.remember(unit, query_id=f"q{i}", **more)
    await buffer.begin("rft", groups_per_step=1, max_policy_lag=1, votes=False, version=0)
    await buffer.admit("g0")
    await put(buffer, *group(0, version=0))
    await buffer.admit("g1")
    await buffer.abandon("g1", "its actor was killed")
    await put(buffer, group(1, version=0)[0])
    for step, number in ((0, 0), (1, 2), (2, 3)):
        await buffer.admit(f"g{number}")
        if number:
            await put(buffer, *group(number, version=step))
        await buffer.sample(step)
        await buffer.advance(step + 1, step + 1)
    await buffer.admit("g4")
    three = group(4, version=3, scores=(1.0, 0.0, 0.5))
    bad = dataclasses.replace(three[2], turns=(), stop_reason="quarantined")
    await put(buffer, *three[:2], bad)
    await buffer.rewind(2, version=4)
    await buffer.sample(2)
    await buffer.advance(3, 5)
    await buffer.admit("g5")
    await buffer.sample(3)
    await buffer.advance(4, 6)
    await put(buffer, *group(5, version=0))
    await _expire(buffer)
    await buffer.begin("ttrl", groups_per_step=1, max_policy_lag=2, votes=True, version=7)
    for number in range(3):
        await buffer.admit(f"ttrl/{number}")
        several = group(number, version=7, name=f"ttrl/{number}", producer="actor-1", phase="ttrl", scores=(None, None))
        await put(buffer, *several)
    await buffer.settle(a_consensus("ttrl/0"))
    await buffer.settle(a_consensus("ttrl/1", answer=None))
    await buffer.sample(0)
    await buffer.advance(1, 8)
    await buffer.close()
    return folder


async def _expire(buffer: ReplayBuffer) -> None:
    """Ask for a draw that only a group too old could fill, so that it expires; nobody waits for the draw."""
    import asyncio

    waiting = asyncio.ensure_future(buffer.sample(4))
    while not buffer.state.expired:
        await asyncio.sleep(0)
    waiting.cancel()


def records_of(folder: Path) -> list[tuple[int, bytes]]:
    """(kind, body) of every record of the replay in `folder`."""
    return [(frame.kind, bytes(frame.body)) for frame in read_frames(folder / "log")]


def rewritten(folder: Path, change: Change) -> None:
    """Write the log again with the records that `change` makes of it, hashes and all."""
    records = change(records_of(folder))
    shutil.rmtree(folder / "log")
    log = Log(folder / "log")
    for kind, body in records:
        log.append(kind, body)
    log.commit()
    log.close()


def edited(folder: Path, kind: type[Record], nth: int, **changes: Any) -> int:
    """Change fields of the `nth` record of a kind; its number in the log."""
    where: list[int] = []

    def change(records: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
        at = _numbers(records, kind)[nth]
        where.append(at)
        old = decode(records[at][0], records[at][1])
        records[at] = encode(dataclasses.replace(old, **changes))
        return records

    rewritten(folder, change)
    return where[0]


def removed(folder: Path, kind: type[Record], nth: int) -> None:
    def change(records: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
        del records[_numbers(records, kind)[nth]]
        return records

    rewritten(folder, change)


def appended(folder: Path, *records: Record | Rollout | tuple[int, bytes]) -> int:
    """Add records at the end; the number of the first."""
    first = len(records_of(folder))
    rewritten(folder, lambda held: [*held, *map(_encoded, records)])
    return first


def _encoded(record: Record | Rollout | tuple[int, bytes]) -> tuple[int, bytes]:
    if isinstance(record, Rollout):
        return 1, encode_rollouts([record])
    return record if isinstance(record, tuple) else encode(record)


def _numbers(records: Sequence[tuple[int, bytes]], kind: type[Record]) -> list[int]:
    return [at for at, (held, body) in enumerate(records) if held != 1 and isinstance(decode(held, body), kind)]


def a_late_rollout(**changes: Any) -> Rollout:
    """One without media, for a group that is over."""
    turns = tuple(turn for turn in a_rollout().turns if not turn.images)
    return a_rollout(0, 0, query=a_query(images=()), calls=(), turns=turns, **({"sequence": 999} | changes))
