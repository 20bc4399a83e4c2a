"""Which tokens of a trace hold the values of a call's arguments, and how well they can be guessed without looking.

A model that writes the grammar but binds nothing to pixels guesses each value from its marginal distribution: the loss
on these tokens then stands at their entropy, while the loss on all tokens looks good because the scaffold is easy. So
both are reported: an `argument_nll` that stays at `argument_entropy` is the signature of failing visual binding.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from common.chat import Chat
from common.seeds import seed_of
from common.types import Turn

Span = tuple[int, int]
_CALL = re.compile(r'<tool_call>[^<]*?"arguments"\s*:\s*\{(?P<body>[^<]*)</tool_call>')
_VALUE = re.compile(r'"(?P<text>(?:[^"\\]|\\.)*)"(?P<key>\s*:)?|-?\d+(?:\.\d+)?|true|false|null')


def values(text: str) -> Iterator[tuple[Span, str]]:
    """Characters [first, last) of each value of the calls' arguments in an assistant's turn, and its slot: the call so
    far with the earlier values left out. Strings are without their quotes; keys and punctuation are no choice."""
    for call in _CALL.finditer(text):
        slot, done = "", call.start()
        for found in _VALUE.finditer(text, call.start("body"), call.end("body")):
            if found["key"] is not None:
                continue
            first, last = found.span("text" if found["text"] is not None else 0)
            slot, done = slot + text[done:first], last
            yield (first, last), slot


def argument_slots(turns: Sequence[Turn], chat: Chat) -> NDArray[np.int64]:
    """A positive number for the slot of each token that holds an argument's value and its place in the value, 0 for the
    others, (token,).

    A turn that does not tokenise back to itself has none: it is not known which token holds what.
    """
    return np.concatenate([np.zeros(0, np.int64), *(_of_turn(turn, chat) for turn in turns)])


def _of_turn(turn: Turn, chat: Chat) -> NDArray[np.int64]:
    slots = np.zeros(len(turn.token_ids), np.int64)
    if turn.role != "assistant":
        return slots
    text = chat.decode(turn.token_ids)
    found = list(values(text))
    if not found or chat.written(text) != tuple(turn.token_ids):
        return slots
    offsets = chat.offsets(text)
    for (start, stop), slot in found:
        touched = [at for at, (first, last) in enumerate(offsets) if first < stop and last > start]
        for place, at in enumerate(touched):
            slots[at] = _number(slot, place)
    return slots


@lru_cache(maxsize=4096)
def _number(slot: str, place: int) -> int:
    """Of the token at `place` (from 0) within the value."""
    return seed_of(0, "slot", slot, place) | 1


class Marginals:
    """How often each token was seen in each slot."""

    def __init__(self) -> None:
        self._counts: dict[int, Counter[int]] = {}

    def add(self, slots: NDArray[np.int64], tokens: NDArray[np.int64]) -> None:
        """Count `tokens` (n,) in their `slots` (n,); slot 0 is none."""
        for slot, token in zip(slots.tolist(), tokens.tolist(), strict=True):
            if slot:
                self._counts.setdefault(slot, Counter())[token] += 1

    def entropy(self) -> float | None:
        """Mean over the counted tokens of −log p(token | slot), p their frequency, in nats; None before any. Too low
        where a slot was seen seldom."""
        total = nats = 0.0
        for counts in self._counts.values():
            whole = sum(counts.values())
            total += whole
            nats -= sum(count * math.log(count / whole) for count in counts.values())
        return nats / total if total else None
