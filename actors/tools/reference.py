"""docs/tools.md: the tools for people, written from the same dataclasses that check a call.

`pixelis tool --docs` writes the page, and a test fails when it is out of date.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import msgspec

from actors.tools.catalogue import TOOLS
from actors.tools.ports import Tool
from common.types import ErrorCode

_HEAD = """# Tools

Six tools act on pixels. A model calls one by ending its turn with a JSON object between tags; what comes back is an
observation, a JSON object too, errors included:

```
I look closer.<tool_call>{"name":"ZOOM","arguments":{"image":"image_1","box":[250,300,450,400]}}</tool_call>
<tool_response>{"image":"image_2"}</tool_response>
```

The same call from the command line, on a file of yours (a picture is `image_1`, a video's frames are `frame_1`,
`frame_2`, …); it prints the result and draws it into a PNG. A chain names its tools with commas and gives a list:

```sh
pixelis tool ZOOM plate.png '{"box":[250,300,450,400]}'
pixelis tool SEG,PROP plate.png '[{"point":[512,300]},{"mask":"mask_1"}]'
```

**References** name things: `image_k` the question's pictures and returned crops, `frame_k` a clip's frames, `mask_k`
and `track_k` what SEG and TRK returned; each counts from 1 in its own kind.

**Coordinates** are on a grid of 0–1000 over the picture that the call names: x right, y down, `[x0, y0, x1, y1]`
half-open. Other models' frames (shares of the sides, pixels as shown, pixels of the file) are converted by their
dialect.

This page is written by `pixelis tool --docs` from the dataclasses that check every call; the prompt's tool list, the
JSON schemas and the sampling grammar follow from the same.
"""
_ERRORS: Mapping[ErrorCode, str] = {
    "malformed_call": "the turn holds no call or answer that can be read",
    "unknown_tool": "no tool has that name",
    "bad_argument": "an argument is missing, unknown, of another type or out of bounds",
    "unknown_reference": "a name stands for nothing, or for a thing of another kind",
    "empty_box": "a box without area, or with swapped corners",
    "limit_exceeded": "more pixels, frames, pictures or calls than a rollout may use",
    "bad_media": "a picture or a clip that cannot be read",
    "timeout": "the call took longer than its deadline",
    "tool_crashed": "the tool failed; its worker was replaced",
    "unavailable": "nothing is installed that could do this",
}
_DIALECTS = (
    ("dialect", "calls", "answers", "boxes"),
    ("---", "---", "---", "---"),
    ("`hermes`", "the six tools as above", "`<answer>…</answer>`", "grid"),
    (
        "`pixel_reasoner`",
        '`crop_image {"bbox_2d", "target_image"}`, `select_frames {"target_frames"}`',
        "`\\boxed{…}`",
        "shares of the sides where no value exceeds 1, else pixels of the picture as shown",
    ),
    (
        "`deepeyes`",
        '`image_zoom_in_tool {"bbox_2d", "label"}` on the first picture',
        "`<answer>…</answer>`",
        "pixels of the picture as shown",
    ),
)
_TAIL = """## Dialects

Models that were trained elsewhere keep their own words; `model.dialect.name` says which, and every box is converted to
the grid before a tool sees it (`model.dialect.boxes` says from which frame).

{table}

`boxes=original` counts in pixels of the file, as the published programs of the last two apply them; it differs from
what the model saw wherever the picture was resized. See actors/dialects.
"""


def page() -> str:
    """The page as text."""
    missing = set(get_args(ErrorCode)) ^ set(_ERRORS)
    assert not missing, missing
    parts = [_HEAD, *(_section(tool) for tool in TOOLS), "## Errors\n\n| code | means |\n|---|---|"]
    parts[-1] += "".join(f"\n| `{code}` | {meaning} |" for code, meaning in _ERRORS.items()) + "\n"
    table = "\n".join(f"| {' | '.join(row)} |" for row in _DIALECTS)
    return "\n".join((*parts, _TAIL.format(table=table)))


def write(path: Path) -> Path:
    """Write the page."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(), encoding="utf-8")
    return path


def _section(tool: Tool) -> str:
    schema = msgspec.json.schema(tool.arguments)
    rows = "\n".join(_rows(schema["$defs"][tool.arguments.__name__], schema["$defs"]))
    about = (inspect.getdoc(inspect.getmodule(type(tool))) or "").partition(": ")[2]
    return (
        f"## {tool.name}\n\n{tool.description}\n\n{about[:1].upper()}{about[1:]}\n\n"
        f"| argument | | is |\n|---|---|---|\n{rows}\n"
    )


def _rows(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Iterator[str]:
    for name, value in schema["properties"].items():
        need = "required" if name in schema["required"] else _default(value)
        yield f"| `{name}` | {need} | {_described(value, definitions)} |"


def _default(schema: Mapping[str, Any]) -> str:
    default = schema.get("default")
    return "optional" if default in (None, (), [], "") else f"default `{json.dumps(default)}`"


def _described(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """A value in words: its description, else its type, with its bounds."""
    if "$ref" in schema:
        return _described(definitions[schema["$ref"].removeprefix("#/$defs/")], definitions)
    if "anyOf" in schema:
        options = [option for option in schema["anyOf"] if option.get("type") != "null"]
        return " or ".join(_described(option, definitions) for option in options)
    if "enum" in schema:
        return ", ".join(f"`{choice}`" for choice in schema["enum"])
    if schema.get("type") == "array" and "items" in schema and schema["items"]:
        most = f"at most {schema['maxItems']} of " if "maxItems" in schema else "any number of "
        return most + _described(schema["items"], definitions)
    said = str(schema.get("description", schema.get("type", "")))
    low, high = schema.get("minimum", schema.get("exclusiveMinimum")), schema.get("maximum")
    bounds = f", {low:g} to {high:g}" if low is not None and high is not None else ""
    return said.replace("|", "\\|") + bounds
