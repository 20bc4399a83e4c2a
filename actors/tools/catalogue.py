"""The six tools and their back ends: what there is, what the prompt says of it, and how a worker is furnished."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.tools.arguments import parse, schema
from actors.tools.config import ToolsConfig
from actors.tools.errors import ToolError
from actors.tools.locate import Locate
from actors.tools.measure import Measure
from actors.tools.ports import Tool, Workbench
from actors.tools.read import Read
from actors.tools.segment import Segment
from actors.tools.track import Follow
from actors.tools.zoom import Zoom
from common.errors import ModelError
from common.media import FolderMediaStore
from common.types import ToolCall

if TYPE_CHECKING:
    from actors.tools.backends.languages import OcrFiles

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
    from actors.tools.backends.segmenters import describe_segmenter
    from actors.tools.backends.trackers import describe_tracker

    back_ends["SEG"], back_ends["TRK"] = describe_segmenter(config), describe_tracker(config)
    if config.ocr == "none":
        back_ends["OCR"] = "none"
    else:
        from actors.tools.backends.reader import describe_easyocr

        back_ends["OCR"] = describe_easyocr(ocr_files(config), quantize=config.ocr_quantize)
    encoder = _encoder_folder(config)
    if encoder is not None:
        from actors.tools.backends.encoder import describe_encoder

        back_ends["TEMP"] = f"{describe_encoder(encoder)}, {back_ends['TEMP']}"
    return {tool.name: back_ends[tool.name] for tool in TOOLS}


def furnish(config: ToolsConfig, store: FolderMediaStore) -> Workbench:
    """A worker's workbench with the configured back ends loaded. Raises ModelError, one line."""
    from actors.tools.backends.segmenters import build_segmenter
    from actors.tools.backends.trackers import build_tracker

    reader = None
    if config.ocr == "easyocr":
        from actors.tools.backends.reader import EasyOcr

        reader = EasyOcr(
            ocr_files(config),
            quantize=config.ocr_quantize,
            max_lines_side=config.ocr_max_lines_side,
            detect_side=config.ocr_detect_side,
            min_confidence=config.ocr_min_confidence,
        )
    encoder = None
    folder = _encoder_folder(config)
    if folder is not None:
        from actors.tools.backends.encoder import TransformersEncoder

        encoder = TransformersEncoder(folder)
    return Workbench(
        config=config,
        store=store,
        reader=reader,
        segmenter=build_segmenter(config),
        tracker=build_tracker(config),
        encoder=encoder,
    )


def ocr_files(config: ToolsConfig) -> OcrFiles:
    """EasyOCR's networks for the configured languages. Raises ModelError, one line."""
    from actors.tools.backends.languages import find_files

    return find_files(config.ocr_languages, None if config.weights_dir is None else Path(config.weights_dir))


def _encoder_folder(config: ToolsConfig) -> Path | None:
    from actors.tools.backends.encoder import encoder_folder

    if config.encoder == "none" or (config.encoder == "auto" and config.weights_dir is None):
        return None
    if config.weights_dir is None:
        raise ModelError("tools.encoder=clip needs tools.weights_dir, a folder with a CLIP or SigLIP model")
    try:
        return encoder_folder(Path(config.weights_dir))
    except ModelError:
        if config.encoder == "clip":
            raise
        return None
