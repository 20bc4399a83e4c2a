"""Outcomes of evaluations, complete, with what a test cares about replaced."""

from __future__ import annotations

from typing import Any

from actors.actor import Outcome


def an_outcome(number: int = 0, **changes: Any) -> Outcome:
    """A right answer after ZOOM → OCR, both of which worked; 40 tokens."""
    fields: dict[str, Any] = {
        "task_id": f"t{number}",
        "arm": "learned",
        "family": "tiny_text",
        "kind": "exact",
        "accepted": (),
        "chain": ("ZOOM", "OCR"),
        "score": 1.0,
        "answer": "493",
        "truth": "493",
        "question": "code?",
        "stop_reason": "answer",
        "valid": True,
        "parsed": True,
        "tools": ("ZOOM", "OCR"),
        "num_errors": 0,
        "chained": True,
        "composite": True,
        "begins_with_call": True,
        "num_tokens": 40,
        "version": 3,
        "generate_s": 0.5,
        "tools_s": 0.25,
        "tools_cpu_s": 0.125,
    }
    return Outcome(**(fields | changes))


def outcomes(scores: list[float], **changes: Any) -> tuple[Outcome, ...]:
    """One a score, tasks numbered in order."""
    return tuple(an_outcome(number, score=score, **changes) for number, score in enumerate(scores))
