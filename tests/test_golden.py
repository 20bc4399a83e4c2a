"""Golden files: what any version wrote is read for ever, and no version changes what it writes without saying so."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from fakes.golden import GOLDEN, log_values, plain, shape
from fakes.plain_log import plain_records
from fakes.values import a_group

from common.columns import SCHEMA_VERSION
from common.schema import TRACE_VERSION, decode_traces, encode_rollouts, rollout_keys
from common.types import Provenance
from replay.audit.audit import audit_replay
from replay.config import ReplayConfig
from replay.frames import FORMAT_VERSION
from replay.log import Log
from replay.opening import open_replay
from replay.packs import PACK_FORMAT, PackedMedia
from replay.reading import KIND_NAMES
from replay.records import Kind

ADDED = {"provenance": dataclasses.asdict(Provenance())}
"""What is said of rollouts of before these columns."""
LOGS = sorted(GOLDEN.glob("log-*"))
MEDIA = sorted(GOLDEN.glob("media-*"))
TRACES = sorted(GOLDEN.glob("traces-*"))
OURS = f"log-{FORMAT_VERSION}.{SCHEMA_VERSION}"
HOW = (
    "a new number in common/schema.py, replay/frames.py or replay/packs.py, "
    "then `PYTHONPATH=.:tests python -m fakes.golden`"
)


def recorded(folder: Path, name: str = "values.json") -> Any:
    return json.loads((folder / name).read_text())


@pytest.fixture(params=LOGS, ids=lambda folder: folder.name)
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A replay's folder with a golden log, which a test may write to."""
    for segment in request.param.glob("*.segment"):
        (tmp_path / "log").mkdir(exist_ok=True)
        shutil.copy(segment, tmp_path / "log")
    shutil.copy(request.param / "values.json", tmp_path)
    return tmp_path


def within(old: Any, new: Any) -> bool:
    """Every value of `old` is in `new`; what a later version added there is empty, or what it says of older ones."""
    if isinstance(old, dict) and isinstance(new, dict):
        added = [new[name] for name in new.keys() - old.keys() if new[name] != ADDED.get(name)]
        return all(within(value, new.get(name)) for name, value in old.items()) and not any(added)
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(map(within, old, new))
    return bool(old == new)


def test_a_golden_log_is_read_and_gives_the_recorded_values(golden: Path) -> None:
    assert within(recorded(golden), log_values(golden / "log"))


def test_a_golden_log_opens_keeps_its_word_and_goes_on(golden: Path) -> None:
    audit = audit_replay(golden)
    assert audit.clean, audit.violations
    num_records = len(recorded(golden))
    assert audit.num_records == num_records
    log = Log(golden / "log")
    assert (log.next_sequence, log.recovery.losses, log.recovery.cut_bytes) == (num_records, (), 0)
    log.close()


async def test_a_golden_log_goes_on_with_what_this_version_writes(golden: Path) -> None:
    buffer = open_replay(ReplayConfig(folder=golden))
    await buffer.advance(buffer.state.next_step, 8)
    await buffer.begin("next", groups_per_step=1, max_policy_lag=1, votes=False, version=9)
    await buffer.admit("new")
    for rollout in a_group("new", phase="next", version=9, producer="new"):
        assert await buffer.add(encode_rollouts([rollout]))
    assert (await buffer.sample(0)).rollout_ids == ("new/0", "new/1")
    await buffer.close()
    audit = audit_replay(golden)
    assert audit.clean, audit.violations


async def test_a_golden_log_gives_its_draws_again(golden: Path) -> None:
    draws = [value["values"] for value in recorded(golden) if value["kind"] == Kind.DRAW]
    buffer = open_replay(ReplayConfig(folder=golden))
    again = await buffer.sample(draws[-1]["step"])
    assert list(again.rollout_ids) == draws[-1]["rollout_ids"]
    assert [keys.rollout_id for keys in rollout_keys(again.rollouts)] == draws[-1]["rollout_ids"]
    await buffer.close()


@pytest.mark.parametrize("folder", [f for f in LOGS if f.name.startswith("log-1.")], ids=lambda f: f.name)
def test_a_reader_written_from_the_document_finds_the_same_records(folder: Path) -> None:
    values = recorded(folder)
    records = list(plain_records(folder))
    assert [(sequence, kind) for sequence, kind, _ in records] == [(v["sequence"], v["kind"]) for v in values]
    for (_, kind, body), value in zip(records, values, strict=True):
        if kind != Kind.ROLLOUT:
            assert json.loads(body) == value["values"]
            continue
        with pa.ipc.open_stream(body) as reader:
            rows = reader.read_all().to_pylist()
        assert [row["rollout_id"] for row in rows] == [rollout["rollout_id"] for rollout in value["values"]]
        assert [turn["logprobs"] for turn in rows[0]["turns"]] == [
            turn["logprobs"] for turn in value["values"][0]["turns"]
        ]


@pytest.mark.parametrize("folder", TRACES, ids=lambda folder: folder.name)
def test_golden_traces_are_read_and_give_the_recorded_values(folder: Path) -> None:
    found = [dataclasses.asdict(trace) for trace in decode_traces((folder / "traces.arrows").read_bytes())]
    assert within(recorded(folder), plain(found))


@pytest.mark.parametrize("folder", MEDIA, ids=lambda folder: folder.name)
@pytest.mark.parametrize("indexed", [True, False])
def test_golden_pictures_are_read_back_by_their_digests(folder: Path, indexed: bool, tmp_path: Path) -> None:
    for file in folder.glob("*.pack" if not indexed else "0*"):
        shutil.copy(file, tmp_path)
    reader = PackedMedia(tmp_path)
    assert [pack.has_index for pack in reader.packs] == [indexed]
    assert {digest: reader.get(digest).hex() for digest in reader.digests()} == recorded(folder)


def test_this_version_has_golden_files_of_what_it_writes() -> None:
    assert (GOLDEN / f"traces-{TRACE_VERSION}").is_dir(), HOW
    assert (GOLDEN / f"media-{PACK_FORMAT}").is_dir(), HOW
    ours = [folder for folder in LOGS if folder.name == OURS or folder.name.startswith(f"{OURS}-")]
    assert ours, HOW
    known: dict[str, Any] = {}
    for folder in ours:
        known = united(known, recorded(folder, "shape.json"), folder.name)
    assert shape() == known, f"what is written changed: {HOW}, or a folder with a suffix for what is only added"


def united(old: Any, new: Any, name: str) -> Any:
    """Both shapes of one version: a later one may add kinds, and fields that a record may lack, and change nothing."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        assert old == new, f"{name} has {new} where another has {old}: {HOW}"
        return old
    return new | {key: united(value, new.get(key, value), name) for key, value in old.items()}


def test_a_version_may_add_fields_and_change_none() -> None:
    old = {"records": {"A": {"properties": {"x": 1}, "required": ["x"]}}}
    added = {"records": {"A": {"properties": {"x": 1, "y": 2}, "required": ["x"]}, "B": {}}}
    assert united(old, added, "added") == united(added, old, "added") == added
    for changed in ({"properties": {"x": 2}, "required": ["x"]}, {"properties": {"x": 1}, "required": ["x", "y"]}):
        with pytest.raises(AssertionError, match="where another has"):
            united(old, {"records": {"A": changed}}, "changed")


def test_every_kind_of_record_is_in_a_golden_log() -> None:
    kinds = {value["kind"] for folder in LOGS for value in recorded(folder)}
    assert kinds == set(KIND_NAMES)


def test_golden_values_leave_no_column_empty_everywhere() -> None:
    """Or a column could come back empty unseen."""
    rollouts = [r for value in recorded(GOLDEN / OURS) if value["kind"] == Kind.ROLLOUT for r in value["values"]]
    assert all(any(rollout[name] not in (None, [], "") for rollout in rollouts) for name in rollouts[0])
    turns = [turn for rollout in rollouts for turn in rollout["turns"]]
    assert all(any(turn[name] for turn in turns) for name in turns[0])
    calls = [call for rollout in rollouts for call in rollout["calls"]]
    assert all(any(call[name] for call in calls) for name in calls[0])
    spans = [span for turn in turns for span in turn["versions"]]
    assert any(span["parent"] is not None for span in spans)
    assert all(any(rollout["provenance"][name] for rollout in rollouts) for name in rollouts[0]["provenance"])
    assert all(any(call["observation"][name] for call in calls) for name in calls[0]["observation"])


def test_what_a_later_version_adds_must_be_empty_and_nothing_may_change() -> None:
    assert within({"a": [1]}, {"a": [1], "b": []})
    assert not within({"a": [1]}, {"a": [1], "b": [2]})
    assert not within({"a": [1]}, {"a": [2]})
    assert not within({"a": [1]}, {})
