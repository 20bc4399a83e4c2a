"""What can be set about the tools. Light: imports no library."""

from __future__ import annotations

from dataclasses import dataclass

OCR_BACK_ENDS = ("easyocr", "none")
SEGMENTERS = ("auto", "sam2", "grabcut")
TRACKERS = ("auto", "nano", "correlation")


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolsConfig:
    """The six tools, their back ends, their workers and their cache.

    num_workers: processes that execute calls, one thread each; 0 executes in this process, without deadlines.
    deadline_s: seconds one call may take before its worker is killed.
    start_timeout_s: seconds a worker may take to load.
    weights_dir: folder of optional weights (SAM2 checkpoints, NanoTrack's two ONNX files); what is there is used.
    ocr, segmenter, tracker: back ends; "auto" takes the strongest whose weights are there.
    ocr_quantize: int8 recurrent and linear layers (faster, the same text in practice).
    ocr_max_lines_side: the line finder reads pictures whose longer side is at most this many pixels, CRAFT larger ones.
    ocr_detect_side: the side that CRAFT sees at most. ocr_min_confidence: weaker lines are dropped, unless all are.
    sam2_overrides: Hydra overrides for SAM2's own configuration (a checkpoint of another size).
    sam2_image_size: the side of SAM2's input, in pixels.
    zoom_min_side, zoom_max_side: the longer side of a returned crop, in pixels, is brought within these.
    max_pixels, max_frames: larger pictures and longer clips are refused. max_text_length, max_lines: of an OCR
    observation.
    cache_dir: folder that keeps results between runs, or None. cache_bytes: what stays in it at most when a run starts.
    cache_entries: results kept in memory.
    """

    num_workers: int = 1
    deadline_s: float = 30.0
    start_timeout_s: float = 180.0
    weights_dir: str | None = None
    ocr: str = "easyocr"
    segmenter: str = "auto"
    tracker: str = "auto"
    ocr_quantize: bool = True
    ocr_max_lines_side: int = 512
    ocr_detect_side: int = 1280
    ocr_min_confidence: float = 0.25
    sam2_overrides: tuple[str, ...] = ()
    sam2_image_size: int = 1024
    zoom_min_side: int = 224
    zoom_max_side: int = 448
    max_pixels: int = 40_000_000
    max_frames: int = 1024
    max_text_length: int = 400
    max_lines: int = 8
    cache_dir: str | None = None
    cache_bytes: int = 2 * 1024**3
    cache_entries: int = 16_384

    def __post_init__(self) -> None:
        for name, value, choices in (
            ("ocr", self.ocr, OCR_BACK_ENDS),
            ("segmenter", self.segmenter, SEGMENTERS),
            ("tracker", self.tracker, TRACKERS),
        ):
            if value not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value}")
        if self.num_workers < 0:
            raise ValueError(f"num_workers must be at least 0, got {self.num_workers}")
        for name in ("deadline_s", "start_timeout_s", "max_pixels", "max_frames", "max_text_length", "max_lines"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not 1 <= self.zoom_min_side <= self.zoom_max_side:
            raise ValueError(
                f"zoom_min_side must be in [1, zoom_max_side], got {self.zoom_min_side} with {self.zoom_max_side}"
            )
        if not 0 <= self.ocr_min_confidence < 1:
            raise ValueError(f"ocr_min_confidence must be in [0, 1), got {self.ocr_min_confidence}")
        if self.cache_entries < 1 or self.cache_bytes < 0:
            raise ValueError(f"cache_entries must be positive and cache_bytes not negative, got {self.cache_entries}")
