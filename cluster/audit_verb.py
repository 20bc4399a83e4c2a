"""`pixelis audit RUN`: whether the run's replay kept its word.

The learner's side (its checkpoint's cursor, the steps that the metrics tell of) is read first, then the replay, so that
a run that is under way looks like a moment of itself.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import RunFolderError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from replay.audit.audit import Audit
    from replay.audit.lines import Learned

CHECKPOINT = "learner.json"
"""Of a checkpoint's folder (learner/checkpoint.py, which loads torch)."""
_ROWS = 100
"""Violations that the table shows; --json shows all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditResult:
    """An audit, to be shown."""

    audit: Audit

    @property
    def clean(self) -> bool:
        return self.audit.clean

    def to_json(self) -> dict[str, Any]:
        values = dataclasses.asdict(self.audit)
        return values | {"clean": self.clean, "dedupe_ratio": self.audit.media.dedupe_ratio}

    def table(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        audit, balance = self.audit, self.audit.balance
        verdict = "clean" if audit.clean else f"{len(audit.violations)} violations"
        spent = ", ".join(f"{count} {reason}" for reason, count in balance.spent.items() if count)
        lines: list[Any] = [
            Text(f"{audit.folder}: {verdict}", style="bold green" if audit.clean else "bold red"),
            Text(
                f"  {audit.num_segments} segments, {audit.num_bytes:,} bytes, {audit.num_records:,} records; "
                f"{audit.num_draws} draws; {audit.media.num_kept:,} media, {audit.media.num_bytes:,} bytes; "
                f"{audit.num_experiences} experiences"
            ),
            Text(
                f"  {balance.inserted} inserted = {balance.live} live + {sum(balance.spent.values())} spent + "
                f"{balance.expired} expired + {balance.quarantined} quarantined + {balance.erased} erased"
            ),
        ]
        if spent:
            lines.append(Text(f"  spent: {spent}", style="dim"))
        lines += [Text(f"  note: {note}", style="yellow") for note in audit.notes]
        if audit.violations:
            lines.append(self._violations())
        return Group(*lines)

    def _violations(self) -> RenderableType:
        from rich.table import Table

        table = Table("rule", "segment", "byte", "record", "what", header_style="bold")
        shown = self.audit.violations[:_ROWS]
        for item in shown:
            place = ("" if value is None else str(value) for value in (item.byte, item.sequence))
            table.add_row(item.rule, item.segment or "", *place, item.what)
        if len(shown) < len(self.audit.violations):
            table.caption = f"and {len(self.audit.violations) - len(shown)} more; --json lists all"
        return table


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="run", help="the run's folder, or its name under runs/")


def perform(options: argparse.Namespace) -> AuditResult:
    """Raises RunFolderError, one line, where there is no run with a replay, or one of another version."""
    from cluster.runs import named_run, replay_folder
    from replay.audit.audit import audit_replay

    run = named_run(options.folder)
    folder = replay_folder(run)
    if folder == run:
        return AuditResult(audit=audit_replay(folder))
    return AuditResult(audit=audit_replay(folder, learned=read_learned(run), needs_media=True))


def read_learned(run: Path) -> Learned:
    """What the learner's side of a run's folder says. Raises RunFolderError when a file of it cannot be read."""
    from cluster.phases import Phases, RlPhase
    from cluster.runs import read_metrics
    from replay.audit.lines import Learned

    phases = Phases()
    named = (getattr(phases, item.name) for item in dataclasses.fields(phases))
    steps: dict[str, Counter[int]] = {}
    try:
        for row in read_metrics(run):
            steps.setdefault(row["phase"], Counter())[row["step"]] += 1
        cursor = _cursor(run)
    except (ValueError, KeyError, TypeError) as error:
        raise RunFolderError(f"{run}: its metrics or its checkpoint cannot be read ({error!r})") from error
    return Learned(
        phases=frozenset(phase.name for phase in named if isinstance(phase, RlPhase)), cursor=cursor, steps=steps
    )


def _cursor(run: Path) -> tuple[str, int] | None:
    """Phase and steps done of the checkpoint that the run goes on from; None before the first."""
    state_file = run / "state.json"
    state = json.loads(state_file.read_text()) if state_file.exists() else {}
    if "checkpoint" not in state:
        return None
    manifest = run / "checkpoints" / state["checkpoint"] / CHECKPOINT
    if not manifest.exists():  # a run that is under way may just have replaced it
        return state["phase"], int(state["step"])
    values = json.loads(manifest.read_text())["values"]
    return values["phase"], int(values["step"])
