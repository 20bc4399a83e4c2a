"""`pixelis log erase`, through the real command line: what it shows, asks, refuses and leaves behind."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fakes.logs import a_replay, records_of

from replay.log import Log
from replay.packs import PackedMedia
from replay.reading import read_log
from replay.records import Drawn, Experience, Kind, Settle, decode

PIXELIS = "import sys; from cluster.launch import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("kept") / "run"
    asyncio.run(a_replay(run / "replay", run.parent / "live"))
    return run


@pytest.fixture
def run(kept: Path, tmp_path: Path) -> Path:
    shutil.copytree(kept, tmp_path / "run")
    return tmp_path / "run"


def pixelis(*words: str | Path, answer: str = "") -> subprocess.CompletedProcess[str]:
    """The command line, `answer` on its standard input."""
    command = [sys.executable, "-c", PIXELIS, *map(str, words)]
    return subprocess.run(command, input=answer, capture_output=True, text=True, env=dict(os.environ), check=False)


def contents(run: Path) -> dict[str, bytes]:
    files = (path for path in run.rglob("*") if path.is_file())
    return {str(path.relative_to(run)): path.read_bytes() for path in files if path.name != "lock"}


def test_it_shows_what_will_go_and_takes_exactly_that(run: Path) -> None:
    replay = run / "replay"
    before, media = records_of(replay), dict(PackedMedia(replay / "media").sizes())
    done = pixelis("log", "erase", run, "--source", "actor-1", answer="yes\n")
    assert done.returncode == 0, done.stderr
    assert "of actor-1, 6 rollouts, 0 experiences and 2 votes will go" in done.stderr
    assert "out of 1 draws" in done.stderr and "Erase? [yes/no]" in done.stderr
    assert "erased: 6 rollouts (8 records)" in done.stdout
    assert f"pixelis log cat {run} --kind erase,erased,tombstone" in done.stdout
    left = dict(PackedMedia(replay / "media").sizes())
    assert f"with {len(media) - len(left)} pictures ({sum(media.values()) - sum(left.values())} bytes)" in done.stderr
    assert not [path for path in run.rglob("*") if path.is_file() and b"actor-1" in path.read_bytes()]
    shown = pixelis("log", "cat", run, "--kind", "erase,erased,tombstone", "--whole")
    lines = [json.loads(line) for line in shown.stdout.splitlines()]
    assert [line["kind"] for line in lines] == ["tombstone"] * 8 + ["erase", "erased"]
    kinds = [before[sequence][0] for sequence in lines[-1]["record"]["sequences"]]
    assert kinds.count(Kind.ROLLOUT) == 6 and kinds.count(Kind.SETTLE) == 2
    audit = json.loads(pixelis("audit", run, "--json").stdout)
    assert audit["clean"] and audit["balance"]["erased"] == 6


def test_of_a_query_its_experiences_go_too_and_json_says_it_all(run: Path) -> None:
    records = records_of(run / "replay")
    held = [decode(kind, body) for kind, body in records if kind != Kind.ROLLOUT]
    num_experiences = sum(isinstance(record, Experience) and record.query_id == "q0" for record in held)
    num_votes = sum(isinstance(record, Settle) and record.consensus.group_id == "ttrl/0" for record in held)
    done = pixelis("log", "erase", run, "--source", "q0", "--yes", "--json")
    assert done.returncode == 0 and done.stderr == ""
    said = json.loads(done.stdout)
    assert (said["num_experiences"], said["num_votes"]) == (num_experiences, num_votes) == (1, 1)
    assert said["num_records"] == said["num_rollouts"] + 2
    tombstones = [entry for entry in read_log(run / "replay" / "log").entries() if entry.was != entry.kind]
    assert len(tombstones) == said["num_records"]
    gone = {entry.place.sequence for entry in tombstones}
    drawn = [record for record in held if isinstance(record, Drawn)]
    assert said["num_draws"] == sum(not gone.isdisjoint(record.sequences) for record in drawn) > 0
    assert said["num_bytes"] == sum(len(records[sequence][1]) for sequence in gone)


@pytest.mark.parametrize("answer", ["no\n", "", "\n", "yesterday\n"])
def test_without_a_yes_nothing_goes(run: Path, answer: str) -> None:
    before = contents(run)
    done = pixelis("log", "erase", run, "--source", "actor-1", answer=answer)
    assert done.returncode == 2 and "nothing was erased" in done.stderr
    assert contents(run) == before


def test_bad_input_is_one_line_and_2_and_changes_nothing(run: Path) -> None:
    before = contents(run)
    for words, why in (
        (("log", "erase", run), "--source NAME"),
        (("log", "erase", run, "--source", "nobody", "--yes"), "holds nothing of nobody"),
        (("log", "erase", run.parent, "--source", "q0", "--yes"), "holds no run with a replay"),
    ):
        done = pixelis(*words)
        assert done.returncode == 2
        assert why in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert contents(run) == before


def test_while_a_run_writes_it_is_refused(run: Path) -> None:
    log = Log(run / "replay" / "log")
    before = contents(run)
    done = pixelis("log", "erase", run, "--source", "q0", "--yes")
    assert done.returncode == 2
    assert "is being written by a run; stop it first" in done.stderr and done.stderr.count("\n") == 1
    assert contents(run) == before
    log.close()
