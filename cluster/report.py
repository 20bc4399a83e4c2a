"""report.html: a run for people, in one file that needs nothing else, not even a network.

It holds the table of phases, the curves, and rollouts as picture strips: each call with the picture that it looked at,
its box, and what came back.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.charts import PHASE_COLOURS, curves
from cluster.runs import read_metrics, read_summary, write_atomically
from cluster.summary import COLUMNS, cells, clock
from common.errors import RunFolderError
from common.types import Box

if TYPE_CHECKING:
    from jinja2 import Environment

TITLES = {"base": "Base", "sft": "SFT", "rft": "CC-RFT", "ttrl": "Pixel TTRL"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A call and what came back.

    picture: PNG of what the call looked at. boxes: in its pixels. arguments: canonical JSON. returned: PNG of the
    picture that came back. overlay: PNG of what was found, drawn over its pictures. text: what the agent read. error:
    the call failed.
    """

    name: str
    arguments: str
    picture: bytes | None = None
    boxes: tuple[Box, ...] = ()
    returned: bytes | None = None
    overlay: bytes | None = None
    text: str = ""
    error: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """A rollout as pictures. section: the heading it stands under. picture: PNG of what was asked about."""

    section: str
    title: str
    question: str
    picture: bytes
    steps: tuple[Step, ...]
    answer: str | None
    truth: str | None = None
    right: bool | None = None


def write_report(
    folder: Path, summary: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]], strips: Sequence[Strip]
) -> Path:
    """Write report.html, and strips.json from which `rebuild` makes it again. summary: as in summary.json. Returns
    the report's path.
    """
    packed = [_packed(asdict(strip)) for strip in strips]
    write_atomically(folder / "strips.json", json.dumps(packed))
    return write_atomically(folder / "report.html", render(summary, metrics, strips))


def rebuild(folder: Path) -> Path:
    """Write report.html of a finished run again. Raises RunFolderError when the folder holds no finished run."""
    summary = read_summary(folder)
    try:
        packed = json.loads((folder / "strips.json").read_text())
        strips = [_strip(item) for item in packed]
    except FileNotFoundError:
        strips = []
    except (ValueError, KeyError, TypeError) as error:
        raise RunFolderError(f"{folder}/strips.json cannot be read: {error}") from error
    return write_atomically(folder / "report.html", render(summary, read_metrics(folder), strips))


def templates() -> Environment:
    """The pages' templates; what is put into them is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("cluster"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["uri"] = _data_uri
    environment.filters["size"] = png_size
    environment.filters["breakable"] = lambda text: text.replace(",", ",\u200b")
    return environment


def render(summary: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]], strips: Sequence[Strip]) -> str:
    """The page as text."""
    from cluster.evaluation.page import section_of  # which needs this module's templates

    template = templates().get_template("report.html.j2")
    evaluated = [phase for phase in summary["phases"] if phase.get("comparison")]
    sections = {
        section: [strip for strip in strips if strip.section == section]
        for section in dict.fromkeys(strip.section for strip in strips)
    }
    return template.render(
        summary=summary,
        evaluation=section_of(evaluated[-1]) if evaluated else None,
        evaluated=evaluated[-1]["name"] if evaluated else "",
        columns=COLUMNS,
        rows=[(phase["name"], cells(phase)) for phase in summary["phases"]],
        titles=TITLES,
        colours=PHASE_COLOURS,
        clock=clock,
        curves=curves(metrics),
        phases_drawn=list(dict.fromkeys(str(line["phase"]) for line in metrics if "phase" in line)),
        sections=sections,
        config=json.dumps(summary["config"], indent=2, ensure_ascii=False),
    )


def png_size(data: bytes) -> tuple[int, int]:
    """Width and height from a PNG's header (bytes 16 to 24, big-endian)."""
    if data[:8] != b"\x89PNG\r\n\x1a\n" or len(data) < 24:
        raise ValueError("not a PNG")
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def _data_uri(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def _packed(value: Any) -> Any:
    """Bytes as {"base64": …}, tuples as lists."""
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, dict):
        return {key: _packed(item) for key, item in value.items()}
    return [_packed(item) for item in value] if isinstance(value, (list, tuple)) else value


def _unpacked(value: Any) -> Any:
    if isinstance(value, dict):
        return (
            base64.b64decode(value["base64"])
            if set(value) == {"base64"}
            else {key: _unpacked(item) for key, item in value.items()}
        )
    return tuple(_unpacked(item) for item in value) if isinstance(value, list) else value


def _strip(packed: Any) -> Strip:
    values = _unpacked(packed)
    return Strip(**{**values, "steps": tuple(Step(**step) for step in values["steps"])})
