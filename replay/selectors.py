"""Selectors: which groups the next draw takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from replay.state import Group


@dataclass(frozen=True, slots=True, kw_only=True)
class Fifo:
    """First in, first out by number of admission.

    in_order: take the lowest numbers and wait while one of them is not ready (what is drawn then depends on no timing);
    otherwise take the lowest numbers among those that are ready.
    """

    in_order: bool = False

    def select(self, groups: Iterable[Group], ready: Callable[[Group], bool], *, count: int) -> list[Group] | None:
        """`count` groups, or None while there are not enough. `groups` come in the order of their numbers."""
        taken: list[Group] = []
        for group in groups:
            if len(taken) == count:
                break
            if ready(group):
                taken.append(group)
            elif self.in_order:
                return None
        return taken if len(taken) == count else None
