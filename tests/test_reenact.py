"""Reenactment: what a run recorded is executed again and compared, and what was tampered with is found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes.tools import clip_of, plates
from fakes.values import a_rollout

from actors.tools.config import ToolsConfig
from actors.tools.toolbox import build_toolbox
from cluster.launch import main
from cluster.reenact import near
from cluster.runs import open_run
from common.media import FolderMediaStore, put_image
from common.schema import encode_rollouts
from common.types import ExecutedCall, Query, Rollout, ToolCall
from replay.log import Log
from replay.records import Kind

TOOLS = ToolsConfig(num_workers=0, ocr="none")
BOX = [value * 1000 / 448 for value in plates(0).boxes[0]]
CALLS = (
    ToolCall(name="ZOOM", arguments={"image": "image_1", "box": BOX}),
    ToolCall(name="SEG", arguments={"image": "image_1", "box": BOX}),
    ToolCall(name="PROP", arguments={"mask": "mask_1"}),
    ToolCall(name="PROP", arguments={"mask": "mask_7"}),
    ToolCall(name="PROP", arguments={"image": "image_2"}),
)


async def recorded(store: FolderMediaStore, query: Query, calls: Sequence[ToolCall]) -> tuple[ExecutedCall, ...]:
    """The calls as the real toolbox executes them."""
    toolbox = build_toolbox(TOOLS, store.root)
    workspace, done = toolbox.open(query), []
    for call in calls:
        each, workspace = await toolbox.execute(call, workspace)
        done.append(each)
    await toolbox.close()
    return tuple(done)


def keep(folder: Path, rollouts: Sequence[Rollout]) -> Path:
    """Write the log of the run's folder."""
    log = Log(folder / "replay" / "log")
    for rollout in rollouts:
        log.append(Kind.ROLLOUT, encode_rollouts([rollout]))
    log.commit()
    log.close()
    return folder


@pytest.fixture
async def run(tmp_path: Path) -> Path:
    """One rollout on a picture, one on a clip."""
    folder = tmp_path / "run"
    config: dict[str, Any] = {"tools": {"num_workers": 0, "ocr": "none"}}
    open_run(folder, config_digest="d", resume=True, config=config).close()
    store = FolderMediaStore(folder / "replay" / "media")
    picture = Query(query_id="q", question="?", images=(put_image(store, plates(0).pixels),))
    clip = clip_of(store, [plates(0).pixels] * 3)
    followed = ToolCall(name="TRK", arguments={"box": BOX})
    return keep(
        folder,
        [
            a_rollout("g0", 0, query=picture, calls=await recorded(store, picture, CALLS)),
            a_rollout("g1", 0, query=clip, calls=await recorded(store, clip, [followed])),
        ],
    )


def rewritten(run: Path, change: Any) -> Path:
    """The same run with its first rollout's calls changed."""
    from cluster.reenact import rollouts_of

    first, second = rollouts_of(run, None)
    shutil.rmtree(run / "replay" / "log")
    return keep(run, [replace(first, calls=change(first.calls)), second])


def reenacted(words: list[str], capfd: pytest.CaptureFixture[str], *, status: int) -> dict[str, Any]:
    assert main(["reenact", *words, "--json"]) == status
    found: dict[str, Any] = json.loads(capfd.readouterr().out)
    assert found["holds"] == (status == 0)
    return found


def test_what_was_recorded_comes_back_the_same(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    found = reenacted([str(run)], capfd, status=0)
    assert (found["num_rollouts"], found["counts"]["same"], found["findings"]) == (2, 6, [])


def test_one_rollout_can_be_named(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert reenacted([str(run), "--rollout=g1/0"], capfd, status=0)["counts"]["same"] == 1
    assert main(["reenact", str(run), "--rollout=g9/9"]) == 2
    assert "holds no rollout g9/9" in capfd.readouterr().err


def test_a_tampered_observation_is_listed_and_status_1(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def tampered(calls: tuple[ExecutedCall, ...]) -> tuple[ExecutedCall, ...]:
        seen = calls[1].observation
        payload = {**json.loads(seen.text), "area": 7}
        other = replace(seen, text=json.dumps(payload), digest="0" * 64)
        return calls[0], replace(calls[1], observation=other), *calls[2:]

    found = reenacted([str(rewritten(run, tampered))], capfd, status=1)
    assert found["counts"]["different"] == 1 and found["counts"]["same"] == 5
    (listed,) = found["findings"]
    assert (listed["rollout_id"], listed["number"], listed["tool"]) == ("g0/0", 2, "SEG")
    assert '"area": 7' in listed["recorded"] and '"mask":"mask_1"' in listed["found"]


def test_a_result_within_the_tolerance_is_close(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def nudged(calls: tuple[ExecutedCall, ...]) -> tuple[ExecutedCall, ...]:
        seen = calls[1].observation
        payload = json.loads(seen.text)
        payload["area"] = round(payload["area"] * 1.005)
        other = replace(seen, text=json.dumps(payload), digest="1" * 64)
        return calls[0], replace(calls[1], observation=other), *calls[2:]

    found = reenacted([str(rewritten(run, nudged))], capfd, status=0)
    assert found["counts"]["close"] == 1 and found["tolerance"] == 0.01


def test_a_recorded_timeout_proves_nothing_and_names_stay_as_they_were(
    run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def timed_out(calls: tuple[ExecutedCall, ...]) -> tuple[ExecutedCall, ...]:
        text = '{"error":"timeout","hint":""}'
        seen = replace(calls[0].observation, error="timeout", text=text, image=None, digest="2")
        return replace(calls[0], observation=seen), *calls

    found = reenacted([str(rewritten(run, timed_out))], capfd, status=0)
    assert found["counts"]["transient"] == 1 and found["counts"]["same"] == 6


def test_media_that_are_gone_are_said_to_be(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(run / "replay" / "media")
    found = reenacted([str(run)], capfd, status=1)
    assert found["counts"]["gone"] == 6
    assert main(["reenact", str(run)]) == 1
    assert "the run no longer holds the media" in capfd.readouterr().out


def test_damaged_media_are_gone_too(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for file in (run / "replay" / "media").glob("??/*"):
        file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert reenacted([str(run)], capfd, status=1)["counts"]["gone"] == 6


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda folder: None, "holds no run"),
        (lambda folder: open_run(folder, config_digest="d", resume=True).close(), "does not say how its tools were"),
        (
            lambda folder: open_run(folder, config_digest="d", resume=True, config={"tools": {}}).close(),
            "holds no recorded rollouts",
        ),
        (
            lambda folder: open_run(folder, config_digest="d", resume=True, config={"tools": {"worker": 1}}).close(),
            "worker: no such key",
        ),
    ],
)
def test_a_folder_that_cannot_be_reenacted_is_one_line(
    make: Any, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "run")
    assert main(["reenact", str(tmp_path / "run")]) == 2
    printed = capsys.readouterr()
    assert line in printed.err and printed.err.strip().count("\n") == 0


def test_nearness_is_of_numbers_only() -> None:
    assert near({"a": [100, 0.5, "x", None]}, {"a": [100.9, 0.505, "x", None]})
    assert not near(100, 101.5) and not near(0.5, 0.6)
    assert not near("a", "b") and not near([1], [1, 1]) and not near({"a": 1}, {"b": 1})
    assert not near(True, 1) and not near(None, 0) and not near("1", 1)
