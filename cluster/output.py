"""How a command shows its result: JSON for programs, a table for people."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TextIO

if TYPE_CHECKING:
    from rich.console import RenderableType


class Result(Protocol):
    """What a command shows."""

    def to_json(self) -> dict[str, Any]: ...

    def table(self) -> RenderableType: ...


def show(result: Result, out: TextIO, *, as_json: bool) -> None:
    if as_json:
        json.dump(result.to_json(), out, indent=2, ensure_ascii=False, default=str)
        out.write("\n")
        out.flush()
        return
    from rich.console import Console

    console = Console(file=out)
    if not console.is_terminal:
        console = Console(file=out, width=180)  # a file has no width; tables must not fold
    console.print(result.table())


@contextmanager
def stdout(*, only_json: bool) -> Iterator[TextIO]:
    """Standard output for the result. With only_json everything else that anyone prints, C libraries included, goes
    to stderr.
    """
    if not only_json:
        yield sys.stdout
        return
    sys.stdout.flush()
    kept = os.dup(1)
    before = sys.stdout
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    try:
        with os.fdopen(os.dup(kept), "w", encoding="utf-8") as out:
            yield out
    finally:
        sys.stdout = before
        os.dup2(kept, 1)
        os.close(kept)
