"""The whole system: every real component, once in one process and once under Ray, stopped, killed and continued.

One run under Ray is started as a person would, stopped by Ctrl-C, continued, robbed of its actor in the middle of
CC-RFT, and finished; the tests below look at what it left. A second one, in this process, is run twice with the
same seed.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from fakes.learning import a_set

from actors.traces.sets import open_set
from cluster.pretraining import SHIPPED
from common.chat import Chat

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

PIXELIS = [str(Path(sys.executable).with_name("pixelis"))]
SMOKE = ["experiment=smoke"]


@dataclass(slots=True)
class Evidence:
    """What one run under Ray went through."""

    folder: Path
    stopped_status: int = 0
    stop_s: float = 0.0
    left_behind: list[str] = field(default_factory=list)
    listened_on: set[str] = field(default_factory=set)
    killed_actor: bool = False
    killed_engine: bool = False
    log: str = ""
    summary: dict[str, Any] = field(default_factory=dict)


class Started:
    """A `pixelis` command in a session of its own, its stderr in a file that can be waited on."""

    def __init__(self, words: list[str], log: Path) -> None:
        self.log = log
        self._stderr = log.open("w")
        self.process = subprocess.Popen(
            [*PIXELIS, *words], stdout=subprocess.PIPE, stderr=self._stderr, text=True, start_new_session=True
        )

    def wait_for(self, text: str, *, within_s: float = 700) -> None:
        deadline = time.monotonic() + within_s
        while text not in self.log.read_text():
            assert self.process.poll() is None, f"ended before {text!r}:\n{self.log.read_text()[-3000:]}"
            assert time.monotonic() < deadline, f"no {text!r}:\n{self.log.read_text()[-3000:]}"
            time.sleep(0.05)

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def engines(self) -> list[psutil.Process]:
        return [process for process in self.family() if "EngineCore" in " ".join(process.cmdline())]

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self._stderr.close()


def still_running(processes: list[psutil.Process], *, within_s: float) -> list[str]:
    _, alive = psutil.wait_procs(processes, timeout=within_s)
    return [" ".join(process.cmdline())[:80] for process in alive if process.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def evidence(folder: Path) -> Iterator[Evidence]:
    """The run under Ray: stopped in SFT, continued, its actor killed in CC-RFT, its engine in Pixel TTRL, finished.

    A quarter of its traces come from a set in files, and SFT ends with the weights that validated best.
    """
    seen = Evidence(folder=folder / "smoke")
    files = a_set(folder / "set", Chat.from_model(SHIPPED), count=4)
    traces = [f"traces.files=[{files}]", "traces.share=0.25"]
    sft = ["phases.sft.checkpoint_every=1", "phases.sft.validate_every=2", "phases.sft.validate_tasks=2"]
    words = ["run", *SMOKE, f"folder={folder}", *traces, *sft, "--json"]
    first = Started(words, folder / "first.log")
    try:
        first.wait_for("] SFT")
        family = first.family()
        seen.listened_on = {
            connection.laddr.ip.removeprefix("::ffff:")
            for process in family
            for connection in process.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        }
        began = time.monotonic()
        first.process.send_signal(signal.SIGINT)
        seen.stopped_status = first.process.wait(timeout=30)
        seen.stop_s = time.monotonic() - began
        seen.left_behind = still_running(family, within_s=5)
    finally:
        first.end()
    second = Started(words, folder / "second.log")
    try:
        second.wait_for("] CC-RFT")
        for engine in second.engines():
            engine.parent().kill()
            seen.killed_actor = True
        second.wait_for("] Pixel TTRL")
        for engine in second.engines():
            engine.kill()
            seen.killed_engine = True
        out, _ = second.process.communicate(timeout=600)
        seen.log = second.log.read_text()
        assert second.process.returncode == 0, seen.log[-3000:]
        seen.summary = json.loads(out)
    finally:
        second.end()
    yield seen


def test_ctrl_c_ends_within_ten_seconds_and_leaves_no_process(evidence: Evidence) -> None:
    assert evidence.stopped_status == 128 + signal.SIGINT
    assert evidence.stop_s < 10
    assert evidence.left_behind == []


def test_a_local_cluster_its_rendezvous_and_its_engine_listen_on_loopback_only(evidence: Evidence) -> None:
    assert evidence.listened_on
    assert evidence.listened_on <= {"127.0.0.1", "::1"}


def test_a_second_run_continues_and_does_no_phase_twice(evidence: Evidence) -> None:
    assert "continuing after step" in evidence.log
    state = json.loads((evidence.folder / "state.json").read_text())
    assert [row["name"] for row in state["rows"]] == ["base", "sft", "rft", "ttrl"]
    steps = [json.loads(line) for line in (evidence.folder / "metrics.jsonl").read_text().splitlines()]
    sft = [line["step"] for line in steps if line["phase"] == "sft"]
    assert sorted(set(sft)) == list(range(1, 7))


def test_sft_learned_from_the_files_and_ended_with_the_weights_that_validated_best(evidence: Evidence) -> None:
    state = json.loads((evidence.folder / "state.json").read_text())
    assert state["kept_traces"] == [open_set(evidence.folder.parent / "set").digest]
    chosen = state["sft_validation"]
    assert f"SFT ends with the weights after step {chosen['best']} of 6" in evidence.log
    steps = [json.loads(line) for line in (evidence.folder / "metrics.jsonl").read_text().splitlines()]
    accuracy = {line["step"]: line["validation_accuracy"] for line in steps if "validation_accuracy" in line}
    assert sorted(accuracy) == [2, 4, 6] and accuracy[chosen["best"]] == max(accuracy.values())


def test_a_killed_actor_costs_its_unfinished_rollouts_only(evidence: Evidence) -> None:
    assert evidence.killed_actor
    assert "actor-0 is gone; starting another" in evidence.log
    steps = [json.loads(line) for line in (evidence.folder / "metrics.jsonl").read_text().splitlines()]
    assert sorted({line["step"] for line in steps if line["phase"] == "rft"}) == [1, 2, 3]


def test_an_actor_whose_engine_was_killed_is_started_again_too(evidence: Evidence) -> None:
    assert evidence.killed_engine
    assert evidence.log.count("actor-0 is gone; starting another") == 2
    assert [phase["name"] for phase in evidence.summary["phases"]][-1] == "ttrl"


def test_the_summary_holds_what_later_work_relies_on(evidence: Evidence) -> None:
    summary = evidence.summary
    assert summary == json.loads((evidence.folder / "summary.json").read_text())
    assert [phase["name"] for phase in summary["phases"]] == ["base", "sft", "rft", "ttrl"]
    for phase in summary["phases"]:
        for name in ("accuracy", "accuracy_without_tools", "valid_chain_rate", "mean_chain_length", "rapr", "racpr"):
            assert isinstance(phase[name], float)
        assert (phase["num_tasks"], phase["seed"]) == (4, 0)
        assert "token_kl" in phase
    for name in ("versions", "config", "back_ends", "wall_s", "rollout_tokens_per_s", "learner_tokens_per_s"):
        assert summary[name]
    assert summary["max_policy_lag_seen"] <= 1
    assert set(summary["back_ends"]) == {"ZOOM", "SEG", "TRK", "OCR", "TEMP", "PROP"}
    assert len(summary["answers"]) == 6


def test_the_report_shows_the_phases_and_the_real_pictures_and_needs_no_network(evidence: Evidence) -> None:
    page = (evidence.folder / "report.html").read_text()
    assert "Region-based segmentation" in page
    assert "data:image/png;base64," in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "<script src" not in page


def test_every_rollout_of_the_log_is_accounted_for_and_no_pickle_lies_on_disk(evidence: Evidence) -> None:
    from replay.folding import fold
    from replay.log import Log

    state = fold(Log(evidence.folder / "replay" / "log"))
    spent = sum(state.spent.values())
    assert state.inserted == state.live + spent + state.expired + state.quarantined > 0
    suffixes = {path.suffix for path in evidence.folder.rglob("*") if path.is_file()}
    assert suffixes & {".pkl", ".pickle", ".pt", ".pth", ".bin"} == set()
    assert not live_folders(evidence.folder)


def live_folders(run: Path) -> list[Path]:
    from cluster.system import live_folder

    return [live_folder(run)] if live_folder(run).exists() else []


def test_a_question_about_a_file_is_put_to_the_policy_that_was_left(evidence: Evidence, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (64, 64), "red").save(tmp_path / "red.png")
    words = ["ask", str(tmp_path / "red.png"), "how many plates?", *SMOKE, f"folder={evidence.folder.parent}", "--json"]
    done = subprocess.run([*PIXELIS, *words], capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    answered = json.loads(done.stdout)
    assert answered["question"] == "how many plates?"
    assert answered["picture"].endswith("red.png")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "learner.sft.batchsize=4"], "did you mean learner.sft.batch_size?"),
        (["run", "phases.rft.group_size=0"], "group_size must be at least 1"),
        (["ask", "nothing.png", "what?"], "no such file"),
        (["eval", "name=never_run"], "holds no policy yet"),
        (["eval", "model.path=/nowhere"], "no such directory"),
    ],
)
def test_bad_input_is_one_line_and_status_2_and_writes_nothing(words: list[str], message: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [*PIXELIS, *words, f"folder={tmp_path / 'runs'}"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not any(path.is_file() for path in (tmp_path / "runs").rglob("*"))


def test_a_run_folder_of_another_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "manifest.json").write_text('{"format": 99, "config_digest": "x"}')
    words = ["run", *SMOKE, "name=old", f"folder={tmp_path}"]
    done = subprocess.run([*PIXELIS, *words], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert "another version" in done.stderr
    assert (tmp_path / "old" / "manifest.json").read_text() == '{"format": 99, "config_digest": "x"}'


def test_the_same_seed_gives_the_same_tokens_rewards_and_weights_at_lag_0(folder: Path, evidence: Evidence) -> None:
    """In one process this time: the loop is the same."""
    from safetensors.numpy import load_file

    runs = []
    for name in ("one", "two"):
        words = [
            "run", *SMOKE, f"folder={folder}", f"name={name}", "runtime.kind=local", "phases.deterministic=true",
            "phases.rft.max_policy_lag=0", "phases.ttrl.num_steps=0", "generation.max_num_seqs=1",
            "evaluation.concurrency=1",
        ]  # fmt: skip
        done = subprocess.run([*PIXELIS, *words], capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        runs.append(folder / name)
    first, second = (load_file(next((run / "policy").glob("*.safetensors"))) for run in runs)
    assert first.keys() == second.keys()
    assert all((first[key] == second[key]).all() for key in first)
    assert what_was_sampled(runs[0]) == what_was_sampled(runs[1])
    rewards = [
        [json.loads(line).get("reward") for line in (run / "metrics.jsonl").read_text().splitlines()] for run in runs
    ]
    assert rewards[0] == rewards[1]


def what_was_sampled(run: Path) -> list[Any]:
    from common.schema import decode_rollouts
    from replay.records import Kind
    from replay.segments import read_frames

    bodies = [bytes(frame.body) for frame in read_frames(run / "replay" / "log") if frame.kind == Kind.ROLLOUT]
    rollouts = [rollout for body in bodies for rollout in decode_rollouts(body)]
    assert rollouts
    return [[(turn.token_ids, turn.logprobs) for turn in rollout.turns] for rollout in rollouts]
