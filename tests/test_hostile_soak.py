"""The long test itself, briefly: it goes on where it stopped, notes what fails, and judges memory."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from actors.tools.config import ToolsConfig
from cluster.benchmarks.soak import Part, Sizes, Soak, State, holds, main, rows, swing, write_rows
from cluster.progress import Silent

CONFIG = ToolsConfig(num_workers=1, num_spares=0, ocr="none")


def soak(folder: Path, sizes: Sizes) -> Soak:
    return Soak(folder, sizes, CONFIG, Silent())


def test_every_part_runs_is_kept_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    first = soak(tmp_path, Sizes(turns=40, files=15, calls=0))
    asyncio.run(first.run())
    assert (first.state.turns.done, first.state.files.done, first.state.calls.done) == (40, 15, 0)
    again = soak(tmp_path, Sizes(turns=40, files=20, calls=30))
    assert again.state == first.state
    asyncio.run(again.run())
    state = again.state
    assert (state.turns.done, state.files.done, state.calls.done) == (40, 20, 30)
    assert sum(state.turns.outcomes.values()) == 40 and sum(state.files.outcomes.values()) == 20
    assert state.turns.failures == state.files.failures == state.calls.failures == {}
    assert set(state.files.outcomes) <= {"picture", "clip", "refused"}
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]


async def test_a_stop_keeps_what_was_done(tmp_path: Path) -> None:
    stopped = soak(tmp_path, Sizes(turns=0, files=10_000, calls=0))
    task = asyncio.create_task(stopped.run())
    while stopped.state.files.done < 5:
        await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    done = stopped.state.files.done
    assert 5 <= done < 10_000 and soak(tmp_path, Sizes()).state.files.done == done


async def test_a_case_that_raises_is_noted_and_the_rest_goes_on(tmp_path: Path) -> None:
    part = Part()

    async def case(number: int) -> str:
        if number == 3:
            raise LookupError("this must not be")
        return "timeout" if number == 5 else "ok"

    await soak(tmp_path, Sizes())._cases(part, 8, case, bad=("timeout",))
    assert part.outcomes == {"ok": 6, "raised": 1, "timeout": 1}
    assert part.failures == {"3": "LookupError: this must not be", "5": "timeout"}
    assert not holds(State(turns=part))


@pytest.mark.parametrize(("samples", "flat"), [([50, 100, 104, 96, 100], True), ([50, 100, 100, 100, 120], False)])
def test_memory_is_judged_after_the_warm_up_and_within_a_stretch(samples: list[float], flat: bool) -> None:
    part = Part(rss_mb=[samples, [300.0, 200.0, 200.0]])
    assert (swing(part) <= 0.1) == flat == holds(State(calls=part))


def test_the_table_replaces_the_one_before_and_nothing_else(tmp_path: Path) -> None:
    page = tmp_path / "measurements.md"
    page.write_text("# Measurements\n\nOther figures.\n")
    state = State(turns=Part(done=7, outcomes={"ok": 7}), calls=Part(done=1, rss_mb=[[100.0, 100.0, 101.0]]))
    write_rows(page, rows(state))
    first = page.read_text()
    assert first.startswith("# Measurements\n\nOther figures.\n") and "| turns | 7 | 0 | ok 7 |" in first
    page.write_text(first + "\n## More\n")
    write_rows(page, rows(State(turns=Part(done=9, outcomes={"ok": 9}))))
    second = page.read_text()
    assert "| turns | 9 |" in second and "| turns | 7 |" not in second and second.endswith("\n## More\n")


def test_a_second_run_of_what_is_complete_prints_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "--turns", "0", "--files", "0", "--calls", "0"]) == 0
    assert "| turns | 0 | 0 |" in capsys.readouterr().out
