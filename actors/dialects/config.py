"""Which dialect a model speaks. Light: imports no library."""

from __future__ import annotations

from dataclasses import dataclass

DIALECTS = ("hermes", "pixel_reasoner", "deepeyes")
BOXES = ("auto", "share", "view", "original")


@dataclass(frozen=True, slots=True, kw_only=True)
class DialectConfig:
    """How the model writes calls.

    name: hermes (ours, and what Qwen's models are taught), pixel_reasoner, deepeyes. boxes: the frame that a foreign
    dialect's boxes are counted in (common/geometry): share, view (pixels of the picture as shown), original (pixels of
    the file, as the published systems apply them), or auto: pixels as shown, and for pixel_reasoner shares where no
    value exceeds 1. tool_list: the system prompt lists the tools; models that were trained on them need no list.
    """

    name: str = "hermes"
    boxes: str = "auto"
    tool_list: bool = False

    def __post_init__(self) -> None:
        for field, value, choices in (("name", self.name, DIALECTS), ("boxes", self.boxes, BOXES)):
            if value not in choices:
                raise ValueError(f"{field} must be one of {', '.join(choices)}, got {value}")
        if self.name == "hermes" and self.boxes != "auto":
            raise ValueError("boxes is for foreign dialects; hermes writes boxes on the 0-1000 grid")
