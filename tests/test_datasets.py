"""Sets of tasks: one form, whoever wrote it; a broken row costs itself only."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fakes.videos import numbered, write_video
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from actors.tasks.datasets.row import KINDS, RowError, kind_of, row_of, with_options
from actors.tasks.datasets.tasks import DataSet, open_source, read_tasks
from actors.tools.config import MediaLimits
from common.errors import DataError
from common.media import FolderMediaStore, pixels_of
from common.scoring import score
from common.types import Query, Task

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared media beside the project")


def picture(path: Path, value: int = 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((12, 16, 3), value, np.uint8)).save(path)
    return path


def write(path: Path, rows: Sequence[dict[str, Any] | str]) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return path


def read(qa: Path | str, tmp_path: Path, media: Path | None = None, **more: Any) -> tuple[list[Task], list[str]]:
    said: list[str] = []
    store = FolderMediaStore(tmp_path / "store")
    return read_tasks(qa, media, store=store, limits=MediaLimits(), say=said.append, **more), said


# The form


def test_one_row_of_each_kind_of_media_becomes_a_task(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        picture(tmp_path / "media" / name)
    write_video(tmp_path / "media" / "v.mp4", numbered(5))
    qa = write(
        tmp_path / "set.jsonl",
        [
            {"media": "a.png", "question": "How many?", "answer": 3, "id": "x"},
            {"media": ["a.png", "b.png"], "question": "Are both grey?", "answer": True},
            {"media": "v.mp4", "question": "Where?", "answer": ["in New York", "NYC"]},
            {"media": ["a.png", "b.png"], "question": "When?", "answer": "0.5", "times_s": [0, 0.5], "shown": [1]},
        ],
    )
    (one, two, video, frames), said = read(qa, tmp_path, tmp_path / "media")
    assert not said
    assert (one.query.query_id, one.answer, one.kind, len(one.query.images)) == ("x", "3", "exact", 1)
    assert (two.answer, two.kind, len(two.query.images), two.family) == ("true", "choice", 2, "set")
    assert video.query.clip is not None
    assert (len(video.query.clip.frames), video.kind, video.accepted) == (5, "anls", ("NYC",))
    assert frames.query.clip is not None
    assert (frames.query.clip.times_s, frames.query.clip.shown, frames.kind) == ((0.0, 0.5), (1,), "numeric")


def test_every_accepted_answer_is_right() -> None:
    task = Task(
        query=Query(query_id="q", question="?"),
        answer="New York",
        kind="exact",
        family="f",
        split="s",
        accepted=("NYC",),
    )
    assert [score(said, task) for said in ("nyc", "new york", "Boston", None)] == [1, 1, 0, 0]


@pytest.mark.parametrize(
    ("answers", "kind"),
    [(["7"], "exact"), (["-7"], "exact"), (["3.5"], "numeric"), (["Yes"], "choice"), (["FALSE"], "choice"),
     (["dog"], "exact"), (["a dog"], "anls"), (["2", "two"], "exact"), (["25/12/2018"], "exact"), (["1e400"], "exact")],
)  # fmt: skip
def test_an_answers_form_decides_how_it_is_judged(answers: list[str], kind: str) -> None:
    assert kind_of(answers) == kind


def test_of_a_choice_the_option_and_its_letter_are_right() -> None:
    question, answers = with_options("Which?", ("b",), ("cat", "dog"))
    assert question == "Which?\nA. cat\nB. dog"
    assert answers == ("dog", "B")
    assert with_options("Which?", ("A",), ("B", "A"))[1] == ("A",)  # the text comes first, and "B" is another option
    with pytest.raises(RowError, match="none of the options"):
        with_options("Which?", ("cow",), ("cat", "dog"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"question": None}, "no 'question'; it has"), ({"question": " "}, "question is empty"),
     ({"answer": []}, "answers is empty"), ({"answer": {"a": 1}}, "must be a text or a number"),
     ({"answer": float("nan")}, "must be a text or a number"), ({"kind": "f1"}, "one of exact, choice"),
     ({"answer": "many", "kind": "numeric"}, "is no number"), ({"media": []}, "list of media is empty"),
     ({"media": [3]}, "paths or encoded pictures"), ({"times_s": [0, 1]}, "1 rising seconds"),
     ({"shown": [0]}, "without 'times_s'"), ({"options": ["x", "X "]}, "two options are the same"),
     ({"id": [1]}, "must be a text")],
)  # fmt: skip
def test_a_row_that_breaks_the_form_says_how(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(RowError, match=re.escape(reason)):
        row_of({"media": "a.png", "question": "?", "answer": "x"} | change, name="set", number=1)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
KEYS = ("media", "question", "answer", "kind", "options", "id", "family", "split", "chain", "times_s", "shown")


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(KEYS, json_values)))
def test_whatever_a_row_holds_it_is_a_row_or_says_why_not(values: dict[str, Any]) -> None:
    try:
        row = row_of(values, name="set", number=7)
    except RowError as error:
        assert str(error)
    else:
        assert row.kind in KINDS
        assert row.media
        assert all(row.answers)


# Broken rows and wrong files


def test_a_broken_row_costs_itself_and_is_named_by_its_line(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "half.png").write_bytes(picture(tmp_path / "whole.png").read_bytes()[:40])
    (tmp_path / "note.txt").write_text("no picture")
    good = {"media": "a.png", "question": "?", "answer": "x"}
    qa = write(
        tmp_path / "set.jsonl",
        [good, "{not json", "", good | {"media": "gone.png"}, good | {"media": "half.png"},
         good | {"media": "note.txt"}, good | {"media": "../set/a.png"},
         good | {"media": "/etc/hostname"}, good | {"id": "set-1"}, "[1]", good],
    )  # fmt: skip
    tasks, said = read(qa, tmp_path)
    assert [task.query.query_id for task in tasks] == ["set-1", "set-11"]
    assert [line.split(": ")[0] for line in said[:-1]] == [f"set.jsonl:{n}" for n in (2, 4, 5, 6, 7, 8, 9, 10)]
    reasons = ("not JSON", "no such file", "not a whole picture", "neither a picture", "leads out of", "outside the",
               "that of row 1 already", "must be a JSON object")  # fmt: skip
    assert all(reason in line for reason, line in zip(reasons, said, strict=False))
    assert said[-1] == "set.jsonl: 8 of 10 rows were left out"


def test_of_many_broken_rows_twenty_are_named_and_all_are_counted(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    bad = [{"media": "gone.png", "question": "?", "answer": "x"}] * 30
    _, said = read(write(tmp_path / "set.jsonl", [*bad, {"media": "a.png", "question": "?", "answer": "x"}]), tmp_path)
    assert len(said) == 21
    assert said[-1].endswith("30 of 31 rows were left out")


def test_media_enter_the_store_when_their_task_is_drawn(tmp_path: Path) -> None:
    for number in range(4):
        picture(tmp_path / f"{number}.png", number)
    rows = [{"media": f"{number}.png", "question": "?", "answer": "x"} for number in range(4)]
    store = FolderMediaStore(tmp_path / "store")
    drawn = DataSet(open_source(write(tmp_path / "set.jsonl", rows), None)).tasks(store, MediaLimits())
    for number in range(1, 4):
        next(drawn)
        assert len(list(store.root.glob("??/*"))) == number
    tasks, _ = read(tmp_path / "set.jsonl", tmp_path / "other", limit=2)
    assert len(tasks) == len(list((tmp_path / "other" / "store").glob("??/*"))) == 2


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [("gone.jsonl", None, "no such file"), ("set.csv", b"a,b", "name a reader"), ("set.json", b"[]", "jq -c"),
     ("set.parquet", b"PAR1 no", "not a whole Parquet file"), ("set.jsonl", b"", "holds no rows"),
     ("set.jsonl", b"\xff\xfe\n", "none of 1 rows can be used; the first: not")],
)  # fmt: skip
def test_a_wrong_file_says_what_to_change(tmp_path: Path, name: str, content: bytes | None, reason: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=re.escape(reason)):
        read(tmp_path / name, tmp_path)


def test_a_folder_of_several_sets_asks_which(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        write(tmp_path / name, [])
    with pytest.raises(DataError, match=r"a\.jsonl, b\.jsonl; name one"):
        read(tmp_path, tmp_path)
    with pytest.raises(DataError, match="no such folder of media"):
        read(tmp_path / "a.jsonl", tmp_path, tmp_path / "none")


# Parquet, and the sets of others


def test_parquet_holds_paths_or_pictures(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 7)
    data = (tmp_path / "a.png").read_bytes()
    media = [{"bytes": data, "path": None}, {"bytes": None, "path": "a.png"}]
    pq.write_table(
        pa.table({"media": media, "question": ["?", "!"], "answer": ["x", "y"], "more": [1, 2]}), tmp_path / "s.parquet"
    )
    tasks, said = read(tmp_path / "s.parquet", tmp_path)
    assert not said
    assert tasks[0].query.images == tasks[1].query.images
    assert pixels_of(FolderMediaStore(tmp_path / "store"), tasks[0].query.images[0])[0, 0, 0] == 7
    pq.write_table(pa.table({"image": ["a.png"], "question": ["?"]}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match="no column 'media'; it has image, question"):
        read(tmp_path / "t.parquet", tmp_path)


def asked(number: int, **changes: Any) -> dict[str, Any]:
    """A row as VeRL keeps it, and DeepEyes publishes."""
    told = "\nThink first, call **image_zoom_in_tool** if needed, then answer. Format strictly as: <think>"
    buffer = io.BytesIO()
    Image.fromarray(np.full((5, 6, 3), number, np.uint8)).save(buffer, "PNG")
    return {
        "data_source": "vstar",
        "prompt": [
            {"role": "system", "content": "You have tools."},
            {"role": "user", "content": f"<image>\nWhich of {number}?{told}"},
        ],
        "images": [{"bytes": buffer.getvalue(), "path": None}],
        "ability": "vqa",
        "reward_model": {"ground_truth": "no parking here", "style": "model"},
        "extra_info": {"index": 0, "split": "train", "answer": "another answer"},
    } | changes


def test_rows_of_verls_form_are_tasks(tmp_path: Path) -> None:
    apart = {"index": 0, "split": "test", "question": "<image>What?", "answer": "7"}
    rows = [asked(1), asked(2, extra_info=apart, reward_model={"ground_truth": None, "style": "rule"})]
    rows[0]["extra_info"] |= {"question": None}  # the file's columns come from its first row
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    (one, two), said = read(tmp_path, tmp_path)
    assert not said
    assert (one.query.question, one.answer, one.kind) == ("Which of 1?", "no parking here", "anls")
    assert (one.family, one.split, one.query.query_id) == ("vstar", "train", "train-1")
    assert pixels_of(FolderMediaStore(tmp_path / "store"), one.query.images[0])[0, 0, 0] == 1
    assert (two.query.question, two.answer, two.kind, two.split) == ("What?", "7", "exact", "test")


def test_lines_of_verls_form_name_their_pictures_and_say_what_they_lack(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    good = asked(1, images=["a.png"])
    lines = [good, good | {"reward_model": None, "extra_info": None}, good | {"prompt": []}, good | {"images": None}]
    tasks, said = read(write(tmp_path / "set.jsonl", lines), tmp_path)
    assert len(tasks) == 1 and tasks[0].query.images[0].width == 16
    wanted = ("no 'answer'", "no 'question'", "no 'media'")
    assert all(reason in line for reason, line in zip(wanted, said, strict=False))
    # Our own columns win where a row has both.
    ours = good | {"media": "a.png", "question": "Ours?", "answer": "x"}
    assert read(write(tmp_path / "ours.jsonl", [ours]), tmp_path)[0][0].query.question == "Ours?"


def test_easy_vqa_is_read_from_its_package(tmp_path: Path) -> None:
    pytest.importorskip("easy_vqa", reason="the package easy-vqa is not installed")
    rows = list(DataSet(open_source("easy-vqa", None)).rows())
    assert len(rows) == 9673
    tasks, said = read("easy-vqa/train", tmp_path, limit=20)
    assert not said
    assert tasks[0].query.question == "what is the blue shape?"
    assert (tasks[0].answer, tasks[0].query.images[0].width) == ("rectangle", 64)
    assert {task.family for task in tasks} == {f"easy-vqa {about}" for about in ("shape", "colour", "yes or no")}
    with pytest.raises(DataError, match="no split 'dev'"):
        read("easy-vqa/dev", tmp_path)


def test_a_saved_hugging_face_set_is_read_without_decoding_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets", reason="the extra `datasets` is not installed")
    buffer = io.BytesIO()
    Image.fromarray(np.full((5, 6, 3), 9, np.uint8)).save(buffer, "PNG")
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "question": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
        }
    )
    values = {
        "image": [{"bytes": data, "path": None} for data in (buffer.getvalue(), b"broken")],
        "question": ["what?"] * 2,
        "label": [1, 0],
    }
    made = datasets.Dataset.from_dict(values, features=features)
    datasets.DatasetDict({"train": made, "test": made}).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(DataError, match="several splits; name one"):
        read(tmp_path / "saved", tmp_path)
    tasks, said = read(tmp_path / "saved" / "test", tmp_path)
    assert [(task.answer, task.query.images[0].width) for task in tasks] == [("dog", 6)]
    assert "test:2: picture 1: not a whole picture" in said[0]
    with pytest.raises(DataError, match="cannot open it"):
        read("hf:nobody/nothing@test", tmp_path)
    pictures = datasets.Features({"images": datasets.List(datasets.Image())})
    foreign = datasets.Dataset(pa.Table.from_pylist([asked(3)]))
    foreign.cast(datasets.Features(foreign.features | pictures)).save_to_disk(str(tmp_path / "verl"))
    (task,), said = read(tmp_path / "verl", tmp_path)
    assert (task.query.question, task.answer, said) == ("Which of 3?", "no parking here", [])


@needs_shared
def test_statements_about_pictures_and_receipts_are_read(tmp_path: Path) -> None:
    statements, said = read(SHARED / "nlvr" / "dev_qa.jsonl", tmp_path, SHARED, limit=40)
    assert not said
    assert {(task.kind, task.answer) for task in statements if task.query.question.startswith("True")} == {
        ("choice", "true"),
        ("choice", "false"),
    }
    receipts, said = read(SHARED / "sroie" / "qa.jsonl", tmp_path, SHARED, limit=3)
    assert not said
    assert [task.kind for task in receipts] == ["anls"] * 3
    assert score("book ta .k (taman daya) sdn bhd", receipts[2]) == 1


# A reader of one's own


def test_the_reader_in_the_documents_works(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "datasets.md").read_text(), re.S)
    (tmp_path / "photos.py").write_text(code)
    picture(tmp_path / "pictures" / "a.png")
    (tmp_path / "photos.csv").write_text("photo,ask,label\na.png,Which animal?,cat|kitten\n")
    tasks, said = read(
        tmp_path / "photos.csv", tmp_path, tmp_path / "pictures", reader=f"{tmp_path / 'photos.py'}:Photos"
    )
    assert not said
    assert (tasks[0].query.question, tasks[0].answer, tasks[0].accepted) == ("Which animal?", "cat", ("kitten",))


@pytest.mark.parametrize(
    ("name", "reason"),
    [("nothing", "write package.module:Class"), ("no_such_package:X", "cannot be imported"),
     ("gone.py:X", "cannot be imported"), ("json:Missing", "has no class Missing")],
)  # fmt: skip
def test_a_reader_that_is_not_there_is_one_line(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(DataError, match=re.escape(reason)):
        read(write(tmp_path / "set.jsonl", []), tmp_path, reader=name)
