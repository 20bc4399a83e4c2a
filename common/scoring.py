"""Did the answer match the truth? Deterministic scorers, each in [0, 1].

Only these functions see a task's truth. They are rules of the benchmarks they come from; see the docstrings.
"""

from __future__ import annotations

import re

from common.types import Task

_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?")


def score(answer: str | None, task: Task) -> float:
    """The score of `answer` under the task's kind, the best over what the task accepts; an answer that could not be
    read scores 0.
    """
    if answer is None:
        return 0.0
    return max(_score(answer, truth, task.kind) for truth in (task.answer, *task.accepted))


def _score(answer: str, truth: str, kind: str) -> float:
    if kind in ("exact", "choice"):
        return exact(answer, truth)
    if kind == "numeric":
        return mean_relative_accuracy(answer, truth)
    if kind == "near":
        return near(answer, truth)
    return anls(answer, (truth,))


def normalise(text: str) -> str:
    """Lower case, single spaces; numbers of equal value are equal ("7.0" → "7")."""
    text = " ".join(text.lower().split())
    if _NUMBER.fullmatch(text):
        value = float(text)
        return str(int(value)) if value.is_integer() and not (len(text) > 1 and text[0] == "0") else text
    return text


def exact(answer: str, truth: str) -> float:
    return float(normalise(answer) == normalise(truth))


def mean_relative_accuracy(answer: str, truth: str) -> float:
    """MRA = mean over θ in {.50, .55, …, .95} of [|ŷ−y|/|y| ≤ 1−θ] (VSI-Bench's code, arXiv:2412.14171; 0 when y is 0
    and ŷ is not).
    """
    found = _NUMBER.search(answer)
    if found is None:
        return 0.0
    predicted, true = float(found.group()), float(truth)
    if true == 0:
        return float(predicted == 0)
    error = abs(predicted - true) / abs(true)
    return sum(error <= 1 - (0.5 + 0.05 * i) + 1e-9 for i in range(10)) / 10


def near(answer: str, truth: str, *, tolerance: float = 0.05) -> float:
    """1 where |ŷ−y| ≤ tolerance·|y|, else 0: the strictest of MRA's thresholds, which no glance can meet."""
    found = _NUMBER.search(answer)
    if found is None:
        return 0.0
    return float(abs(float(found.group()) - float(truth)) <= tolerance * abs(float(truth)) + 1e-9)


def anls(answer: str, references: tuple[str, ...], *, threshold: float = 0.5) -> float:
    """Average normalised Levenshtein similarity of one question: max over references of 1−NL if NL < threshold, else 0
    (ST-VQA).
    """
    best = 0.0
    for reference in references:
        a, b = normalise(answer), normalise(reference)
        if not a and not b:
            return 1.0
        distance = levenshtein(a, b) / max(len(a), len(b))
        best = max(best, 1 - distance if distance < threshold else 0.0)
    return best


def levenshtein(a: str, b: str) -> int:
    """Edit distance with unit costs."""
    previous = list(range(len(b) + 1))
    for i, left in enumerate(a, 1):
        current = [i]
        for j, right in enumerate(b, 1):
            current.append(min(previous[j] + 1, current[j - 1] + 1, previous[j - 1] + (left != right)))
        previous = current
    return previous[-1]
