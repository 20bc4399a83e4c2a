"""Named random streams."""

from __future__ import annotations

from common.seeds import seed_of, stream


def test_streams_are_stable_and_independent_by_name() -> None:
    assert seed_of(0, "tasks", "train") == seed_of(0, "tasks", "train")
    assert len({seed_of(root, name) for root in range(50) for name in ("a", "b")}) == 100
    assert seed_of(0, "tasks") == 6878406458017063291
    assert stream(1, "x").integers(0, 10**9) == stream(1, "x").integers(0, 10**9)
