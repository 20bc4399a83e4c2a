"""The folder of a run: one user at a time, whole files, and a refusal that leaves everything as it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.runs import FORMAT, open_run, read_metrics, read_summary, write_atomically
from common.errors import RunFolderError


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_a_new_run_has_a_manifest(tmp_path: Path) -> None:
    with open_run(tmp_path / "demo", config_digest="d", resume=True) as run:
        manifest = json.loads((run.path / "manifest.json").read_text())
    assert (manifest["format"], manifest["config_digest"], run.resumed) == (FORMAT, "d", False)


def test_a_run_is_continued_with_what_it_had(tmp_path: Path) -> None:
    with open_run(tmp_path / "demo", config_digest="d", resume=True) as run:
        run.append_metrics({"step": 1})
        run.write_json("state.json", {"step": 1})
    with open_run(tmp_path / "demo", config_digest="d", resume=True) as again:
        assert again.resumed
        again.append_metrics({"step": 2})
    assert [line["step"] for line in read_metrics(tmp_path / "demo")] == [1, 2]


def test_starting_over_removes_what_was_there(tmp_path: Path) -> None:
    with open_run(tmp_path / "demo", config_digest="d", resume=True) as run:
        run.append_metrics({"step": 1})
        (run.path / "checkpoint").mkdir()
    with open_run(tmp_path / "demo", config_digest="other", resume=False) as again:
        assert not again.resumed
        assert names(again.path) == ["lock", "manifest.json"]


def refused(path: Path, *, resume: bool = True) -> str:
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file() and file.name != "lock"}
    with pytest.raises(RunFolderError) as caught:
        open_run(path, config_digest="d", resume=resume)
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file() and file.name != "lock"} == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_run_of_another_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"format": FORMAT + 1, "config_digest": "d"}))
    assert f"format {FORMAT + 1}, this is {FORMAT}" in refused(tmp_path)


def test_a_run_with_another_configuration_is_refused(tmp_path: Path) -> None:
    open_run(tmp_path / "demo", config_digest="before", resume=True).close()
    assert "another configuration" in refused(tmp_path / "demo")


def test_a_damaged_manifest_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{")
    assert "cannot be read" in refused(tmp_path)


def test_a_folder_of_something_else_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    assert "holds no run" in refused(tmp_path)
    assert "holds no run" in refused(tmp_path, resume=False)
    assert "holds no run" in refused(tmp_path / "thesis.txt")
    assert names(tmp_path) == ["thesis.txt"]


def test_a_folder_in_use_is_refused_until_its_process_is_gone(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from cluster.runs import open_run\n"
        "run = open_run(Path(sys.argv[1]), config_digest='d', resume=True); print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "demo")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
    )
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    assert f"in use by process {holder.pid}" in refused(tmp_path / "demo")
    holder.kill()
    holder.wait()
    open_run(tmp_path / "demo", config_digest="d", resume=True).close()


def test_a_torn_last_line_of_metrics_is_cut(tmp_path: Path) -> None:
    with open_run(tmp_path / "demo", config_digest="d", resume=True) as run:
        run.append_metrics({"step": 1})
    with (tmp_path / "demo" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    assert read_metrics(tmp_path / "demo") == [{"step": 1}]
    with open_run(tmp_path / "demo", config_digest="d", resume=True) as run:
        run.append_metrics({"step": 2})
    assert read_metrics(tmp_path / "demo") == [{"step": 1}, {"step": 2}]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    write_atomically(tmp_path / "file", "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(tmp_path / "file", "new \ud800")
    assert (tmp_path / "file").read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_a_folder_without_a_finished_run_has_no_summary(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="no finished run"):
        read_summary(tmp_path / "nowhere")
