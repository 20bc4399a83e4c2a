"""`pixelis reenact`: execute every call of a run's recorded rollouts again and compare what comes back.

The run's log says what was called, its kept media what was looked at, its manifest which tools and back ends were
configured. A toolbox without any cache executes the calls anew, names resolving as they did then, and the digest of
each observation (tool, version, back end, result) is compared with the recorded one. The tools are deterministic on one
machine, so equal digests are the rule. Elsewhere floating point may differ in the last bits: then numbers may differ by
`TOLERANCE` of themselves (of 1, where they are smaller) and pictures by as much of their range on average, and
everything else must be equal. A call that ran out of time or died then proves nothing, so it is counted apart.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from actors.tools.cache import Forgetful
from actors.tools.catalogue import describe_back_ends, furnish
from actors.tools.config import ToolsConfig
from actors.tools.pool import WorkerPool
from actors.tools.runners import InProcess
from actors.tools.toolbox import Toolbox
from cluster.progress import Progress
from cluster.runs import read_manifest
from cluster.strict import convert
from cluster.tool_verb import live_base
from common.errors import MediaError, RunFolderError, UserError
from common.media import FolderMediaStore, MediaSource, content_digest, pixels_of
from common.schema import decode_rollouts
from common.types import ExecutedCall, MediaRef, Observation, Query, Rollout
from replay.packs import PackedMedia
from replay.records import Kind
from replay.segments import read_frames

if TYPE_CHECKING:
    from rich.console import RenderableType

TOLERANCE = 0.01
"""Of a number's size, and of a picture's range on average."""
TRANSIENT = ("timeout", "tool_crashed")
"""Recorded errors that depended on the machine and the moment."""
LIVE_BYTES = 512 * 2**20
"""Pictures kept between rollouts."""


class Verdict(Enum):
    """How a call compares with its record.

    close: within TOLERANCE. transient: it failed then for reasons of the moment. gone: its media are.
    """

    SAME = "same"
    CLOSE = "close"
    TRANSIENT = "transient"
    DIFFERENT = "different"
    GONE = "gone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A call that is not the same. number: from 1 within its rollout. recorded, found: observations' texts."""

    rollout_id: str
    number: int
    tool: str
    verdict: str
    recorded: str
    found: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reenactment:
    """What executing a run's calls again came to. counts: calls by verdict. findings: all that is not the same.

    changed: tools that another back end serves now than in the record, as "then → now".
    """

    run: str
    num_rollouts: int
    counts: Mapping[str, int]
    findings: tuple[Finding, ...]
    changed: Mapping[str, str]
    tolerance: float = TOLERANCE

    @property
    def holds(self) -> bool:
        """Whether no call came back different, and none could not be executed for want of its media."""
        return not self.counts[Verdict.DIFFERENT.value] and not self.counts[Verdict.GONE.value]

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "holds": self.holds}

    def table(self) -> RenderableType:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        counted = ", ".join(f"{count} {name}" for name, count in self.counts.items() if count) or "no calls"
        head = Text(f"{self.run}: {self.num_rollouts} rollouts; {counted}", style="bold")
        lines: list[Any] = [head]
        for tool, change in self.changed.items():
            lines.append(Text(f"  {tool} is served by another back end: {change}", style="yellow"))
        if self.counts[Verdict.CLOSE.value]:
            lines.append(Text(f"  close: equal within {100 * self.tolerance:g} % of each number", style="dim"))
        if self.counts[Verdict.GONE.value]:
            lines.append(Text("  gone: the run no longer holds the media these calls looked at", style="yellow"))
        if self.findings:
            table = Table("rollout", "call", "tool", "verdict", "recorded", "now", header_style="bold")
            for item in self.findings:
                table.add_row(item.rollout_id, str(item.number), item.tool, item.verdict, item.recorded, item.found)
            lines.append(table)
        return Group(*lines)


async def reenact(folder: Path, rollout_id: str | None, progress: Progress) -> Reenactment:
    """Execute the calls of the run in `folder` again, or of one rollout. Raises UserError, one line.

    Waits for every call; at most as many rollouts at once as the run had tool workers.
    """
    config, recorded_back_ends = recorded_tools(folder)
    total = count_rollouts(folder) if rollout_id is None else 1
    progress.start("reenacting", total)
    counts = dict.fromkeys((verdict.value for verdict in Verdict), 0)
    findings: list[Finding] = []
    done = 0
    with tempfile.TemporaryDirectory(prefix="pixelis-reenact-", dir=live_base()) as live:
        stage = Stage(config, Path(live), PackedMedia(folder / "replay" / "media"))
        try:
            for several in _in_groups(rollouts_of(folder, rollout_id), max(1, config.num_workers)):
                for found in await asyncio.gather(*(stage.play(rollout) for rollout in several)):
                    for verdict, finding in found:
                        counts[verdict.value] += 1
                        findings += [finding] if finding is not None else []
                done += len(several)
                stage.tidy()
                progress.update(done, calls=sum(counts.values()), different=counts[Verdict.DIFFERENT.value])
        finally:
            await stage.close()
    progress.finish()
    if rollout_id is not None and not done:
        raise UserError(f"{folder} holds no rollout {rollout_id}")
    return Reenactment(
        run=str(folder),
        num_rollouts=done,
        counts=counts,
        findings=tuple(findings),
        changed={
            tool: f"{recorded_back_ends[tool]} → {now}"
            for tool, now in stage.back_ends.items()
            if recorded_back_ends.get(tool, now) != now
        },
    )


class Stage:
    """Where recorded rollouts are played again: a toolbox without a cache over a store of its own."""

    def __init__(self, config: ToolsConfig, live: Path, kept: MediaSource) -> None:
        self._live, self._kept = FolderMediaStore(live), kept
        self.back_ends = describe_back_ends(config)
        in_process = config.num_workers == 0
        self._toolbox = Toolbox(
            config=config,
            runner=InProcess(furnish(config, self._live)) if in_process else WorkerPool(config, live),
            cache=Forgetful(store=self._live, num_entries=1),
            back_ends=self.back_ends,
        )

    async def play(self, rollout: Rollout) -> list[tuple[Verdict, Finding | None]]:
        """A verdict a call; turns that held no call have none. After a call that worked then and fails now the names
        of the rest no longer stand for the same, so the rest is different too.
        """
        calls = [(number, done) for number, done in enumerate(rollout.calls, 1) if done.call.name]
        try:
            await asyncio.to_thread(self._fetch, rollout.query)
        except MediaError as error:
            return [(Verdict.GONE, _finding(rollout, n, done, Verdict.GONE, str(error))) for n, done in calls]
        workspace, found = self._toolbox.open(rollout.query), list[tuple[Verdict, Finding | None]]()
        lost = ""
        for number, done in calls:
            if lost:
                found.append((Verdict.DIFFERENT, _finding(rollout, number, done, Verdict.DIFFERENT, lost)))
                continue
            again, after = await self._toolbox.execute(done.call, workspace)
            verdict = self._compare(done.observation, again.observation)
            same = verdict is Verdict.SAME
            found.append((verdict, None if same else _finding(rollout, number, done, verdict, again.observation.text)))
            if done.observation.error is None:
                workspace = after
                lost = "" if again.observation.error is None else f"not executed: call {number} failed"
        return found

    def tidy(self) -> None:
        """Forget pictures beyond LIVE_BYTES; between rollouts nobody needs them."""
        self._live.trim(LIVE_BYTES)

    async def close(self) -> None:
        await self._toolbox.close()

    def _fetch(self, query: Query) -> None:
        """The query's media from what the run kept. Raises MediaError."""
        for ref in (*query.images, *(query.clip.frames if query.clip else ())):
            if ref.digest in self._live:
                continue
            data = self._kept.get(ref.digest)
            if content_digest(data) != ref.digest:
                raise MediaError(f"media {ref.digest[:12]}… is damaged in {self._kept.root}")
            self._live.put(data, kind=ref.kind, width=ref.width, height=ref.height)

    def _compare(self, recorded: Observation, now: Observation) -> Verdict:
        if recorded.digest == now.digest:
            return Verdict.SAME
        if recorded.error in TRANSIENT:
            return Verdict.TRANSIENT
        if recorded.error != now.error or not near(json.loads(recorded.text), json.loads(now.text)):
            return Verdict.DIFFERENT
        return Verdict.CLOSE if self._alike(recorded.image, now.image) else Verdict.DIFFERENT

    def _alike(self, recorded: MediaRef | None, now: MediaRef | None) -> bool:
        """Whether two pictures differ by TOLERANCE of the range on average, at most."""
        if recorded is None or now is None or recorded.digest == now.digest:
            return (recorded is None) == (now is None)
        if (recorded.width, recorded.height) != (now.width, now.height) or recorded.digest not in self._kept:
            return False
        before, after = pixels_of(self._kept, recorded), pixels_of(self._live, now)
        return float(np.abs(before.astype(np.int16) - after).mean()) <= 255 * TOLERANCE


def near(a: Any, b: Any) -> bool:
    """Whether two JSON values are equal but for numbers within TOLERANCE."""
    if isinstance(a, bool) or isinstance(b, bool) or not isinstance(a, int | float | list | dict):
        return type(a) is type(b) and bool(a == b)
    if isinstance(a, int | float):
        return isinstance(b, int | float) and abs(a - b) <= TOLERANCE * max(1.0, abs(a), abs(b))
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(near, a, b))
    return isinstance(b, dict) and a.keys() == b.keys() and all(near(a[key], b[key]) for key in a)


def recorded_tools(folder: Path) -> tuple[ToolsConfig, dict[str, str]]:
    """The run's tools as configured, and what served them where the run says so. Raises UserError, one line."""
    manifest = read_manifest(folder)
    if manifest is None:
        raise RunFolderError(f"{folder} holds no run")
    file = folder / "summary.json"
    summary: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    values = manifest.get("config") or summary.get("config")
    if not values:
        raise RunFolderError(f"{folder} does not say how its tools were configured; an older version made it")
    return convert(values["tools"], ToolsConfig), summary.get("back_ends") or {}


def count_rollouts(folder: Path) -> int:
    """How many rollouts the run's log holds."""
    return sum(frame.kind == Kind.ROLLOUT for frame in read_frames(_log(folder)))


def rollouts_of(folder: Path, rollout_id: str | None) -> Iterator[Rollout]:
    """The recorded rollouts, or the one named, in the order of the log."""
    for frame in read_frames(_log(folder)):
        if frame.kind != Kind.ROLLOUT:
            continue
        (rollout,) = decode_rollouts(bytes(frame.body))
        if rollout_id in (None, rollout.rollout_id):
            yield rollout


def _log(folder: Path) -> Path:
    log = folder / "replay" / "log"
    if not log.is_dir():
        raise RunFolderError(f"{folder} holds no recorded rollouts (no replay/log)")
    return log


def _in_groups(rollouts: Iterator[Rollout], size: int) -> Iterator[Sequence[Rollout]]:
    group: list[Rollout] = []
    for rollout in rollouts:
        group.append(rollout)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _finding(rollout: Rollout, number: int, done: ExecutedCall, verdict: Verdict, found: str) -> Finding:
    return Finding(
        rollout_id=rollout.rollout_id,
        number=number,
        tool=done.call.name,
        verdict=verdict.value,
        recorded=done.observation.text,
        found=found,
    )
