"""A user's video: when its frames are, and their pixels, exact to the frame.

The packets are read once without being decoded, which tells the time of every frame, however uneven, and where decoding
can begin. A frame is then found by its time stamp: decode from the last key frame at or before it, drop what comes
earlier. One frame is in memory at a time, and one thread decodes.

A hostile file is met at the door: only containers that hold their own data are opened, no other file or address is
followed, and pixels, packets and seconds are counted before anything is decoded.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from actors.tools.config import MediaLimits
from common.errors import MediaError

if TYPE_CHECKING:
    from av import VideoFrame

CONTAINERS = ("mov", "matroska", "avi", "mpegts", "mpeg", "mpegvideo", "ogg", "flv", "asf", "h264", "hevc", "ivf")
MAX_RATE = 120
"""Packets a second of `max_seconds` at most."""
MAX_FAILURES = 256
"""Packets in a row that cannot be decoded, at most; then the rest is given up."""
_ATTACHED = 1 << 10
"""FFmpeg's AV_DISPOSITION_ATTACHED_PIC: the cover of a piece of music."""


class Video:
    """An open video file. Raises MediaError, one line, when it cannot be read or exceeds `limits`.

    times_s: the second of each frame, ascending, the first 0. Damaged frames are among them until someone decodes them.
    """

    def __init__(self, path: Path, limits: MediaLimits) -> None:
        import av

        self._path = path
        self._limits = limits
        try:
            self._open()
        except (av.FFmpegError, ValueError, OverflowError) as error:
            raise self._error(f"neither a picture nor a video that can be read ({_reason(error)})") from None
        try:
            self._choose()
            self._stamps, self._keys = self._index()
            self._base = float(self._stream.time_base or 1)
            self.times_s = tuple(round((stamp - self._stamps[0]) * self._base, 6) for stamp in self._stamps)
            if self.times_s[-1] > limits.max_seconds:
                raise self._error(f"lasts {self.times_s[-1]:,.0f} s; at most {limits.max_seconds:g} s are read")
        except (av.FFmpegError, ValueError, OverflowError) as error:
            self.close()
            raise self._error(f"not a whole video ({_reason(error)})") from None
        except MediaError:
            self.close()
            raise

    def _open(self) -> None:
        import av

        self._container = av.open(
            f"file:{self._path.absolute()}",
            options={"protocol_whitelist": "file", "format_whitelist": ",".join(CONTAINERS)},
            metadata_errors="replace",
        )

    def _choose(self) -> None:
        """The first stream of pictures, its decoder bounded."""
        pictures = [stream for stream in self._container.streams.video if not int(stream.disposition or 0) & _ATTACHED]
        if not pictures:
            raise self._error("holds no pictures, only sound or data; give a picture or a video")
        self._stream = pictures[0]
        context = self._stream.codec_context
        if context is None:
            raise self._error("is coded in a way that cannot be read; save it as H.264 in an MP4 file")
        self._check_size(context.width, context.height)
        context.thread_count = 1
        context.options = {"max_pixels": str(self._limits.max_pixels)}

    def _index(self) -> tuple[list[int], list[int]]:
        """Time stamps of all frames and of the key frames, ascending, in units of the stream's time base."""
        stamps: set[int] = set()
        keys: set[int] = set()
        most = MAX_RATE * self._limits.max_seconds
        for count, packet in enumerate(self._container.demux(self._stream)):
            if count > most:
                raise self._error(f"has more than {most:,.0f} frames")
            stamp = packet.pts if packet.pts is not None else packet.dts
            if stamp is None or not packet.size or packet.is_discard:
                continue
            stamps.add(stamp)
            if packet.is_keyframe:
                keys.add(stamp)
        if not stamps:
            raise self._error("holds no frames with a time; save it as H.264 in an MP4 file")
        return sorted(stamps), sorted(keys)

    def frames(self, indices: Sequence[int]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """The frames numbered `indices` (ascending), as they are decoded: index and RGB (height, width, 3).

        The longer side is at most `frame_side`; all have the size of the first. A frame that is damaged is left out.
        Raises MediaError when the file grows beyond its limits on the way.
        """
        size: tuple[int, int] | None = None
        wanted = {self._stamps[index]: index for index in indices}
        for stamp, frame in self._decoded(sorted(wanted)):
            self._check_size(frame.width, frame.height)
            size = size or self._fitted(frame)
            yield wanted[stamp], self._pixels(frame, size)

    def _decoded(self, wanted: list[int]) -> Iterator[tuple[int, VideoFrame]]:
        """Frames with these time stamps, ascending; those that are damaged are missing."""
        position = num_back = 0
        while position < len(wanted):
            fresh = True
            for stamp, frame in self._from_key(wanted[position], num_back):
                if fresh and stamp > wanted[position] and num_back < len(self._keys):
                    break
                fresh = False
                while position < len(wanted) and stamp > wanted[position]:
                    position += 1
                if position < len(wanted) and stamp == wanted[position]:
                    position += 1
                    yield stamp, frame
                if position == len(wanted):
                    return
                if self._keys_until(wanted[position]) > self._keys_until(stamp) + 1:
                    num_back = 0
                    break  # a key frame lies between, so what comes before it need not be decoded
            else:
                if not fresh or num_back >= len(self._keys):
                    return
            if fresh:
                num_back = 1 + 2 * num_back  # the container led us too far: begin at an earlier key frame

    def _from_key(self, stamp: int, num_back: int) -> Iterator[tuple[int, VideoFrame]]:
        """What can be decoded from the last key frame at or before `stamp`, or from `num_back` key frames earlier."""
        import av

        at = self._keys_until(stamp) - 1 - num_back
        if at > 0:
            self._container.seek(self._keys[at], stream=self._stream, backward=True)
        else:  # some containers cannot find their own beginning
            self._container.close()
            self._open()
            self._choose()
        num_failures = 0
        while num_failures < MAX_FAILURES:
            try:
                for packet in self._container.demux(self._stream):
                    for frame in packet.decode():
                        num_failures = 0
                        found = frame.pts if frame.pts is not None else frame.dts
                        if found is not None:
                            yield found, frame
                return
            except av.EOFError:
                return
            except (av.FFmpegError, ValueError):
                num_failures += 1  # the next packet may be whole

    def _keys_until(self, stamp: int) -> int:
        """How many key frames there are at or before `stamp`."""
        return bisect_right(self._keys, stamp)

    def _fitted(self, frame: VideoFrame) -> tuple[int, int]:
        """Width and height, in square pixels, with the longer side at most `frame_side`; before it is turned."""
        ratio = float(self._stream.sample_aspect_ratio or 1)
        width = frame.width * (ratio if 0.25 <= ratio <= 4 else 1)
        scale = min(1.0, self._limits.frame_side / max(width, frame.height))
        return max(1, round(width * scale)), max(1, round(frame.height * scale))

    def _pixels(self, frame: VideoFrame, size: tuple[int, int]) -> NDArray[np.uint8]:
        shown = frame.reformat(width=size[0], height=size[1], format="rgb24", interpolation="AREA")
        return np.ascontiguousarray(np.rot90(shown.to_ndarray(), round(frame.rotation / 90) % 4))

    def _check_size(self, width: int, height: int) -> None:
        if width * height > self._limits.max_pixels:
            raise self._error(f"{width}×{height} pixels a frame; at most {self._limits.max_pixels:,} are decoded")

    def _error(self, text: str) -> MediaError:
        return MediaError(f"{self._path}: {text}")

    def close(self) -> None:
        self._container.close()

    def __enter__(self) -> Video:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _reason(error: Any) -> str:
    """In a few words; FFmpeg's own come with a number and the file's name."""
    return str(getattr(error, "strerror", None) or error).split("\n")[0][:120]
