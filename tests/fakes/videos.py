"""Video files made here: frames whose mean grey tells their number, in any codec, with any times, with sound."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

CODECS = {
    "mp4": ("mp4", "libx264"),
    "mpeg4": ("mp4", "mpeg4"),
    "webm": ("webm", "libvpx-vp9"),
    "mkv": ("matroska", "libx264"),
    "avi": ("avi", "mpeg4"),
    "ts": ("mpegts", "libx264"),
}
TICK = Fraction(1, 1000)


def numbered(count: int, width: int = 64, height: int = 48) -> list[NDArray[np.uint8]]:
    """Frame i is grey of 10 + 6 · i, with a white corner at the upper left."""
    frames = []
    for number in range(count):
        frame = np.full((height, width, 3), 10 + 6 * number, np.uint8)
        frame[: height // 4, : width // 4] = 255
        frames.append(frame)
    return frames


def number_of(frame: NDArray[np.uint8]) -> int:
    """Which of `numbered` a decoded frame is."""
    height, width = frame.shape[:2]
    return round((float(frame[height // 2 :, width // 2 :].mean()) - 10) / 6)


def write_video(
    path: Path,
    frames: Sequence[NDArray[np.uint8]],
    *,
    times_ms: Sequence[int] | None = None,
    kind: str = "mp4",
    gop: int = 8,
    rotation: int = 0,
) -> Path:
    """`frames` at `times_ms` (40 ms apart if not given); a key frame at least every `gop`, B-frames between."""
    import av

    container_format, codec = CODECS[kind]
    with av.open(str(path), "w", format=container_format) as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.gop_size = gop
        stream.bit_rate = 2_000_000
        if codec == "libx264":
            stream.options = {"crf": "12", "bf": "2"}
            stream.codec_context.time_base = TICK
        elif codec == "libvpx-vp9":
            stream.codec_context.time_base = TICK
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if times_ms is None:
                frame.pts, frame.time_base = number, Fraction(1, 25)
            else:
                frame.pts, frame.time_base = times_ms[number], TICK
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_sound(path: Path, *, seconds: float = 0.5) -> Path:
    """A sine, and no pictures."""
    import av

    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16000)
        wave = np.sin(np.arange(int(16000 * seconds)) * 0.1).astype(np.float32)[None]
        frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
