"""Writers, producers and learners are killed at chosen and at random points: nothing acknowledged is lost, nothing is
drawn too often, and every replay passes its audit. scripts/soak plays all rounds.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from fakes.failpoints import place_of
from fakes.kill_setting import Setting
from fakes.planted import BUGS, NO_BUG
from soak.kills import NUM_IN_CI, run_round

PLAIN = [n for n in range(1000) if (s := Setting.of(n)).theme == "log" and not s.media and s.durability.mode != "os"]
"""Rounds without pictures and index, over a log that is synced."""


def test_kills_break_no_promise(tmp_path: Path) -> None:
    counts = Counter[str]()
    for number in range(NUM_IN_CI):
        (tmp_path / str(number)).mkdir()
        counts.update(run_round(number, tmp_path / str(number)))
    killed = {name: count for name, count in counts.items() if name.startswith("killed")}
    assert counts["rounds"] == NUM_IN_CI and sum(killed.values()) > 5 * NUM_IN_CI
    assert min(killed[f"killed: {who} at random"] for who in ("writer", "producer", "learner")) > 0
    assert len([name for name in killed if name.startswith("killed: in ")]) >= 10


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_noticed(tmp_path: Path, bug: str) -> None:
    with pytest.raises(AssertionError, match=r"(?s)kills round \d+, .*(missing|draw|snapshot)"):
        for number in PLAIN:
            (tmp_path / str(number)).mkdir()
            run_round(number, tmp_path / str(number), bug=bug)


def test_a_disk_that_drops_what_was_not_synced_costs_nothing_that_was_promised(tmp_path: Path) -> None:
    for number in PLAIN[:2]:
        (tmp_path / str(number)).mkdir()
        run_round(number, tmp_path / str(number), bug=NO_BUG)


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("log/00000003.segment", "segment"),
        ("log/.aside-00000003", "new segment"),
        ("log/.aside-00000003.segment", "rewritten segment"),
        ("log/.aside-00000003.snapshot", "snapshot"),
        ("media/00000000.pack", "pack"),
        ("media/.aside-00000000", "new pack"),
        ("media/.aside-00000000.pack", "rewritten pack"),
        ("media/00000000.index", "pack index"),
        ("index/manifest.json", "neighbours"),
    ],
)
def test_a_place_is_known_by_its_name(path: str, place: str) -> None:
    assert place_of(Path("replay") / path) == place
