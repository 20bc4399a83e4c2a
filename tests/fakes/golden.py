"""Writes the golden files of this version: a small log and a stream of traces, with the values that they hold.

    PYTHONPATH=.:tests python -m fakes.golden

    tests/golden/log-<format>.<schema>/    00000000.segment, …; values.json: what they hold; shape.json: the columns
    tests/golden/media-<format>/           00000000.pack, 00000000.index; values.json: every picture's bytes by digest
    tests/golden/traces-<schema>/          traces.arrows; values.json

A golden file is written once, by the version whose it is, and never again: it must stay readable for ever. A version
that changes the columns of a rollout, the fields of a record or the bytes of the log raises its number and adds its
own; new kinds of records, and new fields that a record may lack, add a folder with a suffix
(`python -m fakes.golden experiences`).
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np
from fakes.values import (
    a_clip,
    a_consensus,
    a_group,
    a_query,
    a_rollout,
    a_trace,
    an_answer_turn,
    an_executed_call,
)

from common.columns import SCHEMA_VERSION
from common.cuts import Cut
from common.errors import ContractError
from common.media import FolderMediaStore, put_image, put_view
from common.schema import ROLLOUTS, TRACE_VERSION, decode_rollouts, encode_rollouts, encode_traces
from common.types import Observation, PointTarget, Provenance, Rollout, SpanTarget, Trace
from replay.buffer import ReplayBuffer
from replay.config import Durability, IndexConfig, ReplayConfig, Retention
from replay.erasure import erase_source
from replay.frames import FORMAT_VERSION, TOMBSTONE
from replay.media import DurableMedia
from replay.opening import open_replay
from replay.packs import PACK_FORMAT
from replay.reading import KIND_NAMES, read_log
from replay.records import Kind, Record, decode

GOLDEN = Path(__file__).parent.parent / "golden"


def log_values(folder: Path) -> list[dict[str, Any]]:
    """Every record of the log in `folder` as plain JSON values."""
    found = []
    for entry in read_log(folder).entries():
        body = bytes(entry.body)
        if entry.kind == TOMBSTONE:
            held: Any = {"was": entry.was}
        elif entry.kind == Kind.ROLLOUT:
            held = [dataclasses.asdict(rollout) for rollout in decode_rollouts(body)]
        else:
            held = msgspec.to_builtins(decode(entry.kind, body))
        found.append({"sequence": entry.place.sequence, "kind": entry.kind, "values": held})
    return plain(found)


def plain(value: Any) -> Any:
    """`value` as it comes back from JSON: tuples are lists."""
    return json.loads(json.dumps(value))


def shape() -> dict[str, Any]:
    """What a reader depends on: the columns of a rollout, the numbers of the kinds, and the fields of every record."""
    return plain(
        {
            "columns": {column.name: str(column.type) for column in ROLLOUTS},
            "kinds": {name.upper(): kind for kind, name in KIND_NAMES.items()},
            "records": {held.__name__: _undescribed(msgspec.json.schema(held)) for held in get_args(Record)},
        }
    )


def _undescribed(schema: Any) -> Any:
    """The JSON schema without docstrings: words change nothing of what is written."""
    if isinstance(schema, dict):
        return {name: _undescribed(value) for name, value in schema.items() if name != "description"}
    return [_undescribed(value) for value in schema] if isinstance(schema, list) else schema


def traces() -> list[Trace]:
    return [
        a_trace(0, points=(PointTarget(position=1, point=(0.25, 1.0)),)),
        a_trace(1, spans=(SpanTarget(position=2, span=(0.0, 0.5)),), query=a_query("q1", images=(), clip=a_clip())),
    ]


def rollouts() -> list[Rollout]:
    """Between them they fill every column, and leave every one empty that may be."""
    shaped = dataclasses.replace(an_answer_turn((20, 21, 22), version=1, parent=0), shaped=((0, 1),))
    theirs = Provenance(source="somebody", split="train")
    failed = dataclasses.replace(
        an_executed_call("OCR"), observation=Observation(text='{"error":"timeout"}', error="timeout", cached=True)
    )
    clip = a_query("q1", images=(), clip=a_clip())
    first, second = a_group(0)
    third, fourth = a_group(1, version=0)
    return [
        dataclasses.replace(first, calls=(an_executed_call(), failed)),
        second,
        dataclasses.replace(
            third, query=clip, turns=(shaped,), calls=(), answer=None, stop_reason="max_tokens", provenance=theirs
        ),
        dataclasses.replace(fourth, facts=dataclasses.replace(fourth.facts, score=None), views="dark", chain=()),
        a_rollout(
            2, 0, group_size=3, turns=(), stop_reason="quarantined", answer=None, provenance=Provenance(consent="keep")
        ),
    ]


async def write_log(folder: Path) -> None:
    """Several writers; a record of every kind."""
    await _write_and_take_away(folder)
    index = IndexConfig(encoder="e1", dimension=4)
    config = ReplayConfig(folder=folder, segment_bytes=40_000, durability=Durability(mode="always"), index=index)
    first, second, third, fourth, bad = map(_encoded, rollouts())
    buffer = open_replay(config)
    await buffer.begin("rft", groups_per_step=1, max_policy_lag=0, votes=True, version=0)
    more: dict[str, Any] = {"family": "tiny_text", "chain": ("ZOOM",), "answer": "493", "confidence": 0.5}
    await buffer.remember(np.array([0.5, -0.5, 0.5, 0.5], np.float32), query_id="q0", **more)
    await buffer.remember(
        np.array([0.5, 0.5, 0.5, 0.5], np.float32), query_id="q1", source="s1", trusted=True, version=0, **more
    )
    await buffer.admit("g0")
    await buffer.add(first)
    await buffer.add(second)
    await buffer.settle(a_consensus(0))
    await buffer.sample(0)
    await buffer.advance(1, 1)
    await buffer.admit("g1")
    await buffer.close()
    buffer = open_replay(config)
    await buffer.add(third)
    await buffer.add(fourth)
    await buffer.settle(a_consensus(1))
    await _expire(buffer)
    await buffer.admit("g2")
    await buffer.add(bad)
    await buffer.abandon("g2", "its actor was killed")
    await buffer.rewind(0, version=2)
    await buffer.sample(0)
    await buffer.close()


async def _write_and_take_away(folder: Path) -> None:
    """A phase of which one group is pruned to its keys and the other, of a source of its own, is erased."""
    config = ReplayConfig(folder=folder, durability=Durability(mode="always"))
    buffer = open_replay(config)
    await buffer.begin("warm", groups_per_step=1, max_policy_lag=1, votes=False, version=0)
    for number, producer in ((7, "actor-0"), (8, "actor-7")):
        await buffer.admit(f"g{number}")
        for rollout in a_group(number, producer=producer, phase="warm"):
            await buffer.add(_encoded(rollout))
    await buffer.sample(0)
    await buffer.advance(1, 1)
    await buffer.release("warm", 1)
    await buffer.close()
    erase_source(folder, "actor-7")
    await open_replay(dataclasses.replace(config, retention=Retention(keep_bytes=1))).close()


async def _expire(buffer: ReplayBuffer) -> None:
    waiting = asyncio.ensure_future(buffer.sample(1))
    while not buffer.state.expired:
        await asyncio.sleep(0)
    waiting.cancel()


def _encoded(rollout: Rollout) -> bytes:
    return encode_rollouts([rollout])


def write_traces(folder: Path, values: Sequence[Trace]) -> None:
    folder.mkdir(parents=True)
    (folder / "traces.arrows").write_bytes(encode_traces(values))
    (folder / "values.json").write_text(json.dumps([dataclasses.asdict(trace) for trace in values]))


def write_media(folder: Path) -> None:
    """A picture, parts of it laid out both ways, and one of its own."""
    pixels = (np.arange(8 * 6 * 3, dtype=np.uint8) * 37).reshape(6, 8, 3)
    box = (1, 2, 5, 6)
    with tempfile.TemporaryDirectory() as aside:
        live = FolderMediaStore(Path(aside))
        whole, part = put_view(live, pixels), pixels[2:6, 1:5]
        parts = [put_view(live, part), put_image(live, part, compress=False)]
        other = put_image(live, pixels[::-1])
        refs = [whole, *parts, other]
        media = DurableMedia(folder, live=live)
        media.keep(refs, [Cut(target=ref, source=whole, box=box) for ref in parts])
        media.close()
        values = {ref.digest: live.get(ref.digest).hex() for ref in refs}
    (folder / "values.json").write_text(json.dumps(values))


def main(suffix: str = "") -> None:
    name = f"log-{FORMAT_VERSION}.{SCHEMA_VERSION}" + (f"-{suffix}" if suffix else "")
    for folder in (GOLDEN / name, GOLDEN / f"media-{PACK_FORMAT}", GOLDEN / f"traces-{TRACE_VERSION}"):
        if folder.exists():
            print(f"{folder} is there already and stays as it is")
            continue
        if folder.name.startswith("traces"):
            write_traces(folder, traces())
            continue
        if folder.name.startswith("media"):
            write_media(folder)
            continue
        with tempfile.TemporaryDirectory() as aside:
            asyncio.run(write_log(Path(aside)))
            folder.mkdir(parents=True)
            for segment in sorted((Path(aside) / "log").glob("*.segment")):
                shutil.copy(segment, folder)
        values = log_values(folder)
        if missing := KIND_NAMES.keys() - {value["kind"] for value in values}:
            names = ", ".join(sorted(KIND_NAMES[kind] for kind in missing))
            raise ContractError(f"the golden log holds no record of {names}: extend write_log")
        (folder / "values.json").write_text(json.dumps(values))
        (folder / "shape.json").write_text(json.dumps(shape(), indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:2])
