"""`pixelis data import`: a set of traces whole or not at all, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fakes.conversations import HALF, crop, looked, reasoned, zoomed
from fakes.tools import plates
from PIL import Image

from actors.traces.sets import Shelf, open_set, open_sets, writing
from cluster.launch import main
from common.errors import DataError
from common.media import FolderMediaStore
from common.types import Trace

ROOT = Path(__file__).parent.parent
KEYS = ["tools.num_workers=0", "tools.ocr=none", "actor.max_model_len=3000"]
RIGHT = [reasoned(crop(HALF), "It says \\boxed{764}", answer="764", qid=f"q{at}") for at in range(3)]
LOST = reasoned("\\boxed{7}", media={"type": "image", "image": "none.png"})


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that commands run in: sft.json with three conversations and one without its picture, and media/."""
    monkeypatch.chdir(tmp_path)
    Path("media/images").mkdir(parents=True)
    Image.fromarray(plates(0).pixels).save("media/images/plates.png")
    Path("sft.json").write_text(json.dumps([*RIGHT, LOST]))
    return tmp_path


def ask(*more: str, file: str = "sft.json", form: str = "pixel_reasoner") -> list[str]:
    return ["data", "import", file, "--format", form, "--media", "media", "--out", "sets/a", *KEYS, *more]


def shown_by(trace: Trace) -> set[str]:
    return {ref.digest for ref in (*trace.query.images, *(view for turn in trace.turns for view in turn.images))}


def test_a_set_is_written_with_its_media_and_says_what_became_of_each_record(
    desk: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(ask("--json")) == 0
    said = json.loads(capfd.readouterr().out)
    assert (said["num_records"], said["num_traces"], said["dropped"]) == (4, 3, {"no_media": 1})
    assert [path.name for path in Path("sets").iterdir()] == ["a"]
    found = open_set(Path("sets/a"))
    traces = list(found.traces())
    assert [trace.trace_id for trace in traces] == [f"pixel_reasoner/q{at}/imported" for at in range(3)]
    kept = {file.name for file in found.media.glob("??/*")}
    assert kept == set().union(*map(shown_by, traces))  # all that they show, and nothing else
    assert len(FolderMediaStore(found.media).get(traces[0].turns[0].images[0].digest)) == 64 * 64 * 3
    about = json.loads(Path("sets/a/set.json").read_text())
    assert (about["about"]["file"], about["about"]["num_traces"]) == ("sft.json", 3)


def test_what_is_there_is_replaced_only_by_force(desk: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(ask()) == 0
    printed = capfd.readouterr().out
    assert "3 traces of 4 records" in printed and "dropped: no_media" in printed
    before = open_set(Path("sets/a"))
    Path("sft.json").write_text(json.dumps(RIGHT[:1]))
    assert main(ask()) == 2
    assert "--force" in capfd.readouterr().err.splitlines()[-1]
    assert open_set(Path("sets/a")) == before
    assert main(ask("--force")) == 0
    assert open_set(Path("sets/a")).num_traces == 1
    assert [path.name for path in Path("sets").iterdir()] == ["a"]
    Path("sets/a/set.json").unlink()
    assert main(ask("--force")) == 2  # a folder of something else is never replaced
    assert "holds no set of traces" in capfd.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("content", "more", "reason"),
    [
        (None, [], "no such file"),
        ([], [], "holds no records"),
        ([LOST], [], "1 are no_media: is --media"),
        (RIGHT, ["--media", "nowhere"], "no such folder of media"),
        (RIGHT, ["actor.max_model_len=40"], "3 are too_long: raise actor.max_model_len"),
        (RIGHT, ["view.side=32"], "the small model that comes with pixelis sees"),
        (RIGHT, ["model.path=media"], "no config.json"),
        (RIGHT, ["--boxes", "inches"], "invalid choice"),
        (
            [{"prompt": [{"role": "user", "content": "<image>?"}], "images": ["a.png"]}],
            [],
            "no_conversation: questions with answers alone are a data set",
        ),
    ],
)
def test_a_wrong_request_is_one_line_and_leaves_nothing(
    desk: Path, capfd: pytest.CaptureFixture[str], content: Any, more: list[str], reason: str
) -> None:
    Path("sft.json").unlink()
    if content is not None:
        Path("sft.json").write_text(json.dumps(content))
    assert main(ask(*more)) == 2
    said = capfd.readouterr().err.splitlines()[-1]
    assert said.startswith("pixelis: ") and reason in said
    assert not list(Path().glob("sets/**/*"))


def test_a_request_without_its_flags_is_one_line(desk: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "import", "sft.json"]) == 2
    assert "needs one FILE, --format" in capfd.readouterr().err


def test_ctrl_c_leaves_no_half_a_set_and_what_was_there(desk: Path) -> None:
    words = [sys.executable, "-m", "fakes.impatient", "sft.json", "media", "sets/a", *KEYS]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    assert subprocess.run(words, env=environment, check=False).returncode == 128 + signal.SIGINT
    assert not list(Path("sets").iterdir())
    assert main(ask()) == 0
    before = open_set(Path("sets/a"))
    assert subprocess.run(words, env=environment, check=False).returncode == 128 + signal.SIGINT
    assert open_set(Path("sets/a")) == before and list(before.traces())
    assert [path.name for path in Path("sets").iterdir()] == ["a"]


def test_who_interrupts_the_last_part_leaves_what_was_there(desk: Path) -> None:
    assert main(ask()) == 0
    before = open_set(Path("sets/a"))
    with pytest.raises(KeyboardInterrupt), writing(Path("sets/a"), force=True) as writer:
        writer.take([])
        raise KeyboardInterrupt
    assert open_set(Path("sets/a")) == before and list(before.traces())
    assert [path.name for path in Path("sets").iterdir()] == ["a"]


# Parquet


def deepeyes_file(path: Path) -> None:
    """A conversation of DeepEyes' with its picture inside, and a question without a conversation."""
    picture = {"bytes": Path("media/images/plates.png").read_bytes(), "path": None}
    record = looked(zoomed([0, 0, 224, 224]), "<answer>764</answer>", reward_model={"ground_truth": "764"})
    asked = record | {"prompt": record["prompt"][:1]}
    rows = [row | {"images": [picture], "data_source": "vstar", "index": at} for at, row in enumerate((record, asked))]
    pq.write_table(pa.Table.from_pylist(rows), path)


def test_parquet_holds_conversations_and_questions(desk: Path, capfd: pytest.CaptureFixture[str]) -> None:
    deepeyes_file(Path("train.parquet"))
    assert main(ask("--json", file="train.parquet", form="deepeyes")) == 0
    said = json.loads(capfd.readouterr().out)
    assert (said["num_traces"], said["dropped"], said["num_unchecked"]) == (1, {"no_conversation": 1}, 0)
    (trace,) = open_set(Path("sets/a")).traces()
    assert trace.query.question == "Which code?" and trace.level == 1
    pq.write_table(pa.table({"text": ["?"]}), "other.parquet")
    assert main(ask("--force", file="other.parquet")) == 2
    assert "no column message_list or" in capfd.readouterr().err.splitlines()[-1]


# A set that was written


def test_the_seed_alone_fixes_the_order(desk: Path) -> None:
    assert main(ask()) == 0
    sets = open_sets([Path("sets/a")])
    orders = {seed: [trace.trace_id for trace in Shelf(sets, seed).traces(0, 3, level=2)] for seed in range(6)}
    again = [trace.trace_id for trace in Shelf(sets, 3).traces(0, 3, level=2)]
    assert again == orders[3] and len(set(again)) == 3
    one_by_one = [Shelf(sets, 3).traces(at, 1, level=1)[0] for at in range(3)]
    assert sorted(trace.trace_id for trace in one_by_one) == sorted(again)
    assert {trace.level for trace in one_by_one} == {1}
    firsts = {Shelf(sets, seed).traces(0, 1, level=1)[0].trace_id for seed in range(6)}
    assert len(firsts) > 1


def test_a_set_that_was_damaged_or_is_named_twice_is_one_line(desk: Path) -> None:
    assert main(ask()) == 0
    with pytest.raises(DataError, match="the same traces as"):
        open_sets([Path("sets/a"), Path("sets/a")])
    part = Path("sets/a/traces-00000.arrow")
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    with pytest.raises(DataError, match="damaged"):
        list(open_set(Path("sets/a")).traces())
    with pytest.raises(DataError, match="holds no traces"):
        open_set(Path("media"))
