"""Traces from files in a run: refused before anything starts where this run could not learn from them.

What the sets held is recorded in the run's state, so a run that was stopped goes on with the same traces or not at all.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.config import RunConfig
from cluster.loop import num_kept
from cluster.runs import write_atomically
from common.errors import DataError, RunFolderError

if TYPE_CHECKING:
    from actors.traces.sets import TraceSet

RECORDED = "kept_traces"
"""The key in state.json."""


def share_of_files(config: RunConfig) -> float:
    """The share of the phase's traces that come from files."""
    return config.traces.share if config.traces.files else 0.0


def check_sets(config: RunConfig, model: Path, run: Path) -> None:
    """Nothing, where phase 1 of the run in `run` can learn from the sets of `config`, or need not. Raises UserError,
    one line, where they cannot be read, have other tokens than `model`, are too few, or changed since the run began.
    """
    from actors.traces.sets import form_of, open_sets
    from cluster.factories import build_chat
    from cluster.system import load_state

    state = load_state(run)
    done = any(row["name"] == "sft" for row in state.get("rows", []))
    if done or not config.traces.files or not config.phases.sft.num_steps:
        return
    sets = open_sets(config.traces.files)
    form = form_of(build_chat(config, model), config.view)
    for found in sets:
        found.check(form)
    _check_number(config, sets)
    digests = [found.digest for found in sets]
    if state.get(RECORDED, digests) != digests:
        raise RunFolderError(f"{run} began with other traces than traces.files holds now; add --fresh to start over")
    write_atomically(run / "state.json", json.dumps(state | {RECORDED: digests}, indent=2))


def _check_number(config: RunConfig, sets: Sequence[TraceSet]) -> None:
    total = sum(level.num_traces for level in config.phases.sft.levels)
    held, wanted = sum(found.num_traces for found in sets), num_kept(total, config.traces.share)
    if held < wanted:
        most = math.floor(1000 * held / total) / 1000
        lower = f"set traces.share to {most:g} or less, or " if most else ""
        raise DataError(
            f"traces.share={config.traces.share:g} asks for {wanted} of the {total} traces of phase 1, "
            f"and traces.files hold {held}; {lower}import more"
        )
