"""Scorers against published cases (ANLS: ST-VQA; MRA: VSI-Bench's code) and a brute-force edit distance."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.scoring import anls, exact, levenshtein, mean_relative_accuracy, score
from common.types import Query, Task


@pytest.mark.parametrize(
    ("answer", "references", "expected"),
    [
        ("lions", ("Lion",), 0.8),
        ("43", ("42",), 0.0),
        ("42", ("42%",), 2 / 3),
        ("", ("cat",), 0.0),
        ("nyc", ("New York", "NYC"), 1.0),
        (" lion ", ("lion",), 1.0),
    ],
)
def test_anls_is_the_strict_official_one(answer: str, references: tuple[str, ...], expected: float) -> None:
    assert anls(answer, references) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("answer", "truth", "expected"),
    [("10", "10", 1.0), ("9.5", "10", 1.0), ("9", "10", 0.9), ("3", "4", 0.6), ("5", "10", 0.1), ("15", "10", 0.1),
     ("4.9", "10", 0.0), ("20", "10", 0.0), ("1.9", "2", 1.0), ("none", "2", 0.0)],
)  # fmt: skip
def test_mean_relative_accuracy_counts_thresholds_met(answer: str, truth: str, expected: float) -> None:
    assert mean_relative_accuracy(answer, truth) == pytest.approx(expected)


def test_numbers_of_equal_value_are_equal_but_codes_with_a_leading_zero_are_not() -> None:
    assert exact("7.0", "7") == 1
    assert exact("Left ", "left") == 1
    assert exact("049", "49") == 0


def test_an_answer_that_could_not_be_read_scores_zero() -> None:
    task = Task(query=Query(query_id="q", question="?"), answer="None", kind="exact", family="f", split="test")
    assert score(None, task) == 0


@given(st.text("abc", max_size=6), st.text("abc", max_size=6))
def test_edit_distance_agrees_with_its_recursive_definition(a: str, b: str) -> None:
    @cache
    def distance(i: int, j: int) -> int:
        if i == 0 or j == 0:
            return i + j
        return min(distance(i - 1, j) + 1, distance(i, j - 1) + 1, distance(i - 1, j - 1) + (a[i - 1] != b[j - 1]))

    assert levenshtein(a, b) == distance(len(a), len(b))
