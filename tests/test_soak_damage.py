"""Every flipped bit and every cut of a log, a pack and a snapshot is seen; what would hide one is found out."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.scratch import scratch
from soak.damage import (
    NUM_IN_CI,
    a_sealed_log,
    an_unsealed_log,
    check_cuts,
    check_flips,
    check_open_flips,
    run_round,
)

from replay.frames import ALIGN, pack_frame
from replay.segments import Contents, read_frames, read_segments, segment_paths


@pytest.fixture
def folder() -> Iterator[Path]:
    with scratch() as found:
        yield found


@pytest.mark.parametrize("number", range(NUM_IN_CI))
def test_damage_is_seen_wherever_it_is(folder: Path, number: int) -> None:
    counts = run_round(number, folder / "round")
    assert all(count > 50 for count in counts.values()), counts


def test_records_that_vouch_for_no_earlier_ones_are_found_out(folder: Path) -> None:
    """Without num_durable, damage to an acknowledged record would pass for a torn tail."""
    marks = an_unsealed_log(folder)
    check_open_flips(folder, marks, 0, 512)
    [segment] = segment_paths(folder)
    chain, frames = 0, [segment.read_bytes()[:ALIGN]]
    for frame in read_frames(folder):
        header, padding, chain = pack_frame(frame.kind, frame.sequence, 0, frame.body, chain)
        frames += [header, bytes(frame.body), padding]
    segment.write_bytes(b"".join(frames))
    with pytest.raises(AssertionError, match="are cut, though later ones vouch for them"):
        check_open_flips(folder, marks, 0, 512)


def test_an_acknowledgement_that_came_too_early_is_found_out(folder: Path) -> None:
    marks = an_unsealed_log(folder)
    early = [(size - ALIGN, records) for size, records in marks]
    with pytest.raises(AssertionError, match="cut at"):
        check_cuts(folder, early, 0, 1)


def test_a_reader_that_overlooks_damage_is_found_out(folder: Path) -> None:
    asyncio.run(a_sealed_log(folder))

    def blind(log: Path) -> Contents:
        """Sees what is wrong with headers of frames, and never looks at a body."""
        found = read_segments(log)
        return replace(found, losses=tuple(loss for loss in found.losses if not loss.kinds))

    with pytest.raises(AssertionError, match=r"bit \d+ of .* is not seen"):
        check_flips(folder / "log", 0, read=blind)
