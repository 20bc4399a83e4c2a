"""A user's file, a picture or a video, into the media store.

What a file is, its first bytes say, not its name. A picture becomes one reference, of an animation the first frame. A
video becomes a clip: all its frames where it has few, else as many as may be, evenly spread, each with its own second.
"""

from __future__ import annotations

from pathlib import Path

from actors.tools.config import MediaLimits
from actors.video import Video
from common.errors import MediaError
from common.media import FolderMediaStore, load_image, put_image
from common.types import Clip, MediaRef

MIN_SHARE = 0.5
"""A video of which less can be decoded is refused."""
_PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*", *(b"P%d" % kind for kind in range(1, 7)))
_AVIF = (b"avif", b"avis", b"mif1")


def open_media(path: Path, store: FolderMediaStore, limits: MediaLimits) -> tuple[MediaRef, ...] | Clip:
    """The picture, or the video's frames, in `store`. Raises MediaError, one line, that says what to do."""
    if not path.is_file():
        raise MediaError(f"{path}: no such file" if not path.exists() else f"{path}: not a file")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise MediaError(f"{path}: cannot be read ({error.strerror})") from error
    if not size:
        raise MediaError(f"{path}: the file is empty; give a picture or a video")
    if size > limits.max_bytes:
        raise MediaError(f"{path}: {size:,} bytes; at most {limits.max_bytes:,} are read")
    if _is_picture(head):
        return (load_image(store, path, max_pixels=limits.max_pixels, max_bytes=limits.max_bytes),)
    return read_clip(path, store, limits)


def read_clip(path: Path, store: FolderMediaStore, limits: MediaLimits) -> Clip:
    """A video's frames, written to `store` one by one. Raises MediaError, one line."""
    with Video(path, limits) as video:
        chosen = evenly(len(video.times_s), limits.max_frames)
        read = [(put_image(store, pixels), video.times_s[index]) for index, pixels in video.frames(chosen)]
    if len(read) < MIN_SHARE * len(chosen) or not read:
        raise MediaError(f"{path}: not a whole video ({len(read)} of {len(chosen)} frames can be decoded)")
    refs, times = zip(*read, strict=True)
    return Clip(frames=refs, times_s=times, shown=tuple(evenly(len(refs), limits.num_shown)))


def evenly(count: int, most: int) -> list[int]:
    """At most `most` of the indices below `count`, evenly spread; the first and the last are among them.

    >>> evenly(10, 4)
    [0, 3, 6, 9]
    """
    if count <= most:
        return list(range(count))
    if most == 1:
        return [0]
    return [round(index * (count - 1) / (most - 1)) for index in range(most)]


def _is_picture(head: bytes) -> bool:
    if head.startswith(b"RIFF"):
        return head[8:12] == b"WEBP"
    return head.startswith(_PICTURES) or (head[4:8] == b"ftyp" and head[8:12] in _AVIF)
