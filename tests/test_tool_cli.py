"""`pixelis tool`: one call through the real toolbox; what it prints, draws, and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from fakes.tools import plates

from actors.tasks.config import WorldConfig
from actors.tasks.source import TaskSource
from actors.tools.config import MediaLimits
from actors.tools.reference import page
from cluster.config import RunConfig
from cluster.launch import main
from cluster.progress import Progress
from cluster.summary import Answer
from common.media import FolderMediaStore
from common.types import Clip

ROOT = Path(__file__).parent.parent
HERE = "tools.num_workers=0"
"""Calls run in this process, which spares a test the start of a worker."""


@pytest.fixture
def plate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A scene of plates as plate.png, and a folder to write overlays into."""
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    Image.fromarray(plates(0).pixels).save("plate.png")
    return tmp_path / "plate.png"


def pixels(path: Path) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(path).convert("RGB"))


def middle_of(box: tuple[int, int, int, int]) -> list[float]:
    return [(box[0] + box[2]) / 2 * 1000 / 448, (box[1] + box[3]) / 2 * 1000 / 448]


def test_a_segment_is_printed_and_drawn_over_the_picture(plate: Path, capfd: pytest.CaptureFixture[str]) -> None:
    scene = plates(0)
    x0, y0, _, y1 = scene.boxes[0]
    point = [(x0 + 4) * 1000 / 448, (y0 + 4) * 1000 / 448]
    assert main(["tool", "SEG", "plate.png", json.dumps({"point": point}), HERE]) == 0
    printed = capfd.readouterr().out
    assert "mask: mask_1" in printed and "overlay: plate.seg.png" in printed
    before, after = pixels(plate), pixels(plate.with_name("plate.seg.png"))
    assert after.shape == before.shape
    changed = (before != after).any(axis=2)
    assert changed[y0 + 8 : y1 - 8, x0 + 2 : x0 + 5].mean() > 0.5  # the plate is tinted
    assert changed.mean() < 0.3  # and little else is


def test_json_is_alone_and_a_chain_shares_names(plate: Path, capfd: pytest.CaptureFixture[str]) -> None:
    x0, y0, x1, y1 = (value * 1000 / 448 for value in plates(0).boxes[0])
    calls = [{"box": [x0, y0, x1, y1]}, {"mask": "mask_1"}]
    assert main(["tool", "SEG,PROP", str(plate), json.dumps(calls), "--json", HERE]) == 0
    first, second = json.loads(capfd.readouterr().out)["calls"]
    assert first["observation"]["mask"] == "mask_1" and first["error"] is None
    assert second["observation"]["colour"] == plates(0).colours[0]
    assert second["observation"]["area"] == first["observation"]["area"]
    assert not list(plate.parent.glob("*.seg*.png"))  # with --json an overlay is written only where --out asks for one


@pytest.mark.system
def test_a_worker_gives_the_same_result_as_this_process(plate: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["tool", "PROP", "plate.png", '{"image":"image_1","box":[0,0,500,500]}', "--json"]
    results = []
    for more in ([], [HERE]):
        assert main([*words, *more]) == 0
        results.append(json.loads(capfd.readouterr().out))
    assert results[0]["digest"] == results[1]["digest"]


def test_an_error_observation_is_printed_and_status_1(plate: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["tool", "ZOOM,SEG", "plate.png", '[{"box":[500,500,100,100]},{"point":[1,1]}]', "--json", HERE]) == 1
    (only,) = [json.loads(capfd.readouterr().out)]
    assert only["error"] == "empty_box" and only["observation"]["error"] == "empty_box"
    assert "calls" not in only  # the chain ended at its first call


def test_a_video_is_a_clip_of_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    write_video(tmp_path / "move.mp4")
    monkeypatch.chdir(tmp_path)
    box = [0, 375, 313, 688]
    calls = json.dumps([{"box": box}, {"track": "track_1"}])
    assert main(["tool", "TRK,PROP", "move.mp4", calls, "--json", "--out=t.png", HERE]) == 0
    tracked, measured = json.loads(capfd.readouterr().out)["calls"]
    assert tracked["observation"]["track"] == "track_1"
    assert measured["observation"]["stop"][0] > measured["observation"]["start"][0] + 200
    assert pixels(tmp_path / "t.png").shape[1] > 128  # frames stand side by side


class Asked:
    """Verbs of which only `ask` is asked."""

    def __init__(self) -> None:
        self.files: list[Path] = []

    async def ask(self, config: RunConfig, *, picture: Path, question: str, progress: Progress) -> Answer:
        self.files.append(picture)
        return Answer(picture=picture.name, question=question, answer="right")


def test_a_question_may_be_about_a_video_and_a_torn_one_is_refused_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_video(tmp_path / "move.mp4")
    (tmp_path / "torn.mp4").write_bytes((tmp_path / "move.mp4").read_bytes()[:900])
    verbs = Asked()
    assert main(["ask", str(tmp_path / "move.mp4"), "where to?"], verbs) == 0  # type: ignore[arg-type]
    assert verbs.files == [tmp_path / "move.mp4"]
    assert main(["ask", str(tmp_path / "torn.mp4"), "where to?"], verbs) == 2  # type: ignore[arg-type]
    assert len(verbs.files) == 1 and "torn.mp4" in capsys.readouterr().err


async def test_the_frames_of_a_video_are_what_the_policy_is_asked_about(tmp_path: Path) -> None:
    write_video(tmp_path / "move.mp4")
    source = TaskSource(WorldConfig(), FolderMediaStore(tmp_path / "media"))
    clip = source.media(tmp_path / "move.mp4", MediaLimits(num_shown=4))
    assert isinstance(clip, Clip) and len(clip.frames) == 12 and clip.shown == (0, 4, 7, 11)


def write_video(path: Path) -> None:
    """A textured square that moves right, 12 frames of 128×128 at 4 a second."""
    import av

    texture = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=4)
        stream.width = stream.height = 128
        stream.bit_rate = 4_000_000
        for index in range(12):
            frame = np.full((128, 128, 3), 120, np.uint8)
            frame[52:84, 4 + 6 * index : 36 + 6 * index] = texture
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["SEG", "plate.png", "{"], "the arguments are not JSON"),
        (["SEG", "plate.png", '{"point":[NaN,1]}'], "the arguments are not JSON"),
        (["SEG", "plate.png", '{"point":[1,1],"point":[2,2]}'], "the arguments are not JSON"),
        (["SEG", "plate.png", "[1]"], "SEG takes a JSON object"),
        (["SEG,PROP", "plate.png", "{}"], "SEG,PROP takes a JSON list of 2 objects"),
        (["JUMP", "plate.png", "{}"], "no tool 'JUMP'; there are ZOOM, SEG, TRK, OCR, TEMP, PROP"),
        (["SEG", "nothing.png", "{}"], "nothing.png: no such file"),
        (["SEG", "empty.png", "{}"], "empty.png: the file is empty"),
        (["SEG", "text.png", "{}"], "text.png: "),
        (["SEG", "plate.png"], "needs a tool, a file and arguments"),
        (["SEG", "plate.png", "{}", "tools.deadline=3"], "tools.deadline: no such key; did you mean tools.deadline_s?"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    words: list[str], line: str, plate: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (plate.parent / "empty.png").write_bytes(b"")
    (plate.parent / "text.png").write_text("this is no picture")
    assert main(["tool", *words]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    assert printed.err.startswith(f"pixelis: {line}")


def test_an_overlay_that_cannot_be_written_is_one_line(plate: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["tool", "PROP", "plate.png", '{"image":"image_1"}', "--out=/nowhere/at/all.png", HERE]
    assert main(words) == 2
    assert "/nowhere/at/all.png: the overlay cannot be written" in capsys.readouterr().err


def test_the_page_about_the_tools_is_up_to_date(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tool", f"--docs={tmp_path / 'tools.md'}"]) == 0
    assert (tmp_path / "tools.md").read_text(encoding="utf-8") == page()
    assert (ROOT / "docs" / "tools.md").read_text(encoding="utf-8") == page(), "run `pixelis tool --docs`"
