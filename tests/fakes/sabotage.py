"""Ways of breaking a replay that was made by `fakes.logs.a_replay`, each by one fault.

One that spoils a record returns its number in the log, where the breach is to be found.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from fakes.logs import INDEX, appended, edited, records_of, removed, rewritten

from common.media import content_digest
from common.schema import rollout_keys, rollout_table
from replay.disk import Disk
from replay.frames import ALIGN, TOMBSTONE, SegmentHeader
from replay.index import NeighbourIndex
from replay.log import Log
from replay.packs import Pack, leave_out
from replay.reading import read_log
from replay.records import Advance, Begin, Drawn, Erase, Erased, Experience, Kind, Spend, decode
from replay.snapshot import Snapshot
from replay.state import State
from replay.tombstones import replace_records


def a_draw(folder: Path, nth: int) -> Drawn:
    found = [decode(kind, body) for kind, body in records_of(folder) if kind != 1]
    record = [record for record in found if isinstance(record, Drawn)][nth]
    assert isinstance(record, Drawn)
    return record


def flip(file: Path, byte: int) -> None:
    data = bytearray(file.read_bytes())
    data[byte] ^= 1
    file.write_bytes(data)


def orphan(folder: Path) -> None:
    (folder / "media" / "ab").mkdir()
    (folder / "media" / "ab" / ("ab" * 32)).write_bytes(b"nobody needs this")


def rollout_at(folder: Path, nth: int) -> tuple[int, bytes]:
    """(number, body) of the nth rollout of the log."""
    return [(at, body) for at, (kind, body) in enumerate(records_of(folder)) if kind == 1][nth]


def flip_a_body(folder: Path) -> int:
    at, _ = rollout_at(folder, 3)
    [segment] = (folder / "log").glob("*.segment")
    [entry] = read_log(folder / "log").entries(first=at, stop=at + 1)
    flip(segment, entry.place.byte + ALIGN + 5)
    return at


def flip_a_segments_header(folder: Path) -> int:
    flip(folder / "log" / "00000000.segment", 24)
    return 0


def lose_a_segment(folder: Path) -> int:
    records = records_of(folder)
    shutil.rmtree(folder / "log")
    log = Log(folder / "log", segment_bytes=16384)
    for kind, body in records:
        log.append(kind, body)
    log.commit()
    log.close()
    segments = read_log(folder / "log").segments
    (folder / "log" / segments[1].name).unlink()
    return segments[1].first_sequence


def lose_an_empty_segment(folder: Path) -> None:
    """Written by one who was killed before the first record: the chain does not miss it."""
    segment = folder / "log" / "00000000.segment"
    segment.write_bytes(segment.read_bytes()[:-ALIGN])
    (tail := Log(folder / "log")).append(Kind.ADVANCE, b'{"step":1,"version":8}')
    tail.commit()
    tail.close()
    (folder / "log" / "00000001.segment").rename(folder / "log" / "00000002.segment")


def repeat_a_rollout(folder: Path) -> int:
    return appended(folder, (1, rollout_at(folder, 0)[1]))


def same_id_by_another_producer(folder: Path) -> int:
    """In ttrl/2, which is open: a second ttrl/2/0 of a producer of its own."""
    at, body = rollout_at(folder, -2)
    [keys] = rollout_keys(body)
    assert keys.rollout_id == "ttrl/2/0"
    changed = column(body, "producer", "actor-9")

    def change(records: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
        return [*records[: at + 1], (1, changed), *records[at + 1 :]]

    rewritten(folder, change)
    return at + 1


def column(body: bytes, name: str, value: Any) -> bytes:
    """The rollout with another value in one column, laws unchecked."""
    table = rollout_table(body)
    at = table.schema.get_field_index(name)
    table = table.set_column(at, table.schema.field(at), pa.array([value], table.schema.field(at).type))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def wrong_oldest_version(folder: Path) -> int:
    at, body = rollout_at(folder, 2)

    def change(records: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
        records[at] = (1, column(body, "oldest_version", 6))
        return records

    rewritten(folder, change)
    return at


def leave_one_out(folder: Path) -> int:
    drawn = a_draw(folder, 1)
    return edited(folder, Drawn, 1, rollout_ids=drawn.rollout_ids[:1], sequences=drawn.sequences[:1])


def draw_one_twice(folder: Path) -> int:
    drawn = a_draw(folder, 1)
    return edited(folder, Drawn, 1, rollout_ids=drawn.rollout_ids[:1] * 2, sequences=drawn.sequences[:1] * 2)


def draw_before_it_is_whole(folder: Path) -> int:
    """The last rollout of g0 comes after the draw of g0."""
    at, _ = rollout_at(folder, 1)

    def change(records: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
        draw = next(i for i, (kind, body) in enumerate(records) if kind != 1 and isinstance(decode(kind, body), Drawn))
        late = records[at]
        return [*records[:at], *records[at + 1 : draw + 1], late, *records[draw + 1 :]]

    rewritten(folder, change)
    return next(i for i, (kind, body) in enumerate(records_of(folder)) if kind == 7)


def draw_again(folder: Path) -> int:
    drawn = a_draw(folder, -1)
    return appended(folder, dataclasses.replace(drawn, step=1, watermark=len(records_of(folder)) - 1, lag=1))


def draw_what_was_given_up(folder: Path) -> int:
    at = appended(folder, Spend(group_id="ttrl/2", reason="zero_variance"))
    numbers = (rollout_at(folder, -2)[0], rollout_at(folder, -1)[0])
    ids = ("ttrl/2/0", "ttrl/2/1")
    draw = Drawn(step=1, watermark=at, group_ids=("ttrl/2",), rollout_ids=ids, sequences=numbers, lag=0)
    return appended(folder, draw)


def shorten_the_bound(folder: Path) -> None:
    """g4 is of version 3, published at step 3 of an abandoned line that parted at step 2; it is drawn for step 3."""
    edited(folder, Begin, 0, max_policy_lag=0)


def draw_for_a_step_behind(folder: Path) -> int:
    begin = Begin(phase="more", groups_per_step=1, max_policy_lag=1, votes=False, step=5, version=9)
    return appended(folder, begin, dataclasses.replace(a_draw(folder, -1), step=3)) + 1


def age_a_draw(folder: Path) -> int:
    drawn = a_draw(folder, 3)
    return edited(folder, Drawn, 3, lag=drawn.lag + 1)


def skip_a_step(folder: Path) -> None:
    removed(folder, Advance, 0)


def learn_again(folder: Path) -> int:
    return appended(folder, Advance(step=1, version=9))


def learn_without_a_draw(folder: Path) -> int:
    return appended(folder, Advance(step=2, version=9))


def lose_a_draw(folder: Path) -> None:
    removed(folder, Drawn, 1)


def never_begin(folder: Path) -> None:
    rewritten(folder, lambda records: [item for item in records if item[0] != 2])


def save_index(folder: Path, sequences: list[int]) -> None:
    """An index that holds the experiences at `sequences` of the log, whatever the log holds there."""
    shutil.rmtree(folder / "index")
    index = NeighbourIndex(folder / "index", INDEX)
    [first, _] = [decode(kind, body) for kind, body in records_of(folder) if kind == 10]
    assert isinstance(first, Experience)
    for sequence in sequences:
        index.follow(dataclasses.replace(first, query_id=f"q{sequence}"), sequence)
    index.save()


def manifest_of(folder: Path) -> Path:
    return folder / "index" / "manifest.json"


def miscount_the_index(folder: Path) -> None:
    manifest = json.loads(manifest_of(folder).read_text())
    manifest["delta"]["num_entries"] = 5
    manifest_of(folder).write_text(json.dumps(manifest))


def double_an_entry(folder: Path) -> None:
    """The delta of the index is its main part, too."""
    manifest = json.loads(manifest_of(folder).read_text())
    manifest_of(folder).write_text(json.dumps(manifest | {"main": manifest["delta"]}))


def retire(folder: Path, *sequences: int) -> None:
    """The index does not find these any more, and vouches for it."""
    data = np.array(sequences, "<i8").tobytes()
    manifest = json.loads(manifest_of(folder).read_text())
    (folder / "index" / f"retired-{manifest['number']:08d}").write_bytes(data)
    manifest_of(folder).write_text(json.dumps(manifest | {"retired_digest": content_digest(data)}))


def find_a_superseded_entry(folder: Path) -> None:
    """The query of record 0 of the log is that of record 1, and the index finds both."""
    edited(folder, Experience, 1, query_id="q0")


def second_header(folder: Path, **changes: Any) -> None:
    """A second writer, whose segment's header then says something else, under a hash that matches."""
    first, second = (folder / "log" / f"{number:08d}.segment" for number in (0, 1))
    data = first.read_bytes()
    first.write_bytes(dataclasses.replace(SegmentHeader.unpack(data, name=""), epoch=5).pack() + data[ALIGN:])
    Log(folder / "log").close()
    data = second.read_bytes()
    header = SegmentHeader.unpack(data, name="")
    assert (header.epoch, header.index) == (6, 1)
    second.write_bytes(dataclasses.replace(header, **changes).pack() + data[ALIGN:])


def a_pack(folder: Path) -> Pack:
    return Pack(folder / "media" / "00000000.pack")


def lose_a_picture(folder: Path) -> None:
    pack = a_pack(folder)
    leave_out(pack.path, {min(pack.entries())}, Disk())


def flip_a_picture(folder: Path) -> None:
    pack = a_pack(folder)
    flip(pack.path, pack.entries()[min(pack.entries())].offset + 20)


def as_single_files(folder: Path) -> list[Path]:
    """The media as earlier versions kept them."""
    pack = a_pack(folder)
    files = []
    for digest, place in pack.entries().items():
        files.append(folder / "media" / digest[:2] / digest)
        files[-1].parent.mkdir(exist_ok=True)
        files[-1].write_bytes(pack.read(digest, place))
    for file in (folder / "media").glob("00000000.*"):
        file.unlink()
    return files


def snapshots_of(folder: Path) -> list[Path]:
    return sorted((folder / "log").glob("*.snapshot"))


def another_state(folder: Path) -> None:
    """A whole snapshot, which opening uses, of a replay that one rollout more came to."""
    path = snapshots_of(folder)[-1]
    snapshot = Snapshot.unpack(path.read_bytes())
    state = State.unpack(snapshot.state)
    state.inserted += 1
    path.write_bytes(dataclasses.replace(snapshot, state=state.pack()).pack())


def replace_with_tombstone(folder: Path, sequence: int) -> int:
    replace_records(folder / "log" / "00000000.segment", {sequence: (TOMBSTONE, b"")}, Disk())
    return sequence


def erase_without_doing(folder: Path) -> int:
    """The log says that a rollout was erased; it lies there still."""
    at, _ = rollout_at(folder, 3)
    asked = Erase(source="0" * 64, group_ids=("g2",), sequences=(at,), num_rollouts=1, media=())
    appended(folder, asked, Erased(group_ids=("g2",), sequences=(at,), num_rollouts=1))
    return at


def erase_from_a_draw_that_does_not_add_up(folder: Path) -> int:
    """The last draw names a rollout less than records; an erasure goes through them in pairs."""
    edited(folder, Drawn, -1, rollout_ids=a_draw(folder, -1).rollout_ids[:1])
    return appended(folder, Erased(group_ids=(), sequences=(), num_rollouts=0))


def erase_but_keep_a_picture(folder: Path) -> None:
    orphan(folder)
    asked = Erase(source="0" * 64, group_ids=(), sequences=(), num_rollouts=0, media=("ab" * 32,))
    appended(folder, asked, Erased(group_ids=(), sequences=(), num_rollouts=0))
