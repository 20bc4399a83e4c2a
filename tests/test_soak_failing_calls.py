"""Whichever call to the disk fails, no promise is broken; a full disk is waited for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from fakes.failing_disk import FailingDisk
from fakes.scratch import scratch
from soak.failing_calls import NUM_IN_CI, play_with, run_round

from replay.frames import Bytes


@pytest.fixture
def folder() -> Iterator[Path]:
    with scratch() as found:
        yield found


@pytest.mark.parametrize("number", range(NUM_IN_CI))
def test_no_failing_call_breaks_a_promise(folder: Path, number: int) -> None:
    counts = run_round(number, folder)
    assert counts["went_on"] >= counts["plays"] / 3 and counts["stopped"] > 0, counts  # every short write goes on


def test_a_disk_that_is_full_for_a_moment_is_waited_for(folder: Path) -> None:
    """Which of the calls come while a replay runs depends on threads, so calls are tried until one was waited for."""
    num_calls = play_with(folder / "whole", None, "ENOSPC").num_calls
    outcomes = (play_with(folder / f"{nth}", nth, "ENOSPC") for nth in range(num_calls // 3, num_calls))
    assert any(outcome.failed and not outcome.stopped for outcome in outcomes)


class Liar(FailingDisk):
    """Says of its short write that all of it was written."""

    def write(self, file: int, buffers: Sequence[Bytes]) -> int:
        super().write(file, buffers)
        return sum(map(len, buffers))


def test_a_short_write_that_nobody_finishes_is_found_out(folder: Path) -> None:
    whole = play_with(folder / "whole", None, "short write")
    with pytest.raises(AssertionError):
        for nth in range(whole.num_calls // 3, whole.num_calls):
            play_with(folder / f"{nth}", nth, "short write", disk_type=Liar)
