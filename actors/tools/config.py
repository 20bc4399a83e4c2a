"""What can be set about the tools. Light: imports no library."""

from __future__ import annotations

from dataclasses import dataclass, field

from common.geometry import GRID

OCR_BACK_ENDS = ("easyocr", "none")
SEGMENTERS = ("auto", "sam2", "classical")
TRACKERS = ("auto", "sam2", "nano", "classical")
ENCODERS = ("auto", "clip", "none")
TOOL_NAMES = ("ZOOM", "SEG", "TRK", "OCR", "TEMP", "PROP")
POSITIVE = (
    "deadline_s",
    "patience_s",
    "memory_mb",
    "max_queue",
    "start_timeout_s",
    "max_pixels",
    "max_frames",
    "max_text_length",
    "max_lines",
    "max_images",
    "max_masks",
    "max_tracks",
    "max_file_mb",
    "max_seconds",
    "frame_side",
    "num_shown",
    "cache_memory_mb",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaLimits:
    """What a file that a user brings may be; `ToolsConfig` explains the fields."""

    max_bytes: int = 512 * 2**20
    max_pixels: int = 40_000_000
    max_frames: int = 1024
    max_seconds: float = 600.0
    frame_side: int = 1280
    num_shown: int = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolsConfig:
    """The six tools, their back ends, their workers and their cache.

    num_workers: calls that execute at once, each in a process of one thread; 0 executes in this process, without
    deadlines. num_spares: further processes, which replace those that are killed and stand in for those that take long.
    fork: workers are forked from one loaded process; False starts each alone, as a GPU's context needs.
    deadline_s: seconds one call may take before its worker is killed. deadlines_s: the same by tool, where it differs.
    patience_s: seconds after which a spare worker goes on with the queue while a call runs to its end.
    memory_mb: MiB that a call may add to its worker before it is killed.
    max_queue: calls that wait at most; more of them wait for a place, for as long as their deadline.
    batches: by tool, how many waiting calls a worker takes at once (a GPU's back end is faster so); 1 where not named.
    start_timeout_s: seconds a worker may take to load.
    weights_dir: folder of optional weights (SAM2's checkpoints or a folder with a SAM2 or EdgeTAM model of
    transformers, NanoTrack's two ONNX files, EasyOCR's .pth files, a folder with a CLIP or SigLIP model); what is there
    is used.
    ocr, segmenter, tracker, encoder: back ends; "auto" takes the strongest whose weights are there.
    ocr_languages: EasyOCR's codes of the languages that are read, of one script (English goes with every script).
    ocr_quantize: int8 recurrent and linear layers (faster, the same text in practice).
    ocr_max_lines_side: the line finder reads pictures whose longer side is at most this many pixels, CRAFT larger ones.
    ocr_detect_side: the side that CRAFT sees at most. ocr_min_confidence: weaker lines are dropped, unless all are.
    sam2_overrides: Hydra overrides for SAM2's own configuration (a checkpoint of another size).
    sam2_image_size: the side of SAM2's input, in pixels.
    grid_step: the boxes that SEG, TRK and OCR return are multiples of this on the 0–1000 grid, rounded outward, for a
    model that writes a coarse grid itself.
    zoom_min_side, zoom_max_side: the longer side of a returned crop, in pixels, is brought within these.
    zoom_factor_side: the same at most, where the call names a factor.
    max_pixels, max_frames: larger pictures and longer clips are refused. max_text_length, max_lines: of an OCR
    observation. max_images, max_masks, max_tracks: that one rollout may name.
    max_file_mb, max_seconds: of a file that a user brings, MiB and seconds of video. frame_side: the longer side of a
    video's frames at most, in pixels; they are shrunk. num_shown: frames of a video that the model sees.
    cache_dir: folder that keeps results between runs, or None. cache_bytes: what it holds at most.
    cache_entries, cache_memory_mb: results kept in memory, their number and MiB at most.
    """

    num_workers: int = 1
    num_spares: int = 1
    fork: bool = True
    deadline_s: float = 30.0
    deadlines_s: dict[str, float] = field(default_factory=dict)
    patience_s: float = 5.0
    memory_mb: int = 4096
    max_queue: int = 256
    batches: dict[str, int] = field(default_factory=dict)
    start_timeout_s: float = 180.0
    weights_dir: str | None = None
    ocr: str = "easyocr"
    segmenter: str = "auto"
    tracker: str = "auto"
    encoder: str = "auto"
    ocr_languages: tuple[str, ...] = ("en",)
    ocr_quantize: bool = True
    ocr_max_lines_side: int = 512
    ocr_detect_side: int = 1280
    ocr_min_confidence: float = 0.25
    sam2_overrides: tuple[str, ...] = ()
    sam2_image_size: int = 1024
    grid_step: int = 1
    zoom_min_side: int = 224
    zoom_max_side: int = 448
    zoom_factor_side: int = 1024
    max_pixels: int = 40_000_000
    max_frames: int = 1024
    max_text_length: int = 400
    max_lines: int = 8
    max_images: int = 64
    max_masks: int = 64
    max_tracks: int = 16
    max_file_mb: int = 512
    max_seconds: float = 600.0
    frame_side: int = 1280
    num_shown: int = 8
    cache_dir: str | None = None
    cache_bytes: int = 2 * 1024**3
    cache_entries: int = 16_384
    cache_memory_mb: int = 64

    def __post_init__(self) -> None:
        for name, value, choices in (
            ("ocr", self.ocr, OCR_BACK_ENDS),
            ("segmenter", self.segmenter, SEGMENTERS),
            ("tracker", self.tracker, TRACKERS),
            ("encoder", self.encoder, ENCODERS),
        ):
            if value not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value}")
        if self.num_workers < 0:
            raise ValueError(f"num_workers must be at least 0, got {self.num_workers}")
        if self.num_spares < 0:
            raise ValueError(f"num_spares must be at least 0, got {self.num_spares}")
        for name in POSITIVE:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name, least in (("deadlines_s", 0.0), ("batches", 1)):
            for tool, value in getattr(self, name).items():
                if tool not in TOOL_NAMES:
                    raise ValueError(f"{name}: no tool {tool!r}; there are {', '.join(TOOL_NAMES)}")
                if value < least or value == 0:
                    raise ValueError(f"{name}.{tool} must be positive, got {value}")
        if self.grid_step < 1 or GRID % self.grid_step:
            raise ValueError(f"grid_step must divide {GRID}, got {self.grid_step}")
        if not 1 <= self.zoom_min_side <= self.zoom_max_side:
            raise ValueError(
                f"zoom_min_side must be in [1, zoom_max_side], got {self.zoom_min_side} with {self.zoom_max_side}"
            )
        if self.zoom_factor_side < self.zoom_max_side:
            raise ValueError(f"zoom_factor_side must be at least zoom_max_side, got {self.zoom_factor_side}")
        if not self.ocr_languages:
            raise ValueError("ocr_languages must name at least one language, such as en")
        if not 0 <= self.ocr_min_confidence < 1:
            raise ValueError(f"ocr_min_confidence must be in [0, 1), got {self.ocr_min_confidence}")
        if self.cache_entries < 1 or self.cache_bytes < 0:
            raise ValueError(f"cache_entries must be positive and cache_bytes not negative, got {self.cache_entries}")

    def deadline_of(self, tool: str) -> float:
        """Seconds that a call of `tool` may take."""
        return self.deadlines_s.get(tool, self.deadline_s)

    @property
    def media_limits(self) -> MediaLimits:
        """What a file that a user brings may be."""
        return MediaLimits(
            max_bytes=self.max_file_mb * 2**20,
            max_pixels=self.max_pixels,
            max_frames=self.max_frames,
            max_seconds=self.max_seconds,
            frame_side=self.frame_side,
            num_shown=self.num_shown,
        )
