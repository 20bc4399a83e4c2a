"""One tool at a time on real pictures: calls are planned, run and observed in this process, without a pool."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from actors.tools.arguments import parse
from actors.tools.catalogue import tool_named
from actors.tools.config import ToolsConfig
from actors.tools.ports import Workbench
from actors.tools.workspace import Mask, Track, Workspace
from common.media import FolderMediaStore, put_image
from common.types import Clip, Query


class Desk:
    """A workbench over a store of its own, and one rollout's workspace."""

    def __init__(self, folder: Path, *, config: ToolsConfig | None = None, reader: Any = None, encoder: Any = None):
        self.config = config or ToolsConfig(num_workers=0, ocr="none")
        self.store = FolderMediaStore(folder)
        self.bench = Workbench(
            config=self.config,
            store=self.store,
            reader=reader,
            segmenter=None,  # type: ignore[arg-type]
            tracker=None,  # type: ignore[arg-type]
            encoder=encoder,
        )
        self.workspace = Workspace()

    def show(self, *pictures):
        refs = tuple(put_image(self.store, pixels) for pixels in pictures)
        self.workspace = Workspace.of(Query(query_id="q", question="?", images=refs))
        return refs

    def play(self, frames, step_s=0.5):
        refs = tuple(put_image(self.store, pixels) for pixels in frames)
        clip = Clip(frames=refs, times_s=tuple(step_s * at for at in range(len(refs))), shown=(0,))
        self.workspace = Workspace.of(Query(query_id="q", question="?", clip=clip))
        return clip

    def add_mask(self, mask, name="image_1"):
        ref = put_image(self.store, np.repeat(mask.astype(np.uint8)[..., None] * 255, 3, axis=2))
        source = self.workspace.picture(name).ref
        added, self.workspace = self.workspace.with_mask(Mask(ref=ref, source=source))
        return added

    def add_track(self, boxes, visible=None, start=0):
        seen = [True] * len(boxes) if visible is None else visible
        times = self.workspace.clip.times_s[start : start + len(boxes)]
        track = Track(start=start, boxes=tuple(map(tuple, boxes)), visible=tuple(seen), times_s=tuple(times))
        added, self.workspace = self.workspace.with_track(track)
        return added

    def call(self, name, **arguments):
        """The payload that the model reads. Raises ToolError."""
        tool = tool_named(name)
        plan = tool.plan(parse(arguments, tool.arguments), self.workspace, self.config)
        self.plan = plan
        self.seen = tool.observe(plan, tool.run(plan.job, self.bench), self.workspace, self.config)
        self.workspace = self.seen.workspace
        return self.seen.payload
