"""A toolbox that answers at once: ZOOM returns a picture, OCR the next text, anything else is an unknown tool."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from common.chat import canonical_json
from common.types import Box, ExecutedCall, MediaRef, Observation, Query, ToolCall


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeWorkspace:
    """The pictures that may be referred to, by name."""

    images: dict[str, MediaRef]


class ScriptedToolbox:
    """texts: what OCR reads, in turn and then again from the first. footprint: of every ZOOM."""

    def __init__(
        self, *, crop: MediaRef, texts: Sequence[str] = ("493",), footprint: Box = (100, 100, 160, 140)
    ) -> None:
        self._crop = crop
        self._texts = list(texts)
        self._footprint = footprint
        self.executed: list[ToolCall] = []
        self.closed = False

    def back_ends(self) -> dict[str, str]:
        return {"ZOOM": "scripted", "OCR": "scripted"}

    async def close(self) -> None:
        self.closed = True

    def open(self, query: Query) -> FakeWorkspace:
        frames = query.clip.frames if query.clip is not None else ()
        named = {f"image_{i}": ref for i, ref in enumerate(query.images, 1)}
        return FakeWorkspace(images=named | {f"frame_{i}": ref for i, ref in enumerate(frames, 1)})

    def random_call(self, workspace: FakeWorkspace, random: np.random.Generator) -> ToolCall:
        """OCR of a picture that is there."""
        return ToolCall(name="OCR", arguments={"image": str(random.choice(sorted(workspace.images)))})

    async def execute(self, call: ToolCall, workspace: FakeWorkspace) -> tuple[ExecutedCall, FakeWorkspace]:
        self.executed.append(call)
        picture = workspace.images.get(str(call.arguments.get("image", "")))
        if call.name not in ("ZOOM", "OCR"):
            return _error(call, "unknown_tool"), workspace
        if picture is None:
            return _error(call, "unknown_reference"), workspace
        if call.name == "OCR":
            reads = sum(done.name == "OCR" for done in self.executed)
            text = canonical_json({"text": self._texts[(reads - 1) % len(self._texts)]})
            return ExecutedCall(
                call=call, observation=Observation(text=text, cpu_s=0.25), source=picture.digest
            ), workspace
        name = f"image_{sum(name.startswith('image_') for name in workspace.images) + 1}"
        seen = Observation(text=canonical_json({"image": name}), image=self._crop, cpu_s=0.5)
        done = ExecutedCall(call=call, observation=seen, source=picture.digest, footprint=self._footprint)
        return done, replace(workspace, images=workspace.images | {name: self._crop})


def _error(call: ToolCall, code: str) -> ExecutedCall:
    text = canonical_json({"error": code, "hint": "try again"})
    return ExecutedCall(call=call, observation=Observation(text=text, error=code))  # type: ignore[arg-type]


class PlainViewer:
    """Sees every picture as a 64×64 view whose digest tells the picture and the augmentation."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    async def of_query(self, query: Query, augmentation: str = "") -> list[MediaRef]:
        frames = [query.clip.frames[i] for i in query.clip.shown] if query.clip is not None else query.images
        return [await self.view(picture, augmentation) for picture in frames]

    async def view(self, picture: MediaRef, augmentation: str = "") -> MediaRef:
        self.asked.append((picture.digest, augmentation))
        digest = f"{augmentation or 'plain'}/{picture.digest}"
        return MediaRef(digest=digest, kind="view", width=64, height=64, num_bytes=64 * 64 * 3)
