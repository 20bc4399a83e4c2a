"""The dialect that a configuration names."""

from __future__ import annotations

from actors.dialects.config import DialectConfig
from actors.dialects.deepeyes import DeepEyes
from actors.dialects.hermes import Hermes
from actors.dialects.pixel_reasoner import PixelReasoner
from actors.dialects.port import Dialect


def dialect_of(config: DialectConfig) -> Dialect:
    """See DialectConfig."""
    if config.name == "pixel_reasoner":
        return PixelReasoner(boxes=config.boxes)
    if config.name == "deepeyes":
        return DeepEyes(boxes=config.boxes)
    return Hermes()
