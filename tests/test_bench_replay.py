"""bench replay: every figure at tiny sizes, and rows that are what they are said to be."""

from __future__ import annotations

import io
import json
import math
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from cluster.benchmarks import replay_peer, replay_peers
from cluster.benchmarks.harness import suites
from cluster.benchmarks.replay import measure_all
from cluster.benchmarks.replay_draws import DrawSizes
from cluster.benchmarks.replay_log import LogSizes
from cluster.benchmarks.replay_peers import PeerSizes, Remote, Took
from cluster.benchmarks.replay_rows import CLIP, SIBLINGS, STILL, Rows, Shown, group_name, pixels_of_group
from cluster.progress import Silent
from common.cuts import cut_out
from common.media import FolderMediaStore, put_view
from common.schema import decode_rollouts, rollout_columns, rollout_keys

NOBODY = Remote(name="nobody", environment=".venv-of-nobody", survives="nothing")


async def test_every_figure_is_made_and_a_peer_without_an_environment_is_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    figures = await measure_all(
        Silent(),
        1,
        log=LogSizes(rows=64, group=8, groups=2, draw=8, draws=2, open_bytes=1 << 20, open_rounds=1),
        draws=DrawSizes(live=(1024, 1280, 1536), stored=64, draws=2, entries=200, dimension=16, queries=4),
        peers=PeerSizes(plain_groups=4, pixel_groups=4, clip_groups=4),
        remotes=(NOBODY,),
    )
    assert [figure.name for figure in figures] == [
        *("append_vs_write", "durable_vs_fdatasync", "durable_wall_vs_fdatasync"),
        *(
            "group_commit_vs_fdatasync",
            "verify_vs_memcpy",
            "gather_vs_memcpy",
            "decode_ms",
            "open_1gib_s",
            "sample_flatness",
            "sample_1280_ms",
            *(f"sample_flatness_{name}" for name in ("in_order", "uniform", "windowed", "prioritised", "mixture")),
        ),
        *("index_vs_faiss", "index_follow", "rows_vs_arrow_file", "pixels_vs_arrow_file"),
        *("rows_vs_sqlite", "pixels_vs_sqlite"),
    ]
    for figure in figures:
        measured = [value for value in (figure.value, figure.peer_value, figure.ratio) if value is not None]
        assert all(math.isfinite(value) and value > 0 for value in measured), figure
    promised = {figure.name: figure.target for figure in figures if figure.target is not None}
    assert promised == {
        "append_vs_write": 0.65,
        "durable_vs_fdatasync": 0.7,
        "verify_vs_memcpy": 0.5,
        "gather_vs_memcpy": 10.0,
        "open_1gib_s": 2.0,
        "sample_flatness": 1.2,
        **{f"sample_flatness_{name}": 1.2 for name in ("in_order", "uniform", "windowed", "prioritised", "mixture")},
        "index_vs_faiss": 0.9,
    }
    assert "nobody is left out; `scripts/setup peers` installs it" in capsys.readouterr().err


def test_only_the_suite_itself_is_one() -> None:
    assert [name for name in suites() if name.startswith("replay")] == ["replay"]


@pytest.mark.parametrize("shown", [STILL, CLIP])
def test_a_row_is_a_rollout_of_its_own(tmp_path: Path, shown: Shown) -> None:
    rows = Rows(shown=shown)
    views, crops = pixels_of_group(np.random.default_rng(0), shown)
    store = FolderMediaStore(tmp_path)
    refs = (*(put_view(store, view) for view in views), put_view(store, crops[3]))
    (rollout,) = decode_rollouts(rows.body(83, refs))
    assert (rollout.rollout_id, rollout.group_id, rollout.sequence) == ("r000000000083", group_name(10), 83)
    assert [image for turn in rollout.turns for image in turn.images] == list(refs)
    [cut] = {cut.target.digest: cut for cut in rollout_columns(rows.body(83, refs))[0].cuts(0)}.values()
    assert (cut.target, cut.source) == (refs[-1], refs[0])
    assert cut_out(cut, store.get(refs[0].digest)) == store.get(refs[-1].digest)
    assert rollout_keys(rows.body(83)) == [rows.keys(83)]
    scores = {rows.keys(number).score for number in range(SIBLINGS)}
    assert len(scores) == SIBLINGS, "a group that agrees would not be drawn"
    assert len({rows.keys(number).rollout_id for number in range(100)}) == 100


def test_a_peer_says_how_many_rows_came_back(tmp_path: Path) -> None:
    np.save(tmp_path / "rollouts.npy", np.zeros((16, 5), np.uint8))
    np.save(tmp_path / "views-still.npy", np.zeros((2, 1, 4, 4, 3), np.uint8))
    np.save(tmp_path / "crops-still.npy", np.arange(8 * 12, dtype=np.uint8).reshape(8, 2, 2, 3))
    assert len(replay_peer.rows_of(tmp_path, "")) == 16
    shown = replay_peer.rows_of(tmp_path, "still")
    assert [sorted(row) for row in shown] == [["crop", "rollout", "view"]] * 8
    assert shown[3]["crop"][0, 0, 0] == 36

    class Mirror:
        def round(self, rows: list[dict[str, np.ndarray]], batch: int) -> int:
            return len(rows) + batch

    orders = io.StringIO(json.dumps({"rows": 6, "shown": "still", "batch": 2}) + "\n")
    answers = io.StringIO()
    replay_peer.serve(Mirror(), tmp_path, orders, answers)
    assert json.loads(answers.getvalue())["rows"] == 8


def test_a_target_is_about_processor_time_and_wall_time_stands_beside_it() -> None:
    took = ([Took(1.0, 0.5)] * 3, [Took(4.0, 8.0)] * 3, [Took(4.0, 4.0)] * 3)
    cost, wall = replay_peers._both("pixels{}_vs_somebody", took, 8, "1 MB", "somebody")
    assert (cost.name, cost.value, cost.peer_value, cost.ratio, cost.noise) == ("pixels_vs_somebody", 16, 1, 16, 0.5)
    assert (wall.name, wall.value, wall.peer_value, wall.ratio, wall.noise) == ("pixels_wall_vs_somebody", 8, 2, 4, 0)
    assert (cost.target, wall.target) == (replay_peers.PIXELS_VS_TRANSFERQUEUE, None)
    assert (cost.unit, wall.unit) == ("rows per CPU second of 1 MB", "rows/s of 1 MB")


def test_processor_time_is_that_of_every_thread_of_the_processes() -> None:
    program = "import threading, time\ndef burn():\n    while time.process_time() < 0.5: pass\n"
    program += "    time.sleep(60)\nthreading.Thread(target=burn, daemon=True).start()\n"
    program += "while time.process_time() < 0.5: pass\nprint(time.process_time(), flush=True)\ninput()\n"
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        used = float(process.stdout.readline())
        both, mine = [psutil.Process(), psutil.Process(process.pid)], time.process_time()
        assert replay_peers._cpu_s(both[1:]) == pytest.approx(used, rel=0.1)
        assert replay_peers._cpu_s(both) >= 0.9 * used
        assert replay_peers._cpu_s(both[:1]) <= mine + 1.0
        process.communicate("\n")


async def test_a_round_counts_whoever_looks_at_rollouts(tmp_path: Path) -> None:
    ours = await replay_peers._Ours.opened(tmp_path / "ours", tmp_path / "live", Rows())
    try:
        took = await ours.round(replay_peers.GROUPS, "pixels")
        assert len(ours._processes()) == 2
        assert took.wall_s > 0 and took.cpu_s > 0
    finally:
        await ours.close()
