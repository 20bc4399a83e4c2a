"""The six tools and their back ends: what there is, what the prompt says of it, and how a worker is furnished."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from actors.tools.arguments import parse, schema
from actors.tools.config import ToolsConfig
from actors.tools.errors import ToolError
from actors.tools.locate import Locate
from actors.tools.measure import Measure
from actors.tools.ports import Segmenter, Tool, Tracker, Workbench
from actors.tools.read import Read
from actors.tools.segment import Segment
from actors.tools.track import Follow
from actors.tools.zoom import Zoom
from common.errors import ModelError
from common.media import FolderMediaStore
from common.types import ToolCall

TOOLS: tuple[Tool, ...] = (Zoom(), Segment(), Follow(), Read(), Locate(), Measure())
_BY_NAME = {tool.name: tool for tool in TOOLS}


def specs() -> list[dict[str, Any]]:
    """The prompt's tool list: per tool its name, its description and the JSON schema of its parameters."""
    return [schema(tool.name, tool.description, tool.arguments) for tool in TOOLS]


def tool_named(name: Any) -> Tool:
    """Raises ToolError("unknown_tool")."""
    tool = _BY_NAME.get(name) if isinstance(name, str) else None
    if tool is None:
        raise ToolError("unknown_tool", f"tools are {', '.join(_BY_NAME)}")
    return tool


def parse_arguments(call: ToolCall) -> Any:
    """The call's arguments as its tool's dataclass. Total: any JSON value yields them or a ToolError."""
    return parse(call.arguments, tool_named(call.name).arguments)


def describe_back_ends(config: ToolsConfig) -> dict[str, str]:
    """What serves each tool, with versions and weights, without loading any of it. Raises ModelError, one line."""
    import cv2

    opencv = f"opencv {cv2.__version__}"
    back_ends = {"ZOOM": opencv, "TEMP": f"frame scores ({opencv})", "PROP": opencv}
    sam2, nano = _sam2_file(config), _nano_files(config)
    if sam2 is None:
        back_ends["SEG"] = f"grabcut ({opencv})"
    else:
        from actors.tools.backends.segmenters import describe_sam2

        back_ends["SEG"] = describe_sam2(sam2)
    from actors.tools.backends.trackers import describe_tracker

    back_ends["TRK"] = describe_tracker(nano)
    if config.ocr == "none":
        back_ends["OCR"] = "none"
    else:
        from actors.tools.backends.reader import describe_easyocr

        back_ends["OCR"] = describe_easyocr(quantize=config.ocr_quantize)
    return {tool.name: back_ends[tool.name] for tool in TOOLS}


def furnish(config: ToolsConfig, store: FolderMediaStore) -> Workbench:
    """A worker's workbench with the configured back ends loaded. Raises ModelError, one line."""
    from actors.tools.backends.segmenters import GrabCut, Sam2
    from actors.tools.backends.trackers import CorrelationTracker, NanoTracker

    sam2 = _sam2_file(config)
    segmenter: Segmenter = (
        GrabCut() if sam2 is None else Sam2(sam2, overrides=config.sam2_overrides, image_size=config.sam2_image_size)
    )
    nano = _nano_files(config)
    tracker: Tracker = CorrelationTracker() if nano is None else NanoTracker(nano)
    reader = None
    if config.ocr == "easyocr":
        from actors.tools.backends.reader import EasyOcr

        reader = EasyOcr(
            quantize=config.ocr_quantize,
            max_lines_side=config.ocr_max_lines_side,
            detect_side=config.ocr_detect_side,
            min_confidence=config.ocr_min_confidence,
        )
    return Workbench(config=config, store=store, reader=reader, segmenter=segmenter, tracker=tracker)


def _sam2_file(config: ToolsConfig) -> Path | None:
    from actors.tools.backends.segmenters import sam2_checkpoint

    if config.segmenter == "grabcut" or (config.segmenter == "auto" and config.weights_dir is None):
        return None
    if config.weights_dir is None:
        raise ModelError("tools.segmenter=sam2 needs tools.weights_dir, a folder with a SAM2 checkpoint")
    try:
        return sam2_checkpoint(Path(config.weights_dir))
    except ModelError:
        if config.segmenter == "sam2":
            raise
        return None


def _nano_files(config: ToolsConfig) -> tuple[Path, Path] | None:
    from actors.tools.backends.trackers import nano_files

    if config.tracker == "correlation" or (config.tracker == "auto" and config.weights_dir is None):
        return None
    if config.weights_dir is None:
        raise ModelError("tools.tracker=nano needs tools.weights_dir, a folder with NanoTrack's two networks")
    try:
        return nano_files(Path(config.weights_dir))
    except ModelError:
        if config.tracker == "nano":
            raise
        return None
