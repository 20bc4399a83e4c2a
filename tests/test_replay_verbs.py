"""`pixelis audit` and `pixelis log`: what they print, what they write, and how they end."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from fakes.logs import a_replay, appended, records_of

from cluster.launch import main
from cluster.runs import open_run
from common.errors import DataError
from common.schema import decode_rollouts
from replay.disk import Disk
from replay.export import RECORD_COLUMNS, ROLLOUT_COLUMNS, export
from replay.frames import Bytes
from replay.listing import LONG_LIST, LONG_TEXT, listing, shortened
from replay.packs import PackedMedia
from replay.records import Advance, Drawn, Kind, decode
from replay.survey import survey


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder, as a learner of `a_replay` leaves it."""
    run = tmp_path_factory.mktemp("kept") / "run"
    with open_run(run, config_digest="d", resume=True) as folder:
        for phase, step in (("sft", 1), ("rft", 1), ("rft", 2), ("rft", 3), ("rft", 3), ("rft", 4), ("ttrl", 1)):
            folder.append_metrics({"phase": phase, "step": step})
    checkpoint = run / "checkpoints" / "ttrl-000001"
    checkpoint.mkdir(parents=True)
    (checkpoint / "learner.json").write_text(json.dumps({"values": {"phase": "ttrl", "step": 1}}))
    (run / "state.json").write_text(json.dumps({"phase": "ttrl", "step": 20, "checkpoint": checkpoint.name}))
    asyncio.run(a_replay(run / "replay", run.parent / "live"))
    return run


@pytest.fixture
def run(kept: Path, tmp_path: Path) -> Path:
    shutil.copytree(kept, tmp_path / "run")
    return tmp_path / "run"


def printed(capfd: pytest.CaptureFixture[str], words: Sequence[str], status: int = 0) -> str:
    assert main(words) == status
    return capfd.readouterr().out


# ── audit ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_clean_run_ends_with_0_and_says_how_it_adds_up(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = printed(capfd, ["audit", str(run)])
    assert "clean" in out and "rule" not in out
    assert "18 inserted = 2 live + 13 spent + 2 expired + 1 quarantined + 0 erased" in out
    assert "2 abstained, 10 drawn, 1 late" in out


def test_a_broken_law_ends_with_1_and_is_placed(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    at = appended(run / "replay", Advance(step=1, version=9))
    found = json.loads(printed(capfd, ["audit", str(run), "--json"], 1))
    [violation] = found["violations"]
    assert (violation["rule"], violation["sequence"]) == ("applied twice", at)
    assert violation["segment"] == "00000000.segment" and violation["byte"] % 64 == 0
    assert (found["clean"], found["balance"]["inserted"]) == (False, 18)
    assert "applied twice" in printed(capfd, ["audit", str(run)], 1)


def test_the_checkpoint_and_the_metrics_are_compared_with_the_log(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"phase": "ttrl", "step": 2}\n')
    assert "the metrics tell of step 2" in printed(capfd, ["audit", str(run)], 1)
    checkpoint = run / "checkpoints" / "ttrl-000001" / "learner.json"
    checkpoint.write_text(json.dumps({"values": {"phase": "ttrl", "step": 3}}))
    assert "the checkpoint holds 3 steps of ttrl" in printed(capfd, ["audit", str(run)], 1)
    shutil.rmtree(checkpoint.parent)  # a run that is under way has just replaced it; state.json says step 20
    assert "the checkpoint holds 20 steps of ttrl" in printed(capfd, ["audit", str(run)], 1)


def test_a_run_by_name_and_a_bare_replay_are_found(
    run: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (run.parent / "runs").mkdir()
    run.rename(run.parent / "runs" / "demo")
    monkeypatch.chdir(run.parent)
    assert "clean" in printed(capfd, ["audit", "demo"])
    assert "clean" in printed(capfd, ["audit", "runs/demo/replay"])


@pytest.mark.parametrize("verb", [["audit"], ["log", "stats"], ["log", "cat"], ["log", "export", "--out", "x"]])
def test_a_folder_that_is_no_run_is_one_line_and_2(
    tmp_path: Path, verb: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        assert main([*verb[:2], str(folder), *verb[2:]]) == 2
        error = capfd.readouterr().err
        assert "holds no run with a replay" in error and error.count("\n") == 1


def test_a_log_of_another_version_is_one_line_and_2(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import xxhash

    [segment] = (run / "replay" / "log").glob("*.segment")
    head = bytearray(segment.read_bytes())
    head[8] = 9
    head[56:64] = xxhash.xxh3_64_intdigest(bytes(head[:56])).to_bytes(8, "little")
    segment.write_bytes(head)
    assert main(["audit", str(run)]) == 2
    assert "format 9" in capfd.readouterr().err


# ── stats ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_stats_count_what_the_log_holds(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    found = json.loads(printed(capfd, ["log", "stats", str(run), "--json"]))
    records = records_of(run / "replay")
    by_kind = {Kind(kind).name.lower(): sum(held == kind for held, _ in records) for kind, _ in records}
    assert {name: count["num_records"] for name, count in found["kinds"].items()} == by_kind
    assert sum(count["num_bytes"] for count in found["kinds"].values()) == sum(len(body) for _, body in records)
    assert found["phases"] == {"rft": 12, "ttrl": 6}
    assert found["families"] == {"tiny_text": 18}
    assert sum(found["versions"].values()) == 18 and found["versions"]["none"] == 1
    [segment] = (run / "replay" / "log").glob("*.segment")
    assert found["num_bytes"] == segment.stat().st_size
    media = dict(PackedMedia(run / "replay" / "media").sizes())
    assert (found["media"]["num_kept"], found["media"]["num_bytes"]) == (len(media), sum(media.values()))
    assert found["dedupe_ratio"] == found["media"]["mentioned_bytes"] / sum(media.values())
    assert "rollouts by phase: rft 12, ttrl 6" in printed(capfd, ["log", "stats", str(run)])


def test_stats_of_a_damaged_log_point_at_the_audit(run: Path) -> None:
    appended(run / "replay", (1, b"noise"))
    assert survey(run / "replay").unreadable == 1


# ── cat ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_cat_gives_every_record_a_line(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    lines = [json.loads(line) for line in printed(capfd, ["log", "cat", str(run), "--whole"]).splitlines()]
    records = records_of(run / "replay")
    assert [line["sequence"] for line in lines] == list(range(len(records)))
    for line, (kind, body) in zip(lines, records, strict=True):
        assert line["kind"] == Kind(kind).name.lower()
        if kind == Kind.ROLLOUT:
            [rollout] = decode_rollouts(body)
            assert line["record"]["rollout_id"] == rollout.rollout_id
            told = [turn["token_ids"] for turn in line["record"]["turns"]]
            assert told == [list(turn.token_ids) for turn in rollout.turns]
    [draw] = [line["record"] for line in lines if line["kind"] == "draw"][-1:]
    assert draw["rollout_ids"] == ["ttrl/0/0", "ttrl/0/1"]


def test_cat_filters_by_kind_and_number_and_stops_at_the_limit(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def numbers(*flags: str) -> list[int]:
        lines = printed(capfd, ["log", "cat", str(run), *flags]).splitlines()
        return [json.loads(line)["sequence"] for line in lines]

    kinds = [kind for kind, _ in records_of(run / "replay")]
    wanted = [at for at, kind in enumerate(kinds) if kind in (Kind.DRAW, Kind.REWIND)]
    assert numbers("--kind", "draw,rewind") == wanted
    assert numbers("--from", "5", "--to", "9") == [5, 6, 7, 8, 9]
    assert numbers("--from", "5", "--limit", "2") == [5, 6]
    assert numbers("--kind", "draw", "--from", str(wanted[0] + 1), "--limit", "1") == wanted[1:2]
    assert main(["log", "cat", str(run), "--kind", "drawn"]) == 2
    assert "no kind of record is called drawn" in capfd.readouterr().err


def test_cat_shortens_what_is_long_unless_it_is_to_be_whole(run: Path) -> None:
    [short] = listing(run / "replay", kinds={Kind.ROLLOUT}, limit=1)
    [whole] = listing(run / "replay", kinds={Kind.ROLLOUT}, limit=1, whole=True)
    ids = whole["record"]["turns"][0]["token_ids"]
    assert short["record"]["turns"][0]["token_ids"] == [*ids[:LONG_LIST], f"… {len(ids)} in all"]
    assert len(short["record"]["turns"]) == len(whole["record"]["turns"])
    assert len(json.dumps(short)) < len(json.dumps(whole))
    assert shortened({"question": "x" * 300}) == {"question": "x" * LONG_TEXT + "… (300 characters)"}


def test_cat_names_what_cannot_be_read_and_goes_on(run: Path) -> None:
    at = appended(run / "replay", (1, b"noise"), Advance(step=1, version=8))
    bad, good = listing(run / "replay", first=at)
    assert "not an Arrow stream" in bad["error"]
    assert good["record"] == {"step": 1, "version": 8}


def test_cat_ends_quietly_when_its_reader_has_seen_enough(run: Path) -> None:
    code = f"from cluster.launch import main\nfor _ in range(99): assert main(['log', 'cat', {str(run)!r}]) == 0"
    script = ["bash", "-c", '"$0" -c "$1" | head -n 1; echo "${PIPESTATUS[0]}"', sys.executable, code]
    done = subprocess.run(script, capture_output=True, text=True, env=dict(os.environ), check=True)
    assert done.stdout.splitlines()[-1] == "0"
    assert done.stderr == ""


# ── export ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_export_holds_every_record_in_flat_columns(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = run.parent / "new" / "out"
    done = json.loads(printed(capfd, ["log", "export", str(run), "--out", str(out), "--json"]))
    records = records_of(run / "replay")
    rollouts = {at: decode_rollouts(body)[0] for at, (kind, body) in enumerate(records) if kind == Kind.ROLLOUT}
    assert (done["num_rollouts"], done["num_records"]) == (len(rollouts), len(records) - len(rollouts))
    table = pq.read_table(out / "rollouts.parquet")
    assert table.column_names == list(ROLLOUT_COLUMNS)
    for row in table.to_pylist():
        rollout = rollouts[row["sequence"]]
        sampled = [token for turn in rollout.turns if turn.role == "assistant" for token in turn.token_ids]
        assert row["rollout_id"] == rollout.rollout_id
        assert row["token_ids"] == [token for turn in rollout.turns for token in turn.token_ids]
        known = [
            (token, value) for token, value in zip(row["token_ids"], row["logprobs"], strict=True) if value is not None
        ]
        assert [token for token, _ in known] == sampled
        assert [value for _, value in known] == [value for turn in rollout.turns for value in turn.logprobs]
        assert row["tools"] == [done.call.name for done in rollout.calls]
        assert (row["score"], row["answer"], row["producer_sequence"]) == (
            rollout.facts.score, rollout.answer, rollout.sequence,
        )  # fmt: skip
    others = pq.read_table(out / "records.parquet")
    assert others.column_names == list(RECORD_COLUMNS)
    rows = others.to_pylist()
    assert [row["sequence"] for row in rows] == [at for at, (kind, _) in enumerate(records) if kind != Kind.ROLLOUT]
    draws = [decode(kind, body) for kind, body in records if kind == Kind.DRAW]
    told = [(row["step"], row["watermark"], row["sequences"]) for row in rows if row["kind"] == "draw"]
    assert told == [(d.step, d.watermark, list(d.sequences)) for d in draws if isinstance(d, Drawn)]
    assert [row["answer"] for row in rows if row["kind"] == "settle"] == ["493", None]
    assert all("vector" not in json.loads(row["body"]) for row in rows)
    assert sorted(file.name for file in out.parent.iterdir()) == ["out"]


def test_rows_are_written_a_group_at_a_time(run: Path) -> None:
    export(run / "replay", run / "out", rows_at_once=7)
    held = pq.ParquetFile(run / "out" / "rollouts.parquet").metadata
    assert [held.row_group(i).num_rows for i in range(held.num_row_groups)] == [7, 7, 4]


class FullDisk(Disk):
    """Takes `room` writes, then is full."""

    def __init__(self, room: int) -> None:
        self.room = room

    def write(self, file: int, buffers: Sequence[Bytes]) -> int:
        self.room -= 1
        if self.room < 0:
            raise OSError(28, "No space left on device")
        return super().write(file, buffers)


def test_an_export_appears_whole_or_not_at_all(run: Path) -> None:
    before = sorted(run.iterdir())
    roomy = FullDisk(10**6)
    export(run / "replay", run.parent / "whole", disk=roomy)
    needed = 10**6 - roomy.room
    for room in (0, 1, needed // 2, needed - 2, needed - 1):
        with pytest.raises(DataError, match="No space left"):
            export(run / "replay", run / "out", disk=FullDisk(room))
        assert sorted(run.iterdir()) == before
    export(run / "replay", run / "out", disk=FullDisk(needed))
    assert pq.read_table(run / "out" / "rollouts.parquet").num_rows == 18


def test_what_is_there_is_never_overwritten_and_a_broken_record_leaves_nothing(run: Path) -> None:
    (run / "out").mkdir()
    with pytest.raises(DataError, match="is there already"):
        export(run / "replay", run / "out")
    appended(run / "replay", (1, b"noise"))
    with pytest.raises(DataError, match="cannot be read"):
        export(run / "replay", run / "other")
    assert not (run / "other").exists() and not list(run.glob(".aside-*"))


def test_an_export_needs_a_place(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["log", "export", str(run)]) == 2
    assert "needs --out" in capfd.readouterr().err
