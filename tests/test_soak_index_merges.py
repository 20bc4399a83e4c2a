"""A slice of tests/soak/index_merges."""

from __future__ import annotations

from pathlib import Path

from soak.index_merges import LIVES, NUM_IN_CI, run_round


def test_whenever_its_process_ends_the_index_finds_what_the_log_says(tmp_path: Path) -> None:
    counts: dict[str, int] = {}
    for number in range(NUM_IN_CI):
        for name, count in run_round(number, tmp_path / str(number)).items():
            counts[name] = counts.get(name, 0) + count
    assert counts["lives"] == NUM_IN_CI * LIVES
    assert min(counts["killed"], counts["merges"], counts["loaded"]) >= NUM_IN_CI
