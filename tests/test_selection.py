"""Which weights a phase ends with, also when the run was killed on the way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.phases import ImitationLevel, SftPhase
from cluster.selection import Hands, Selection

LEVELS = (ImitationLevel(num_plates=(1, 2), num_traces=4, num_steps=10),)


class FakeRun:
    """A learner whose weights are the number of steps it took, and the run's folder. What is not in `state` and
    `folders` dies with a kill."""

    def __init__(self, accuracy: Sequence[float], folder: Path, every: int = 2) -> None:
        self.phase = SftPhase(levels=LEVELS, validate_every=every, validate_tasks=8)
        self.accuracy = accuracy
        self.folder = folder
        self.state: dict[str, Any] = {}
        self.weights = 0
        self.validated: list[int] = []

    def selection(self) -> Selection:
        async def validate(step: int) -> float:
            assert step == self.weights
            self.validated.append(step)
            return self.accuracy[step]

        async def keep(folder: Path) -> None:
            folder.mkdir(parents=True)
            (folder / "weights").write_text(str(self.weights))

        async def go_back(folder: Path) -> None:
            self.weights = int((folder / "weights").read_text())

        def record(values: dict[str, Any]) -> None:
            self.state = json.loads(json.dumps(values))

        hands = Hands(validate=validate, keep=keep, go_back=go_back, record=record)
        return Selection(self.phase, hands, folder=self.folder, recorded=self.state)

    async def _train(self, first_step: int, last_step: int) -> str:
        self.weights = first_step
        selection = self.selection()
        await selection.look(first_step)
        for step in range(first_step + 1, last_step + 1):
            self.weights = step
            await selection.look(step)
        return await selection.choose() if last_step == self.phase.num_steps else ""

    def train(self, first_step: int = 0, last_step: int = 10) -> str:
        return asyncio.run(self._train(first_step, last_step))


def a_run(folder: Path, accuracy: dict[int, float], every: int = 2) -> FakeRun:
    return FakeRun([accuracy.get(step, 0.0) for step in range(11)], folder, every)


def test_the_best_weights_are_held_at_the_end_and_it_says_why(tmp_path: Path) -> None:
    run = a_run(tmp_path, {2: 0.1, 4: 0.5, 6: 0.75, 8: 0.25, 10: 0.5})
    why = run.train()
    assert run.weights == 6
    assert why == "after step 6 of 10: accuracy 0.750 with tools on 8 tasks of validation, the best of 5"
    assert run.state["best"] == 6
    assert run.state["why"] == why
    assert [folder.name for folder in tmp_path.iterdir()] == ["step-000006"]


def test_of_equals_the_later_is_held_and_the_last_step_is_always_asked(tmp_path: Path) -> None:
    run = a_run(tmp_path, {4: 0.5, 8: 0.5, 10: 0.5}, every=4)
    run.train()
    assert run.validated == [4, 8, 10]
    assert run.weights == 10


def test_without_validation_the_last_weights_are_held_and_nothing_is_asked(tmp_path: Path) -> None:
    run = a_run(tmp_path, {4: 1.0}, every=0)
    assert run.train() == ""
    assert (run.weights, run.validated, run.state) == (10, [], {})
    assert list(tmp_path.iterdir()) == []


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=11, max_size=11), st.integers(1, 5), st.data())
def test_a_killed_run_goes_on_to_the_same_choice_and_asks_nothing_twice(
    tmp_path_factory: pytest.TempPathFactory, accuracy: list[float], every: int, data: st.DataObject
) -> None:
    whole = FakeRun(accuracy, tmp_path_factory.mktemp("whole"), every)
    expected = whole.train()
    killed = FakeRun(accuracy, tmp_path_factory.mktemp("killed"), every)
    reached = data.draw(st.integers(0, 10))
    killed.train(0, min(reached, 9))
    saved = data.draw(st.integers(0, min(reached, 9)))  # the checkpoint lies at or before where it was killed
    assert killed.train(saved) == expected
    assert killed.weights == whole.weights
    assert killed.state == whole.state
    assert sorted(killed.validated) == whole.validated


def test_a_validation_split_that_is_learned_from_or_reported_on_is_refused() -> None:
    for split in ("train", "test"):
        with pytest.raises(ValueError, match="validate_split"):
            SftPhase(validate_split=split)
    with pytest.raises(ValueError, match="validate_every"):
        SftPhase(validate_every=-1)
