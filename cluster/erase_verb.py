"""`pixelis log erase RUN --source NAME`: take everything of a source out of a run's replay, for good.

What will go is shown on stderr first, and nothing goes before somebody said yes.
"""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import DataError, LogLocked, RunFolderError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from replay.erasure import Erasure, Foreseen


@dataclass(frozen=True, slots=True, kw_only=True)
class ErasureResult:
    """An erasure, to be shown. run: as the command line named it."""

    run: str
    foreseen: Foreseen
    erasure: Erasure

    @property
    def see(self) -> str:
        """The command that lists what is left of it."""
        return f"pixelis log cat {self.run} --kind erase,erased,tombstone"

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self.foreseen) | dataclasses.asdict(self.erasure) | {"see": self.see}

    def table(self) -> RenderableType:
        done = self.erasure
        return (
            f"erased: {done.num_rollouts:,} rollouts ({done.num_records:,} records) and {done.num_media:,} pictures\n"
            f"  what stands in their place: {self.see}\n"
            "  snapshots and the neighbour index are made again from the log; the run's reports, traces and weights "
            "are not touched"
        )


def erase(folder: Path, source: str, *, run: str, ask: bool) -> ErasureResult:
    """Erase `source` from the replay in `folder`. Raises RunFolderError while a run writes it, DataError when nobody
    said yes, UserError when there is nothing of it.
    """
    from replay.erasure import erase_source, foresee

    try:
        foreseen = foresee(folder, source)
        if ask:
            _ask(folder, source, foreseen)
        return ErasureResult(run=run, foreseen=foreseen, erasure=erase_source(folder, source))
    except LogLocked as error:
        raise RunFolderError(f"{folder} is being written by a run; stop it first") from error


def _ask(folder: Path, source: str, going: Foreseen) -> None:
    print(
        f"{folder}: of {source}, {going.num_rollouts:,} rollouts, {going.num_experiences:,} experiences and "
        f"{going.num_votes:,} votes will go ({going.num_bytes:,} bytes), out of {going.num_draws:,} draws, with "
        f"{going.num_media:,} pictures ({going.media_bytes:,} bytes). This cannot be undone. Erase? [yes/no] ",
        end="",
        file=sys.stderr,
        flush=True,
    )
    answer = sys.stdin.readline().strip().lower()
    if answer not in ("y", "yes"):
        raise DataError("nothing was erased" if answer else "nothing was erased: nobody answered; add --yes")
