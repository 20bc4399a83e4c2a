"""`pixelis tool`: one call of a tool, or a chain of them, on a file: the result, and an overlay.

    pixelis tool SEG plate.png '{"point":[512,300]}'
    pixelis tool SEG,PROP plate.png '[{"box":[200,300,500,400]},{"mask":"mask_1"}]'

What runs is the real toolbox with its worker, deadlines and errors, as in a rollout whose only medium is the file: a
picture is image_1, a video's frames are frame_1, frame_2, … A chain shares its names and ends at the first error. What
a call leaves out and the file decides is filled in and shown: the picture it is about, and that OCR tells its lines.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import UserError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from actors.tools.config import ToolsConfig
    from actors.tools.toolbox import Toolbox
    from actors.tools.workspace import Workspace
    from common.media import FolderMediaStore
    from common.types import Clip, ExecutedCall, MediaRef, Query, ToolCall

OVERLAY_SIDE, OVERLAY_ROW = 1024, 1600
"""Pixels of an overlay's longer side: of one picture, of a row of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Executed:
    """One call as it ended. observation: what a model would read."""

    tool: str
    arguments: dict[str, Any]
    observation: dict[str, Any]
    error: str | None
    back_end: str
    digest: str
    cpu_s: float
    wall_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResult:
    """The calls that ran, and where the overlay was written."""

    calls: tuple[Executed, ...]
    overlay: Path | None = None

    @property
    def failed(self) -> bool:
        return any(call.error is not None for call in self.calls)

    def to_json(self) -> dict[str, Any]:
        """One call as it is, a chain as {"calls": […]}."""
        if len(self.calls) == 1:
            return dataclasses.asdict(self.calls[0])
        return {"calls": [dataclasses.asdict(call) for call in self.calls]}

    def table(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        lines = []
        for call in self.calls:
            said = json.dumps(call.arguments, ensure_ascii=False)
            lines.append(Text.assemble((call.tool, "bold cyan"), f" {said}", (f"  {call.back_end}", "dim")))
            for key, value in call.observation.items():
                shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
                lines.append(Text.assemble("  ", (f"{key}: ", "red" if call.error else "bold"), shown))
            lines.append(Text(f"  {1000 * call.wall_s:.0f} ms, of which {1000 * call.cpu_s:.0f} ms computing", "dim"))
        if self.overlay is not None:
            lines.append(Text(f"overlay: {self.overlay}"))
        return Group(*lines)


def calls_of(names: str, text: str) -> list[ToolCall]:
    """The calls of a command line. names: one tool or several with commas. text: an object, or as many in a list.

    Raises UserError, one line.
    """
    from actors.dialogue import strict_json
    from actors.tools.catalogue import TOOLS
    from common.types import ToolCall

    tools = [name.strip() for name in names.split(",")]
    known = [tool.name for tool in TOOLS]
    for name in tools:
        if name not in known:
            raise UserError(f"no tool {name!r}; there are {', '.join(known)}")
    try:
        value = strict_json(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"the arguments are not JSON ({error}); write them as '{{\"box\":[0,0,500,500]}}'") from None
    given = [value] if len(tools) == 1 and isinstance(value, dict) else value
    if not isinstance(given, list) or len(given) != len(tools) or not all(isinstance(item, dict) for item in given):
        wanted = "a JSON object" if len(tools) == 1 else f"a JSON list of {len(tools)} objects"
        raise UserError(f"{','.join(tools)} takes {wanted}; see docs/tools.md")
    return [ToolCall(name=name, arguments=arguments) for name, arguments in zip(tools, given, strict=True)]


async def perform(config: ToolsConfig, calls: Sequence[ToolCall], file: Path, *, overlay: Path | None) -> ToolResult:
    """Execute `calls` on `file` and draw them into `overlay`, where one is wanted. Raises UserError, one line."""
    from actors.files import open_media
    from actors.tools.errors import NoWorker
    from actors.tools.toolbox import build_toolbox
    from common.media import FolderMediaStore

    with tempfile.TemporaryDirectory(prefix="pixelis-tool-", dir=live_base()) as live:
        store = FolderMediaStore(Path(live))
        query = _query(open_media(file, store, config.media_limits))
        toolbox = build_toolbox(_only(config, calls), Path(live))
        try:
            await toolbox.start()
            done, workspace = await _execute(toolbox, calls, query)
            back_ends = toolbox.back_ends()
        except NoWorker as error:
            raise UserError(str(error)) from error
        finally:
            await toolbox.close()
        drawn = _draw(done, workspace, store, overlay) if overlay is not None else None
    return ToolResult(calls=tuple(_executed(each, back_ends) for each in done), overlay=drawn)


def live_base() -> Path | None:
    """Shared memory where there is some; None: wherever temporary files lie."""
    memory = Path("/dev/shm")
    return memory if os.access(memory, os.W_OK) else None


def _only(config: ToolsConfig, calls: Sequence[ToolCall]) -> ToolsConfig:
    """One worker (none where tools.num_workers is 0), nothing cached, no reader loaded where nothing is read."""
    ocr = config.ocr if any(call.name == "OCR" for call in calls) else "none"
    return replace(config, num_workers=min(1, config.num_workers), num_spares=0, cache_dir=None, ocr=ocr)


def _query(media: tuple[MediaRef, ...] | Clip) -> Query:
    from common.types import Clip, Query

    if isinstance(media, Clip):
        return Query(query_id="tool", question="", clip=media)
    return Query(query_id="tool", question="", images=media)


async def _execute(toolbox: Toolbox, calls: Sequence[ToolCall], query: Query) -> tuple[list[ExecutedCall], Workspace]:
    workspace = toolbox.open(query)
    done: list[ExecutedCall] = []
    for call in calls:
        each, workspace = await toolbox.execute(_about_the_file(call, query), workspace)
        done.append(each)
        if each.observation.error is not None:
            break
    return done, workspace


def _about_the_file(call: ToolCall, query: Query) -> ToolCall:
    """A call that must name a picture and names none is about the file; OCR tells its lines, which are drawn."""
    from actors.tools.catalogue import tool_named

    fields = {field.name: field for field in dataclasses.fields(tool_named(call.name).arguments)}
    filled: dict[str, Any] = {}
    if "image" in fields and fields["image"].default is dataclasses.MISSING:
        filled["image"] = "image_1" if query.images else "frame_1"
    if call.name == "OCR" and "lines" in fields:
        filled["lines"] = True
    return replace(call, arguments={**filled, **call.arguments})


def _draw(done: Sequence[ExecutedCall], workspace: Workspace, store: FolderMediaStore, path: Path) -> Path | None:
    """The overlay of every call, one below the other. Raises UserError."""
    from actors.marks import Scene, marks_of
    from cluster.overlay import draw, save, stacked

    sheets = []
    for each in done:
        marks, seen = marks_of(each, workspace), each.observation
        if seen.image is not None:
            name = str(json.loads(seen.text).get("image", ""))
            marks = replace(marks, scenes=(*marks.scenes, Scene(picture=seen.image, caption=name)))
        if marks.scenes:
            sheets.append(draw(marks, store, max_side=OVERLAY_SIDE if len(marks.scenes) == 1 else OVERLAY_ROW))
    if not sheets:
        return None
    try:
        save(stacked(sheets), path)
    except OSError as error:
        raise UserError(f"{path}: the overlay cannot be written ({error.strerror or error})") from error
    return path


def _executed(done: ExecutedCall, back_ends: dict[str, str]) -> Executed:
    seen = done.observation
    return Executed(
        tool=done.call.name,
        arguments=done.call.arguments,
        observation=json.loads(seen.text),
        error=seen.error,
        back_end=back_ends.get(done.call.name, ""),
        digest=seen.digest,
        cpu_s=seen.cpu_s,
        wall_s=seen.wall_s,
    )
