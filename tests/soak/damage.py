"""Damage: every bit flipped and every byte position cut, of a log, a pack of pictures, and a snapshot.

The log is a small one of several segments, all closed in order (at most 8 KiB in all), with everything in it that a log
may hold but a whole rollout: one alone is larger. No flip goes unseen, none changes what opening makes of the rest. The
unsealed log knows how far it had been acknowledged at which size.

Round r takes the positions that are r modulo NUM_ROUNDS, so all rounds take every bit and every byte.
"""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from fakes.values import a_query, a_rollout, an_answer_turn

from common.errors import MediaError
from common.media import FolderMediaStore, content_digest, put_view
from common.schema import encode_rollouts
from common.types import MediaRef
from replay.config import Durability, ReplayConfig, Retention
from replay.erasure import erase_source
from replay.folding import fold
from replay.frames import ALIGN
from replay.log import Log
from replay.media import DurableMedia
from replay.opening import open_replay
from replay.packs import PackedMedia
from replay.segments import Contents, read_frames, read_segments, segment_paths
from replay.snapshot import Snapshot, find_snapshot
from replay.state import FOLD_VERSION, State

NUM_ROUNDS = 64
NUM_IN_CI = 1
MAX_BYTES = 8192


def run_round(number: int, folder: Path) -> dict[str, int]:
    """Raises AssertionError that names the position and what was violated."""
    sealed, unsealed = folder / "sealed" / "log", folder / "unsealed"
    asyncio.run(a_sealed_log(folder / "sealed"))
    marks = an_unsealed_log(unsealed)
    refs = a_pack(folder)
    counts = {
        "flips": check_flips(sealed, number),
        "flips_of_an_open_log": check_open_flips(unsealed, marks, number),
        "cuts": check_cuts(unsealed, marks, number) + check_cuts_of_sealed(sealed, number),
        "flips_of_media": check_media(folder / "kept", refs, number),
        "flips_of_a_snapshot": check_snapshot(sealed, number),
    }
    shutil.rmtree(folder)
    return counts


async def a_sealed_log(folder: Path) -> None:
    """A group drawn and pruned to its keys, one erased, one open; two writers; a snapshot. At most MAX_BYTES."""
    config = ReplayConfig(folder=folder, durability=Durability(mode="os"))
    buffer = open_replay(config)
    await buffer.begin("rft", groups_per_step=1, max_policy_lag=1, votes=False)
    for number, producer in ((0, "actor"), (1, "secret")):
        await buffer.admit(f"g{number}")
        for sibling, score in enumerate((0.0, 1.0)):
            fields: dict[str, Any] = {"query": a_query(images=()), "turns": (an_answer_turn(),), "calls": ()}
            rollout = a_rollout(number, sibling, score=score, producer=producer, **fields)
            await buffer.add(encode_rollouts([rollout]))
    await buffer.sample(0)
    await buffer.advance(1, 1)
    await buffer.release("rft", 1)
    await buffer.close()
    erase_source(folder, "secret")
    buffer = open_replay(dataclasses.replace(config, retention=Retention(keep_bytes=1)))
    await buffer.admit("g2")
    await buffer.abandon("g2", "lost")
    await buffer.close()
    size = sum(path.stat().st_size for path in segment_paths(folder / "log"))
    assert size <= MAX_BYTES, size


def an_unsealed_log(folder: Path) -> list[tuple[int, int]]:
    """As a killed writer leaves one. Returns (size of the file, records acknowledged by then), growing."""
    log, marks = Log(folder), []
    for group in range(6):
        for i in range(1 + group % 3):
            log.append(1, bytes([group, i]) * (20 + 37 * group))
        log.commit()
        [segment] = segment_paths(folder)
        marks.append((segment.stat().st_size, log.next_sequence))
    log.abandon()
    return marks


def check_flips(
    log: Path, number: int, step: int = NUM_ROUNDS, *, read: Callable[[Path], Contents] = read_segments
) -> int:
    """Flip bits of a log that was closed in order: each is seen by who walks it with `read`, as an audit does, and
    opening makes the same state of the rest, or names what is lost.
    """
    with kept(log) as contents:
        before = _opened(log)
        assert before.losses == before.cut_bytes == 0 and before.trusted
        positions = [(name, bit) for name, data in contents.items() for bit in range(8 * len(data))]
        for name, bit in positions[number::step]:
            (log / name).write_bytes(flipped(contents[name], bit))
            found = read(log)
            assert found.losses or found.cut_bytes, f"bit {bit} of {name} is not seen"
            after = _opened(log)
            named = after.losses or after.cut_bytes
            assert named or (after.trusted and after.state == before.state), f"bit {bit} of {name} changes the fold"
            restore(log, contents)
    return len(positions[number::step])


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    losses: int
    cut_bytes: int
    trusted: bool
    state: State


def _opened(folder: Path) -> Opened:
    log = Log(folder, fold=FOLD_VERSION)
    state, recovery = fold(log), log.recovery
    log.abandon()
    return Opened(
        losses=len(recovery.losses), cut_bytes=recovery.cut_bytes, trusted=log.snapshot is not None, state=state
    )


def check_open_flips(log: Path, marks: list[tuple[int, int]], number: int, step: int = NUM_ROUNDS) -> int:
    """Flip bits of a log whose writer was killed. What was acknowledged before the last group was written is never cut
    as a torn tail: a flip costs one record, which is named.
    """
    vouched = set(range(marks[-2][1]))
    with kept(log) as contents:
        [(name, data)] = contents.items()
        whole = {frame.sequence: bytes(frame.body) for frame in read_frames(log)}
        for bit in range(number, 8 * len(data), step):
            (log / name).write_bytes(flipped(data, bit))
            found = read_segments(log)
            assert found.losses or found.cut_bytes, f"bit {bit} is not seen"
            read = {frame.sequence: bytes(frame.body) for frame in read_frames(log)}
            assert all(whole[sequence] == body for sequence, body in read.items()), f"bit {bit} changes a record"
            lost = {s for loss in found.losses for s in range(loss.first_sequence, loss.stop_sequence)}
            cut = vouched - read.keys() - lost
            assert not cut, f"bit {bit}: records {sorted(cut)} are cut, though later ones vouch for them"
            assert len(lost) <= 1, f"bit {bit} costs records {sorted(lost)}"
        return len(range(number, 8 * len(data), step))


def check_cuts(log: Path, marks: list[tuple[int, int]], number: int, step: int = NUM_ROUNDS) -> int:
    """Cut an unsealed log at every byte: what was acknowledged at that size is there, and the log goes on."""
    with kept(log) as contents:
        [(name, data)] = contents.items()
        bodies = [bytes(frame.body) for frame in read_frames(log)]
        for size in range(number, len(data) + 1, step):
            (log / name).write_bytes(data[:size])
            acknowledged = max((records for end, records in marks if end <= size), default=0)
            again = Log(log)
            read = [bytes(frame.body) for frame in again.frames()]
            assert read == bodies[: len(read)] and len(read) >= acknowledged, f"cut at {size}: {len(read)} records"
            assert bool(again.recovery.losses) == (size < ALIGN), f"cut at {size}: {again.recovery.losses}"
            again.append(1, b"more")
            again.close()
            assert [bytes(frame.body) for frame in read_frames(log)] == [*read, b"more"], f"cut at {size}"
            restore(log, contents)
        return len(range(number, len(data) + 1, step))


def check_cuts_of_sealed(log: Path, number: int, step: int = NUM_ROUNDS) -> int:
    """Cut any but the last segment anywhere: damage that is named, never a shorter log."""
    count = 0
    with kept(log) as contents:
        for name, data in list(contents.items())[:-1]:
            for size in range(number, len(data), step):
                (log / name).write_bytes(data[:size])
                assert read_segments(log).losses, f"{name} cut at {size} is not seen"
                count += 1
            restore(log, contents)
    return count


def a_pack(folder: Path) -> list[MediaRef]:
    live = FolderMediaStore(folder / "live")
    refs = [put_view(live, np.full((4, 4 + i, 3), i, np.uint8)) for i in range(3)]
    media = DurableMedia(folder / "kept", live=live, sync=False)
    media.keep(refs)
    media.close()
    return refs


def check_media(media: Path, refs: list[MediaRef], number: int, step: int = NUM_ROUNDS) -> int:
    """Flip bits of a pack and of its index: a picture is the one that was asked for or is refused, at most one is
    lost, and an index that was hit is not believed.
    """
    with kept(media) as contents:
        positions = [(name, bit) for name, data in contents.items() for bit in range(8 * len(data))]
        for name, bit in positions[number::step]:
            (media / name).write_bytes(flipped(contents[name], bit))
            read = sum(_reads(media, ref) for ref in refs)
            hit = name.endswith(".pack") and bit >= 8 * ALIGN
            assert read == len(refs) - hit, f"bit {bit} of {name}: {read} of {len(refs)} pictures are read"
            (media / name).write_bytes(contents[name])
    return len(positions[number::step])


def _reads(media: Path, ref: MediaRef) -> bool:
    try:
        data = PackedMedia(media).get(ref.digest)
    except MediaError:
        return False
    assert content_digest(data) == ref.digest, f"other bytes are read as {ref.digest[:12]}"
    return True


def check_snapshot(log: Path, number: int, step: int = NUM_ROUNDS) -> int:
    """Flip bits of a snapshot, and cut it anywhere: it is refused."""
    [*_, path] = sorted(log.glob("*.snapshot"))
    data = path.read_bytes()
    assert find_snapshot(log, fold=FOLD_VERSION).snapshot == Snapshot.unpack(data)
    for bit in range(number, 8 * len(data), step):
        _check_refused(flipped(data, bit), f"bit {bit}")
    for size in range(number, len(data), step):
        _check_refused(data[:size], f"cut at {size}")
    path.write_bytes(flipped(data, 8 * number))
    trust = find_snapshot(log, fold=FOLD_VERSION)
    path.write_bytes(data)
    assert any(line.startswith(path.name) for line in trust.refused)
    return len(range(number, 8 * len(data), step)) + len(range(number, len(data), step))


def _check_refused(data: bytes, what: str) -> None:
    try:
        Snapshot.unpack(data)
    except ValueError:
        return
    raise AssertionError(f"a snapshot with {what} is believed")


def flipped(data: bytes, bit: int) -> bytes:
    broken = bytearray(data)
    broken[bit // 8] ^= 1 << bit % 8
    return bytes(broken)


@contextmanager
def kept(folder: Path) -> Iterator[dict[str, bytes]]:
    """The contents of the files that matter, which lie there again afterwards."""
    suffixes = (".segment", ".pack", ".index")
    contents = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix in suffixes}
    try:
        yield contents
    finally:
        restore(folder, contents)


def restore(folder: Path, contents: dict[str, bytes]) -> None:
    for path in folder.iterdir():
        if path.suffix == ".segment" and path.name not in contents:
            path.unlink()
    for name, data in contents.items():
        (folder / name).write_bytes(data)
