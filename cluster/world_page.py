"""docs/world.md: every family of the world in pictures, with its chain and what can be known without looking.

python -m cluster.world_page docs
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from actors.config import ViewConfig
from actors.tasks.config import WorldConfig
from actors.tasks.plan import Step
from actors.tasks.shifts import SHIFTS
from actors.tasks.world.about import ABOUT
from actors.tasks.world.audit import blind
from actors.tasks.world.drawn import Drawn, Pixels
from actors.tasks.world.world import FAMILIES, World
from actors.views import see
from common.chat import VisionShape
from common.media import FolderMediaStore

if TYPE_CHECKING:
    from PIL import Image

NUM_TASKS = 400
"""Of a family, for the figures of the page."""
_SIDE, _GAP = 224, 8
_VISION = VisionShape(patch=8, merge=2, min_pixels=256, max_pixels=4096)
_SHIFTED = ("text", "hop", "identity")
_SEVERITY = 0.6


def main() -> None:
    """Write the page and its pictures into the folder that the command line names."""
    folder = Path(sys.argv[1])
    with tempfile.TemporaryDirectory(prefix="pixelis-world-") as media:
        store = FolderMediaStore(Path(media))
        pictures = folder / "pictures"
        pictures.mkdir(parents=True, exist_ok=True)
        for family in FAMILIES:
            print(f"{family}: drawing", file=sys.stderr)
            strip(_example(family, store)).save(pictures / f"world-{family}.png", optimize=True)
        shifts(store).save(pictures / "world-shifts.jpg", quality=85)
        (folder / "world.md").write_text(page(store))


def _example(family: str, store: FolderMediaStore) -> Drawn:
    return World(WorldConfig(mix={family: 1.0}), store).draw("test", 1)[1]


def strip(drawn: Drawn) -> Image.Image:
    """The source with the places that the plan names, then what the model sees of it, enlarged."""
    from PIL import Image

    tiles = []
    for at in drawn.shown:
        picture = Image.fromarray(drawn.pictures[at]).resize((_SIDE, _SIDE), Image.Resampling.BOX)
        tiles.append(_marked(picture, drawn, at))
    for at in drawn.shown:
        view = see(drawn.pictures[at], ViewConfig(), _VISION, frame=at if drawn.times_s else None)
        tiles.append(Image.fromarray(view).resize((_SIDE, _SIDE), Image.Resampling.NEAREST))
    return _row([np.asarray(tile) for tile in tiles])


def _marked(picture: Image.Image, drawn: Drawn, at: int) -> Image.Image:
    from PIL import ImageDraw

    draw = ImageDraw.Draw(picture)
    for step in drawn.steps:
        arguments = step.call.arguments
        name = arguments.get("image") or arguments.get("frame") or ""
        if name not in ("image_1" if not drawn.times_s else "", f"frame_{at + 1}") or step.call.name == "OCR":
            continue
        if box := arguments.get("box"):
            draw.rectangle([value * _SIDE / 1000 for value in box], outline=(255, 0, 0), width=2)
        if point := arguments.get("point"):
            x, y = (value * _SIDE / 1000 for value in point)
            draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=(255, 0, 0), outline=(255, 255, 255))
    return picture


def _row(tiles: list[Pixels]) -> Image.Image:
    from PIL import Image

    page = np.full((_SIDE, len(tiles) * (_SIDE + _GAP) - _GAP, 3), 255, np.uint8)
    for at, tile in enumerate(tiles):
        page[:, at * (_SIDE + _GAP) : at * (_SIDE + _GAP) + _SIDE] = tile
    return Image.fromarray(page)


def shifts(store: FolderMediaStore) -> Image.Image:
    """Every shift on tasks of three families."""
    from PIL import Image, ImageDraw

    small = 96
    rows = []
    for kind in SHIFTS:
        tiles = []
        for family in _SHIFTED:
            world = World(WorldConfig(mix={family: 1.0}), store)
            drawn = world.draw("test", 1, shift=f"{kind}:{_SEVERITY}")[1]
            tile = Image.fromarray(drawn.pictures[drawn.shown[-1]]).resize((small, small), Image.Resampling.BOX)
            tiles.append(np.asarray(tile))
        row = Image.fromarray(np.concatenate(tiles, axis=1))
        ImageDraw.Draw(row).text((3, 2), kind, fill=(0, 0, 0), stroke_width=2, stroke_fill=(255, 255, 255))
        rows.append(np.asarray(row))
    third = len(rows) // 3
    return Image.fromarray(np.concatenate([np.concatenate(rows[i : i + third]) for i in (0, third, 2 * third)], axis=1))


def page(store: FolderMediaStore) -> str:
    """The page's Markdown."""
    lines = [
        "# The world",
        "",
        "Tasks that need a tool by construction: pictures are drawn at 320–448 px, tools act on them, and the model",
        "sees a view of 64 × 64 px (of a clip the first and the last frame, or all frames of a short one). Truth is",
        "exact. This page is written by `python -m cluster.world_page docs`; its figures are those of",
        f"{NUM_TASKS} tasks a family, split `test`, seed 0. `constant` is the accuracy of the best constant answer,",
        "`entropy` that of the answers as a share of the largest possible. What trained models reach without tools is",
        "in [measurements.md](measurements.md).",
        "",
        "| family | chain | constant | entropy | why looking is not enough |",
        "|---|---|---|---|---|",
    ]
    for family in FAMILIES:
        found = blind(family, WorldConfig(), store, num_tasks=NUM_TASKS)
        chain = " → ".join(step.call.name for step in _example(family, store).steps) or "–"
        lines.append(f"| {family} | {chain} | {found.ceiling:.3f} | {found.entropy:.2f} | {ABOUT[family].needs} |")
    lines += [
        "",
        "Numbers (`fill`, `distance`, `hop`) are right within 5 %. In the chains below, what stands before a colon is",
        "the thought that a trace writes before its call: the words for what the call looks for; `…` is copied from",
        "what an earlier call returned.",
        "",
    ]
    for family in FAMILIES:
        drawn = _example(family, store)
        lines += [f"## {family}", "", f"*{drawn.question}* – {drawn.answer}", ""]
        lines += [f"![the source with the plan's places, and the view](pictures/world-{family}.png)", ""]
        lines += ["```", *map(_written, drawn.steps), "```", ""]
        lines += [f"{ABOUT[family].without[0].upper()}{ABOUT[family].without[1:]}.", ""]
    lines += [
        "## Shifts",
        "",
        f"`evaluation.shift=dark:0.3` and the like; here at a severity of {_SEVERITY}, on text, hop and identity.",
        "Clips keep their colours and their light; `speed`, `occluder` and `drop` are about clips alone.",
        "",
        "![every shift on three families](pictures/world-shifts.jpg)",
        "",
        "## Splits and variants",
        "",
        "A task is a function of the seed, its split, its number and its shift; the splits `train`, `validation`,",
        "`test`, `index` and `pretrain` have streams of their own and share no picture. `unseen` asks about the",
        "combinations that `world.held_out` keeps from all others.",
        "",
        "| experiment | what is different |",
        "|---|---|",
        "| `audit_text` | answers at once from grey pictures: what the question gives away |",
        "| `audit_view` | answers at once: what the view gives away |",
        "| `audit_shortcut` | answers before the last call: what the calls before it give away |",
        "| `static` | stills have patches of random pixels, which teach nothing however long one looks |",
        "| `rare_tool` | TRK is shown in 2 % of the traces |",
        "| `held_out` | one colour a family is never asked about; `evaluation.split=unseen` asks about these only |",
        "",
    ]
    return "\n".join(lines)


def _written(step: Step) -> str:
    shown = {key: "…" if key in step.copies else value for key, value in step.call.arguments.items()}
    thought = f"{step.thought.strip()}: " if step.thought else ""
    return f"{thought}{step.call.name} {json.dumps(shown, ensure_ascii=False)}"


if __name__ == "__main__":
    main()
