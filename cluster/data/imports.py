"""`pixelis data import`: published conversations made again with our tools, kept as a set of traces for SFT.

    pixelis data import sft.json --format pixel_reasoner --media pictures --out sets/pixel-reasoner
    pixelis sft traces.files=[sets/pixel-reasoner] traces.share=0.3

The tokens are those of the configured model under its view, so `model=`, `model.path`, `view.` and
`actor.max_model_len` are to be as in the run that will learn from the set.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import DataError, UserError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from actors.traces.imports import Format, Imports
    from actors.traces.sets import SetWriter
    from cluster.config import RunConfig
    from cluster.progress import Progress
    from common.chat import Chat

_HINTS = {
    "no_conversation": "questions with answers alone are a data set (pixelis data show, pixelis eval qa=)",
    "no_media": "is --media the folder that their paths start from?",
    "too_long": "raise actor.max_model_len, or add --cut",
}
"""What to do where most records are dropped for one reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """A set of traces that was written."""

    folder: str
    file: str
    imports: Imports

    def to_json(self) -> dict[str, Any]:
        return {"folder": self.folder, "file": self.file, **dataclasses.asdict(self.imports)}

    def table(self) -> RenderableType:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        made = self.imports
        title = Text(f"{self.folder}: {made.num_traces} traces of {made.num_records} records in {self.file}")
        table = Table()
        table.add_column("records")
        table.add_column("number", justify="right")
        kept = {
            "kept": made.num_traces,
            "  of them without a right answer to check theirs by": made.num_unchecked,
            "  of them without their end (too long)": made.num_cut,
            "  calls in them that fail here, shown and not imitated": made.num_masked,
        }
        dropped = {f"dropped: {reason}": number for reason, number in made.dropped.items()}
        for name, number in (kept | dropped).items():
            if number or name == "kept":
                table.add_row(Text(name), str(number))
        return Group(title, table)


def import_set(
    config: RunConfig,
    file: Path,
    out: Path,
    *,
    format: Format,
    media: Path,
    boxes: str,
    cut: bool,
    force: bool,
    progress: Progress,
) -> Imported:
    """Write the set of traces `out`, whole or not at all. Raises UserError, one line, and Interrupted."""
    from actors.traces.sets import form_of, writing
    from cluster.factories import build_chat
    from cluster.interrupt import run_until_interrupted
    from cluster.pretraining import model_at_hand

    if not file.is_file():
        raise DataError(f"{file}: no such file")
    if not media.is_dir():
        raise DataError(f"{media}: no such folder of media")
    chat = build_chat(config, model_at_hand(config))
    with writing(out.absolute(), force=force) as writer:
        work = _execute(config, file, writer, chat, format=format, media=media, boxes=boxes, cut=cut, progress=progress)
        imports = run_until_interrupted(work)
        progress.finish()
        if not imports.num_traces:
            raise DataError(_nothing_kept(file, imports))
        about = {"file": file.name, "format": format, "boxes": boxes, **dataclasses.asdict(imports)}
        writer.close(form_of(chat, config.view), about)
    return Imported(folder=str(out), file=str(file), imports=imports)


async def _execute(
    config: RunConfig,
    file: Path,
    writer: SetWriter,
    chat: Chat,
    *,
    format: Format,
    media: Path,
    boxes: str,
    cut: bool,
    progress: Progress,
) -> Imports:
    """Every record through the real tools, its traces written as they come."""
    from actors.tools.errors import NoWorker
    from actors.tools.toolbox import build_toolbox
    from actors.traces.imports import import_traces
    from actors.views import Viewer

    def told(imports: Imports) -> None:
        dropped = imports.num_records - imports.num_traces
        progress.update(imports.num_records, kept=imports.num_traces, dropped=dropped)

    progress.start("starting the tools")
    toolbox = build_toolbox(config.tools, writer.store.root)
    try:
        await toolbox.start()
        progress.start(f"importing {file.name}")
        return await import_traces(
            file,
            media,
            format,
            take=writer.take,
            store=writer.store,
            toolbox=toolbox,
            viewer=Viewer(writer.store, chat.vision, config.view),
            chat=chat,
            emphasis=config.emphasis,
            max_model_len=config.actor.max_model_len,
            max_num_images=config.actor.max_num_images,
            boxes=boxes,
            thoughts=config.traces.thoughts,
            too_long="cut" if cut else "drop",
            limits=config.tools.media_limits,
            again=toolbox.uncached() if config.traces.reenact else None,
            told=told,
        )
    except NoWorker as error:
        raise UserError(str(error)) from error
    finally:
        await toolbox.close()


def _nothing_kept(file: Path, imports: Imports) -> str:
    """Why there is no trace, with what to do about the commonest reason."""
    if not imports.num_records:
        return f"{file} holds no records"
    reason, number = next(iter(imports.dropped.items()))
    hint = f": {_HINTS[reason]}" if reason in _HINTS else ""
    return f"{file}: none of {imports.num_records} records gave a trace; {number} are {reason}{hint}"
