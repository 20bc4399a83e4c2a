"""What a replay promised to whoever asked it, and whether what lies on a disk keeps all of it.

`Promise`s are told one after another while a workload runs (fakes/crash_workload); `check_promises` opens the replay
that somebody left behind after the last of them, and goes on with it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from fakes.experiences import Model

from common.media import content_digest
from common.schema import rollout_keys
from common.types import Draw
from replay.audit.audit import audit_replay
from replay.buffer import ReplayBuffer
from replay.config import ReplayConfig
from replay.packs import PackedMedia
from replay.records import Begin, Drawn, Experience, Kind, Pruned, Record, Release, Rewind, decode
from replay.segments import read_frames

SECRET = "secret-query"
"""What the workload erases."""


@dataclass(frozen=True, slots=True)
class Kept:
    """`add` returned."""

    rollout_id: str
    query_id: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Logged:
    """A call that writes `record` returned. query_id: what its group is about, "" for none."""

    record: Record
    query_id: str = ""


@dataclass(frozen=True, slots=True)
class Handed:
    """`sample` returned."""

    draw: Draw


@dataclass(frozen=True, slots=True)
class Erasing:
    """Somebody asked for SECRET to be erased: it may be gone from here on."""


@dataclass(frozen=True, slots=True)
class Gone:
    """And here was told that it is."""


Promise: TypeAlias = Kept | Logged | Handed | Erasing | Gone


class Surviving:
    """What the log in a folder holds: rollouts and pruned ones by id, every other record in order, and what is to be
    found of experiences.
    """

    def __init__(self, folder: Path) -> None:
        self.rollouts: dict[str, bytes] = {}
        self.pruned: set[str] = set()
        self.records: list[Record] = []
        self.times: Counter[str] = Counter()
        self.remembered = Model(max_entries=10**6)
        for frame in read_frames(folder / "log") if (folder / "log").is_dir() else ():
            body = bytes(frame.body)
            if frame.kind == Kind.ROLLOUT:
                [keys] = rollout_keys(body)
                self.rollouts[keys.rollout_id] = body
                self.times[keys.rollout_id] += 1
                continue
            record = decode(frame.kind, body)
            if isinstance(record, Pruned):
                self.pruned.add(record.rollout_id)
                self.times[record.rollout_id] += 1
            else:
                self.records.append(record)
            if isinstance(record, Experience):
                self.remembered.held[frame.sequence] = record


def as_it_lies(config: ReplayConfig, promises: Sequence[Promise]) -> None:
    """Before anybody opens it: an audit finds nothing, and what was erased is in no file."""
    if (config.folder / "log").is_dir():
        audit = audit_replay(config.folder)
        assert audit.clean, audit.violations
    else:
        assert all(isinstance(promise, Erasing) for promise in promises), "a promise was given and there is no log"
    if any(isinstance(promise, Gone) for promise in promises):
        _check_gone(config.folder)


async def check_promises(buffer: ReplayBuffer, config: ReplayConfig, promises: Sequence[Promise]) -> None:
    """Of a buffer that was just opened. Raises AssertionError that names what was broken."""
    held = Surviving(config.folder)
    erasing = any(isinstance(promise, Erasing) for promise in promises)
    stats = await buffer.stats()
    assert stats.lost_records == 0, f"{stats.lost_records} records are lost"
    assert stats.inserted == stats.live + stats.spent + stats.expired + stats.quarantined + stats.erased
    twice = [name for name, times in held.times.items() if times > 1]
    assert not twice, f"kept twice: {twice}"
    for promise in promises:
        match promise:
            case Kept():
                _check_kept(promise, held, config, may_be_gone=erasing and promise.query_id == SECRET)
            case Logged():
                gone = erasing and promise.query_id == SECRET
                assert gone or promise.record in held.records, f"{promise.record} was acknowledged and is missing"
            case Handed():
                await _check_draw(promise.draw, held.records, buffer, stats.erased > 0)
            case Gone():
                _check_gone(config.folder)
    _check_reuse(held.records)
    _check_media(held, config)
    for query in np.eye(3, dtype=np.float32):
        near = [(n.sequence, n.similarity) for n in await buffer.nearest(query, 9)]
        assert near == held.remembered.nearest(query, 9), f"{query} is near to {near}"


def _check_kept(promise: Kept, held: Surviving, config: ReplayConfig, *, may_be_gone: bool) -> None:
    if promise.rollout_id in held.rollouts:
        assert held.rollouts[promise.rollout_id] == promise.data, f"{promise.rollout_id} is another one now"
        return
    pruned = config.retention.keep_bytes > 0 and promise.rollout_id in held.pruned
    assert may_be_gone or pruned, f"{promise.rollout_id} was acknowledged and is missing"


async def _check_draw(draw: Draw, records: Sequence[Record], buffer: ReplayBuffer, erased: bool) -> None:
    """It is in the log, and where no record took it back or let it go, it is handed out again as it was."""
    wanted = (draw.step, draw.watermark, draw.rollout_ids)
    places = [
        place
        for place, record in enumerate(records)
        if isinstance(record, Drawn) and (record.step, record.watermark, record.rollout_ids) == wanted
    ]
    if not places:
        assert erased, f"the draw for step {draw.step} was handed out and is missing"
        return
    for record in records[places[-1] + 1 :]:
        if isinstance(record, Begin) or (isinstance(record, Rewind) and record.step <= draw.step):
            return
        if isinstance(record, Release) and record.step > draw.step:
            return
    again = await buffer.sample(draw.step)
    if erased:
        assert set(again.rollout_ids) <= set(draw.rollout_ids)
    else:
        assert again == draw, f"the draw for step {draw.step} is another one now"


def _check_reuse(records: Sequence[Record]) -> None:
    """No group is drawn more than max_reuse times in a line of weights."""
    most, line = 1, dict[int, tuple[str, ...]]()
    for record in records:
        if isinstance(record, Begin):
            most, line = 1 if record.drawing is None else record.drawing.max_reuse, {}
        elif isinstance(record, Rewind):
            line = {step: names for step, names in line.items() if step < record.step}
        elif isinstance(record, Drawn):
            assert record.step not in line, f"step {record.step} is drawn twice in one line"
            line[record.step] = record.group_ids
        often = Counter(name for names in line.values() for name in names)
        assert max(often.values(), default=0) <= most, f"drawn too often: {often}"


def _check_media(held: Surviving, config: ReplayConfig) -> None:
    media = PackedMedia(config.folder / "media")
    for name, data in held.rollouts.items():
        for ref in rollout_keys(data)[0].media:
            assert content_digest(media.get(ref.digest)) == ref.digest, f"a picture of {name} is another one"


def _check_gone(folder: Path) -> None:
    word = SECRET.encode()
    found = [path.name for path in folder.rglob("*") if path.is_file() and word in path.read_bytes()]
    assert not found, f"{SECRET} was erased and lies in {found}"
