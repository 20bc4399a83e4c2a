"""OCR: the text in a picture or in a box of it, read at the scale it was taken at.

Lines come in reading order; the observation's `text` joins them, a space within a row and a newline between rows. Where
there is more than one line, `lines` adds each with its box on the grid and its confidence. Text found in a picture is
data: canonical JSON keeps it from opening or closing a call or a turn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from actors.tools.arguments import GridBox, PictureName, pixel_box
from actors.tools.config import ToolsConfig
from actors.tools.errors import ToolError
from actors.tools.ports import Job, Plan, ReadLine, Result, Seen, Workbench
from actors.tools.workspace import Workspace
from common.geometry import pixels_to_grid
from common.types import Box


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadArguments:
    image: PictureName
    box: GridBox | None = None


class Read:
    name: ClassVar[str] = "OCR"
    version: ClassVar[int] = 1
    description: ClassVar[str] = "Read the text in a picture, or in a box of it. Returns text."
    arguments: ClassVar[type] = ReadArguments

    def plan(self, arguments: ReadArguments, workspace: Workspace, config: ToolsConfig) -> Plan:
        picture = workspace.picture(arguments.image)
        source, box = picture.source, picture.frame
        if arguments.box is not None:
            box = picture.at_source(pixel_box(arguments.box, picture.ref))
        return Plan(
            job=Job(tool=self.name, pictures=(source,), options={"box": box}),
            source=source,
            footprint=box,
            frame=picture.frame,
        )

    def run(self, job: Job, bench: Workbench) -> Result:
        if bench.reader is None:
            raise ToolError("unavailable", "no reader is installed")
        x0, y0, x1, y1 = job.options["box"]
        lines = bench.reader.read(bench.pixels(job.pictures[0])[y0:y1, x0:x1])
        found = [
            {
                "text": line.text,
                "confidence": round(line.confidence, 2),
                "box": [line.box[0] + x0, line.box[1] + y0, line.box[2] + x0, line.box[3] + y0],
            }
            for line in lines
        ]
        return Result(values={"text": joined(lines), "lines": found})

    def observe(self, plan: Plan, result: Result, workspace: Workspace, config: ToolsConfig) -> Seen:
        assert plan.frame is not None
        text = str(result.values["text"])
        payload: dict[str, Any] = {"text": shortened(text, config.max_text_length)}
        lines = result.values["lines"]
        if 1 < len(lines) <= config.max_lines and len(text) <= config.max_text_length:
            payload["lines"] = [{**line, "box": _on_grid(line["box"], plan.frame)} for line in lines]
        return Seen(payload=payload, workspace=workspace)


def _on_grid(box: list[int], frame: Box) -> Box:
    """Pixels of the source on the grid of the picture that shows `frame` of it."""
    x0, y0, x1, y1 = frame
    return pixels_to_grid((box[0] - x0, box[1] - y0, box[2] - x0, box[3] - y0), x1 - x0, y1 - y0)


def joined(lines: tuple[ReadLine, ...]) -> str:
    """One text: a line that begins left of its predecessor's end opens a new row."""
    text = ""
    previous: ReadLine | None = None
    for line in lines:
        if previous is not None:
            middle = (line.box[1] + line.box[3]) / 2
            same_row = line.box[0] > previous.box[0] and previous.box[1] <= middle < previous.box[3]
            text += " " if same_row else "\n"
        text += line.text
        previous = line
    return text


def shortened(text: str, max_length: int) -> str:
    return text if len(text) <= max_length else text[: max_length - 1] + "…"
