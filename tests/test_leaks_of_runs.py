"""What a run has looked at against a set: its neighbour index as the replay kept it, and traces from files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.chats import tiny_chat
from fakes.learning import a_real_rollout, a_real_trace

from actors.config import ViewConfig
from actors.traces.sets import form_of, writing
from cluster.config import as_values, load
from cluster.launch import main
from cluster.runs import open_run
from common.media import FolderMediaStore, pixels_of
from common.schema import encode_rollouts
from replay.config import Durability, IndexConfig, ReplayConfig
from replay.opening import open_replay


async def a_run(folder: Path, indexed: list[str]) -> FolderMediaStore:
    """A run whose replay holds two rollouts about one picture (query g0) and an index of `indexed`. Returns its live
    media."""
    live = FolderMediaStore(folder.with_name("live"))
    config = as_values(load([]))
    open_run(folder, config_digest="0", resume=False, config=config).close()
    buffer = open_replay(
        ReplayConfig(
            folder=folder / "replay",
            live_media=live.root,
            durability=Durability(mode="os"),
            index=IndexConfig(encoder="fake", dimension=3),
        )
    )
    try:
        await buffer.begin("rft", groups_per_step=1, max_policy_lag=1, votes=False)
        group_id = f"rft/{await buffer.admit()}"
        for number in range(2):
            rollout = a_real_rollout(tiny_chat(), live, number, group_size=2, group_id=group_id)
            await buffer.add(encode_rollouts([rollout]))
        for query_id in indexed:
            vector = np.array([1, 0, 0], np.float32)
            about: dict[str, Any] = {"family": "text", "chain": (), "answer": "4", "confidence": 1.0}
            await buffer.remember(vector, query_id=query_id, **about)
    finally:
        await buffer.close()
    return live


def a_set(folder: Path, pictures: dict[str, np.ndarray]) -> Path:
    from PIL import Image

    folder.mkdir()
    rows = []
    for name, pixels in pictures.items():
        Image.fromarray(pixels).save(folder / f"{name}.png")
        rows.append({"media": f"{name}.png", "question": f"What is {name}?", "answer": "x", "id": name})
    (folder / "set.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (64, 64, 3), np.uint8)


async def test_a_picture_of_an_indexed_rollout_is_found_in_a_set(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    live = await a_run(tmp_path / "run", ["g0"])
    shown = a_real_rollout(tiny_chat(), live, 0).query.images[0]
    outside = a_set(tmp_path / "set", {"same": pixels_of(live, shown), "other": noise(7)})
    for file in live.root.glob("??/*"):  # a run's live store is gone when somebody asks
        file.unlink()
    words = ["data", "leaks", str(tmp_path / "run"), str(outside), "--refuse"]
    assert main([*words, "--json"]) == 1
    found = json.loads(capfd.readouterr().out)
    (leak,) = found["leaks"]
    assert (leak["items"], leak["exact"], leak["tasks"], found["left_out"]) == ([1, 2], 1, 0, {})
    assert leak["pairs"][0]["first"] == "g0" and leak["pairs"][0]["second"] == "same"
    clean = a_set(tmp_path / "clean", {"other": noise(8)})
    assert main(["data", "leaks", str(tmp_path / "run"), str(clean), "--refuse"]) == 0


async def test_tasks_of_the_world_in_an_index_are_drawn_again(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    await a_run(tmp_path / "run", ["index-1", "index-0", "lost-7", "g0", "index-1"])
    world = str(tmp_path / "world")
    assert main(["data", "world", "--out", world, "--split", "index", "--count", "2"]) == 0
    capfd.readouterr()
    assert main(["data", "leaks", str(tmp_path / "run"), world, "--exact", "--refuse", "--json"]) == 1
    found = json.loads(capfd.readouterr().out)
    (leak,) = found["leaks"]
    assert (leak["items"], leak["exact"], leak["tasks"]) == ([3, 2], 2, 2)  # the same pictures and the same questions
    assert found["left_out"] == {str(tmp_path / "run"): 1}
    assert main(["data", "leaks", str(tmp_path / "run"), "world:test", "--exact", "--count", "3", "--refuse"]) == 0


async def test_an_index_that_holds_nothing_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    await a_run(tmp_path / "run", [])
    assert main(["data", "leaks", str(tmp_path / "run"), "world:test", "--count", "1"]) == 2
    assert "its neighbour index holds nothing" in capfd.readouterr().err.splitlines()[-1]


def test_a_picture_of_kept_traces_is_found_in_a_set(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    chat = tiny_chat()
    with writing(tmp_path / "traces") as writer:
        traces = [a_real_trace(chat, writer.store, number) for number in range(3)]
        writer.take(traces)
        writer.close(form_of(chat, ViewConfig()), {})
        pixels = pixels_of(writer.store, traces[1].query.images[0]).copy()
    outside = a_set(tmp_path / "set", {"same": pixels, "other": noise(7)})
    assert main(["data", "leaks", str(tmp_path / "traces"), str(outside), "--refuse", "--json"]) == 1
    (leak,) = json.loads(capfd.readouterr().out)["leaks"]
    assert (leak["items"], leak["exact"]) == ([3, 2], 1)
    assert (leak["pairs"][0]["first"], leak["pairs"][0]["second"]) == ("q1", "same")
