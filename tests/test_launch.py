"""The command line: light, strict, and silent on standard output except for the result."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.commands import COMMANDS, split_overrides
from cluster.config import RunConfig
from cluster.launch import main
from cluster.progress import PlainProgress, Progress, figures_text
from cluster.summary import Answer, PhaseSummary, Summary, clock

ROOT = Path(__file__).parent.parent


class FakeSystem:
    """Does nothing, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[RunConfig, bool]] = []
        self.questions: list[str] = []
        self.sft = self.rft = self.adapt = self.pretrain = self.run

    async def run(self, config: RunConfig, *, progress: Progress, resume: bool) -> Summary:
        print("a library prints")
        os.write(1, b"and so does C\n")
        progress.start("stage", 2)
        progress.update(1, reward=0.5)
        self.asked.append((config, resume))
        return summary(config.name)

    async def eval(self, config: RunConfig, *, progress: Progress) -> Summary:
        return await self.run(config, progress=progress, resume=True)

    async def ask(self, config: RunConfig, *, picture: Path, question: str, progress: Progress) -> Answer:
        self.questions.append(question)
        return Answer(picture=picture.name, question=question, answer="493")


def summary(name: str) -> Summary:
    phase = PhaseSummary(
        name="sft",
        accuracy=0.75,
        accuracy_without_tools=0.25,
        valid_chain_rate=1.0,
        mean_chain_length=2.0,
        rapr=1.0,
        racpr=0.5,
        token_kl=0.0625,
        num_tasks=64,
        seed=0,
        wall_s=62.0,
    )
    return Summary(
        name=name,
        command="run",
        phases=(phase,),
        versions={"ray": "1"},
        config={},
        back_ends={"OCR": "easyocr"},
        machine="m",
        wall_s=62.0,
        answers=(Answer(picture="page", question="word?", answer="a", truth="b", right=False),),
    )


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(f"  {name} " in printed for name in COMMANDS)
    assert set(COMMANDS) == {
        *("run", "sft", "rft", "adapt", "eval", "pretrain"),
        *("ask", "tool", "audit", "log", "data", "reenact", "bench", "report", "doctor"),
    }


def test_each_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    for name in COMMANDS:
        with pytest.raises(SystemExit) as ended:
            main([name, "--help"])
        assert ended.value.code == 0
    assert "key=value" in capsys.readouterr().out


def test_flags_and_overrides_reach_the_system(capsys: pytest.CaptureFixture[str]) -> None:
    system = FakeSystem()
    assert main(["run", "--fresh", "seed=7", "name=mine"], system) == 0
    assert main(["run", "seed=8", "--json"], system) == 0
    assert [(config.seed, resume) for config, resume in system.asked] == [(7, False), (8, True)]
    assert "75.0 %" in capsys.readouterr().out


def test_eval_has_short_names_for_a_set_of_ones_own() -> None:
    system = FakeSystem()
    assert (
        main(["eval", "qa=a b, c(1)'s.jsonl", "data=/some/dir", "num_tasks=500", "evaluation.shift=dark:0.3"], system)
        == 0
    )
    settings = system.asked[0][0].evaluation
    assert (settings.qa, settings.data, settings.num_tasks) == ("a b, c(1)'s.jsonl", "/some/dir", 500)
    assert settings.shift == "dark:0.3"


def test_json_is_alone_on_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--json"], FakeSystem()) == 0
    printed = capfd.readouterr()
    assert json.loads(printed.out)["phases"][0]["accuracy"] == 0.75
    assert "a library prints" in printed.err and "and so does C" in printed.err


def test_a_question_may_hold_an_equals_sign(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "picture.png")
    system = FakeSystem()
    assert main(["ask", str(tmp_path / "picture.png"), "is 1+1=2?", "seed=3"], system) == 0
    assert system.questions == ["is 1+1=2?"]


def test_words_are_split_by_place_and_equals_sign() -> None:
    assert split_overrides(["rollout", "--json", "seed=1"], None) == (["rollout", "--json"], ("seed=1",))
    assert split_overrides(["a=b", "c=d", "seed=1"], 2) == (["a=b", "c=d"], ("seed=1",))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["fly"], "no command 'fly'; there are run, pretrain, sft"),
        (["run", "--quick"], "unrecognized arguments: --quick (see pixelis run --help)"),
        (
            ["run", "learner.engin.zero_stage=1"],
            "learner.engin.zero_stage: no such key; did you mean learner.engine.zero_stage?",
        ),
        (["run", "learner.engine.zero_stage=9"], "learner.engine: zero_stage must be 0, 1, 2 or 3, got 9"),
        (["ask", "missing.png", "what?"], "missing.png: no such file"),
        (["ask", "missing.png"], "the following arguments are required: question"),
        (["eval", "num_tasks=many"], "evaluation.num_tasks: expected int, got str"),
        (["eval", "num_tasks=0"], "evaluation: num_tasks and concurrency must be at least 1, got 0, 48"),
        (["eval", "evaluation.arms=[no_tool]"], "evaluation: arms must have learned, each once, got ['no_tool']"),
        (["report", "/nowhere"], "/nowhere holds no finished run"),
    ],
)
def test_bad_input_is_one_line_and_status_2(words: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words, FakeSystem()) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert printed.err.startswith(f"pixelis: {line}")


def test_a_truncated_picture_is_refused_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    Image.effect_noise((64, 64), 50).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:500])
    assert main(["ask", str(tmp_path / "cut.png"), "what?"], FakeSystem()) == 2
    assert "cut.png: not a whole picture" in capsys.readouterr().err


INTERRUPTED = """
import asyncio, sys
from cluster.interrupt import Interrupted, run_until_interrupted
async def work():
    try:
        print("working", flush=True)
        await asyncio.sleep(60)
    finally:
        print("saved", flush=True)
        await asyncio.sleep(float(sys.argv[1]))
try:
    run_until_interrupted(work())
except Interrupted as error:
    sys.exit(error.status)
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_lets_the_work_save_and_sets_the_status(number: int, status: int) -> None:
    process = start(INTERRUPTED, "0")
    process.send_signal(number)
    assert process.communicate(timeout=10)[0] == "saved\n"
    assert process.returncode == status


def test_a_second_signal_ends_at_once() -> None:
    process = start(INTERRUPTED, "60")
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None and process.stdout.readline() == "saved\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(5) == 130


def test_saving_forever_is_cut_within_ten_seconds() -> None:
    process = start(INTERRUPTED, "60")
    process.send_signal(signal.SIGINT)
    assert process.wait(11) == 130


def test_a_signal_is_heard_while_the_loop_is_blocked() -> None:
    blocked = INTERRUPTED.replace("await asyncio.sleep(60)", "[None for _ in iter(int, 1)]").replace("saved", "never")
    process = start(blocked, "0")
    process.send_signal(signal.SIGINT)
    assert process.wait(11) == 130


def start(code: str, *arguments: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None and process.stdout.readline() == "working\n"
    return process


def test_plain_progress_says_when_stages_begin_and_end(capsys: pytest.CaptureFixture[str]) -> None:
    time = iter([0.0, 0.0, 0.0, 5.0, 12.0, 12.0, 12.0, 62.0, 62.0])
    progress = PlainProgress(sys.stdout, now=lambda: next(time))
    progress.start("SFT", 100)
    progress.update(10, loss=0.5)
    progress.update(20, loss=0.25)
    progress.finish()
    assert capsys.readouterr().out.splitlines() == [
        "[ 0:00] SFT",
        "[ 0:12] SFT 20/100 loss 0.25",
        "[ 1:02] SFT: done in 1:02 loss 0.25",
    ]


def test_figures_read_as_words() -> None:
    assert (
        figures_text({"policy_lag": 2, "reward": 0.41234, "tasks": "train"})
        == "policy lag 2 · reward 0.412 · tasks train"
    )
    assert [clock(62.4), clock(3661.0), clock(None)] == ["1:02", "1:01:01", "–"]


def test_the_fake_is_a_whole_system() -> None:
    from cluster.commands import Verbs

    system: Verbs = FakeSystem()
    assert asyncio.iscoroutinefunction(system.run)
