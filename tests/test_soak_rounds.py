"""scripts/soak: every part is found, goes on where it was stopped, names what was violated, and writes its row."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes.rounds import BEGIN, END, find_parts, main

PART = """
NUM_ROUNDS, NUM_IN_CI = 4, 1
def run_round(number, folder):
    (folder / "file").write_text("left")
    assert number not in {bad}, f"part round {{number}}: it was violated"
    return {{"things": number}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "part.py").write_text(PART.format(bad=[]))
    (tmp_path / "page.md").write_text("# Figures\n\nOthers.\n")
    return tmp_path


def soak(folder: Path, *words: str) -> int:
    words = (*words, "--folder", str(folder / "kept"))
    return main(words, folder=folder / "parts", page=folder / "page.md")


def test_a_part_goes_on_where_it_was_stopped(folder: Path) -> None:
    assert soak(folder, "part", "--rounds", "2") == 0
    [part] = find_parts(folder / "parts", folder / "kept")
    assert list(part.results()) == [0, 1]
    with part.kept.open("a") as file:
        file.write('{"round": 2, "ti')  # the process ended here
    assert soak(folder, "part") == 0
    assert [part.results()[number]["counts"]["things"] for number in range(4)] == [0, 1, 2, 3]
    assert len(part.kept.read_text().splitlines()) == 4
    assert not (folder / "kept" / "part").exists()


def test_other_code_begins_again(folder: Path) -> None:
    soak(folder, "part")
    (folder / "parts" / "part.py").write_text(PART.format(bad=[9]))
    [part] = find_parts(folder / "parts", folder / "kept")
    assert part.results() == {}


def test_the_first_violation_ends_it_and_is_played_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "parts" / "part.py").write_text(PART.format(bad=[2]))
    assert soak(folder, "part") == 1
    said = capsys.readouterr().err
    assert "part round 2: it was violated" in said and "scripts/soak part --round 2" in said
    assert (folder / "kept" / "part" / "file").read_text() == "left"
    assert "| part | 3 of 4 | 1 | things 1 |" in (folder / "page.md").read_text()
    assert soak(folder, "part", "--round", "2") == 1
    [part] = find_parts(folder / "parts", folder / "kept")
    assert len(part.kept.read_text().splitlines()) == 4
    assert soak(folder, "part", "--round", "3") == 0


def test_rows_replace_those_before_and_nothing_else(folder: Path) -> None:
    page = folder / "page.md"
    soak(folder, "part", "--rounds", "1")
    first = page.read_text()
    assert first.startswith("# Figures\n\nOthers.\n") and "| part | 1 of 4 | 0 |" in first
    page.write_text(first.replace(END, f"| other | 7 of 7 | 0 | | 0:01 | |\n{END}") + "\n## More\n")
    soak(folder, "part")
    second = page.read_text()
    assert "| part | 4 of 4 | 0 | things 6 |" in second and "| part | 1 of 4" not in second
    assert "| other | 7 of 7 |" in second and second.count(BEGIN) == 1 and second.endswith("\n## More\n")


def test_parts_are_listed_and_an_unknown_one_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert soak(folder, "--list") == 0
    assert "part: 0 of 4 rounds" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        soak(folder, "another")
    assert ended.value.code == 2
