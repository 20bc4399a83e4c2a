"""Media by content: a folder of files named by the hash of their bytes.

The live store of a node is a folder in shared memory, so every process of the node reads the same bytes without a copy
through anyone; the replay keeps a durable one beside its log. A file appears whole (written aside, then renamed) and is
never changed, so readers need no lock.
"""

from __future__ import annotations

import io
import mmap
import os
import struct
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from common.errors import MediaError
from common.stored_png import MAX_WIDTH, stored_pixels, stored_png
from common.types import MediaRef

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 64_000_000
"""A picture that decodes to more is refused (a decompression bomb, or a mistake)."""
MAX_BYTES = 512 * 2**20
"""A file that is larger is not read."""
MAX_STORED_PIXELS = 4_000_000
"""A user's picture of at most so many pixels is kept uncompressed: 12 MB, looked at in a millisecond or two instead of
tens; a larger one is compressed to about a third."""
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
"""What is decoded. Pillow knows more; some of them run other programs or have rarely tested decoders."""


def content_digest(data: bytes | memoryview) -> str:
    """blake3 of `data`, hexadecimal, 64 characters."""
    from blake3 import blake3

    return blake3(data).hexdigest()


class MediaSource(Protocol):
    """Where media are read, by digest. Both raise MediaError for what is not here."""

    @property
    def root(self) -> Path: ...

    def __contains__(self, digest: str) -> bool: ...

    def get(self, digest: str) -> bytes: ...

    def mapped(self, digest: str) -> mmap.mmap | memoryview | bytes:
        """The bytes, read-only and not copied."""
        ...


class FolderMediaStore:
    """Content-addressed files under `root`: `root/ab/abcdef…`. Safe for many processes at once."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self.root.mkdir(parents=True, exist_ok=True)

    def path(self, digest: str) -> Path:
        return Path(self._name(digest))

    def __contains__(self, digest: str) -> bool:
        return os.access(self._name(digest), os.F_OK)

    def put(self, data: bytes | memoryview, *, kind: str, width: int, height: int) -> MediaRef:
        """Keep `data`; the same bytes are kept once."""
        digest = content_digest(data)
        ref = MediaRef(digest=digest, kind=kind, width=width, height=height, num_bytes=len(data))  # type: ignore[arg-type]
        path = self.path(digest)
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            handle, aside = tempfile.mkstemp(dir=path.parent, prefix=".aside-")
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            Path(aside).rename(path)
        return ref

    def get(self, digest: str) -> bytes:
        """The bytes. Raises MediaError when this node does not hold them."""
        try:
            return self.path(digest).read_bytes()
        except FileNotFoundError:
            raise MediaError(f"media {digest[:12]}… is not in {self.root}") from None

    def mapped(self, digest: str) -> mmap.mmap | memoryview | bytes:
        """The bytes, read-only and not copied: a file never changes. Raises MediaError as `get` does."""
        try:
            file = os.open(self._name(digest), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise MediaError(f"media {digest[:12]}… is not in {self.root}") from None
        try:
            size = os.fstat(file).st_size
            return mmap.mmap(file, size, access=mmap.ACCESS_READ) if size else b""
        finally:
            os.close(file)

    def stamp(self, digest: str) -> tuple[int, int] | None:
        """Which file it is: inode, and nanoseconds since 1970 when it became that. None when it is not here."""
        try:
            status = self.path(digest).stat()
        except FileNotFoundError:
            return None
        return status.st_ino, status.st_ctime_ns

    def _name(self, digest: str) -> str:
        """The path, without the time that pathlib takes."""
        return f"{self.root}/{digest[:2]}/{digest}"

    def num_bytes(self) -> int:
        return sum(file.stat().st_size for file in self.root.glob("??/*"))

    def trim(self, max_bytes: int, keep: frozenset[str] = frozenset()) -> int:
        """Remove the files used longest ago, except `keep`, until at most `max_bytes` stay. Returns the bytes
        removed.
        """
        files = sorted(self.root.glob("??/[!.]*"), key=lambda file: file.stat().st_mtime)
        total, removed = sum(file.stat().st_size for file in files), 0
        for file in files:
            if total - removed <= max_bytes:
                break
            if file.name not in keep:
                removed += file.stat().st_size
                file.unlink(missing_ok=True)
        return removed


def put_view(store: FolderMediaStore, pixels: NDArray[np.uint8]) -> MediaRef:
    """Keep what the model sees: RGB rows, shape (height, width, 3)."""
    height, width, _ = pixels.shape
    return store.put(np.ascontiguousarray(pixels).data.cast("B"), kind="view", width=width, height=height)


def put_image(store: FolderMediaStore, pixels: NDArray[np.uint8], *, compress: bool = True) -> MediaRef:
    """Keep a picture that tools act on, as PNG: RGB, shape (height, width, 3).

    Without `compress` the PNG is about as large as the pixels and some twenty times as fast to write (one that is
    wider than MAX_WIDTH is compressed all the same).
    """
    from PIL import Image

    height, width, _ = pixels.shape
    if not compress and width <= MAX_WIDTH:
        return store.put(stored_png(pixels), kind="image", width=width, height=height)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return store.put(buffer.getvalue(), kind="image", width=width, height=height)


def put_users_image(store: FolderMediaStore, pixels: NDArray[np.uint8]) -> MediaRef:
    """Keep a user's picture: as it is up to MAX_STORED_PIXELS, compressed beyond."""
    return put_image(store, pixels, compress=pixels.shape[0] * pixels.shape[1] > MAX_STORED_PIXELS)


def pixels_of(store: MediaSource, ref: MediaRef) -> NDArray[np.uint8]:
    """The pixels of `ref`: RGB, shape (height, width, 3), read-only."""
    data = store.mapped(ref.digest)
    flat = flat_pixels(data, ref)
    return decode_image(bytes(data), name=ref.digest[:12]) if flat is None else flat


def flat_pixels(data: bytes | memoryview | mmap.mmap, ref: MediaRef) -> NDArray[np.uint8] | None:
    """The pixels where they lie in the bytes of `ref`: RGB, shape (height, width, 3), read-only; None for an image that
    has to be decoded. Raises MediaError for a view of another size.
    """
    if ref.kind == "image":
        return stored_pixels(data, ref.width, ref.height)
    if len(data) != 3 * ref.width * ref.height:
        raise MediaError(f"view {ref.digest[:12]}… has {len(data)} bytes, not {ref.width}×{ref.height} pixels")
    return np.frombuffer(data, np.uint8).reshape(ref.height, ref.width, 3)


def decode_image(data: bytes, *, name: str, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """An encoded picture as RGB, upright by its EXIF orientation, alpha on white, shape (height, width, 3).

    16-bit values are divided by 257; of an animation the first frame counts; an orientation that cannot be read is
    none. Raises MediaError, one line, when the bytes are no whole picture of one of FORMATS, are floating-point values
    or are more than `max_pixels`.
    """
    from PIL import Image, UnidentifiedImageError

    if not data:
        raise MediaError(f"{name}: not a whole picture (the file is empty)")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > max_pixels:
                raise MediaError(f"{name}: {image.width}×{image.height} pixels; at most {max_pixels:,} are decoded")
            image.load()
            return _rgb(_upright(image), name)
    except MediaError:
        raise
    except Image.DecompressionBombError:
        raise MediaError(f"{name}: far too many pixels; at most {max_pixels:,} are decoded") from None
    except UnidentifiedImageError:
        raise MediaError(f"{name}: not a whole picture (none of {', '.join(FORMATS)} in its first bytes)") from None
    except Exception as error:  # what decoders raise on damaged bytes is not bounded by their documents
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise MediaError(f"{name}: not a whole picture ({reason})") from error


def _upright(image: Image.Image) -> Image.Image:
    from PIL import ExifTags, Image

    turns = Image.Transpose
    by_orientation = {
        2: turns.FLIP_LEFT_RIGHT,
        3: turns.ROTATE_180,
        4: turns.FLIP_TOP_BOTTOM,
        5: turns.TRANSPOSE,
        6: turns.ROTATE_270,
        7: turns.TRANSVERSE,
        8: turns.ROTATE_90,
    }
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except (SyntaxError, ValueError, TypeError, KeyError, IndexError, OSError, OverflowError, struct.error):
        return image  # the pixels are good even where the notes about them are not
    turn = by_orientation.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _rgb(image: Image.Image, name: str) -> NDArray[np.uint8]:
    from PIL import Image

    if image.mode == "F":
        raise MediaError(f"{name}: floating-point pixels have no agreed range; save it with 8 or 16 bits")
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image)
        grey = (values.clip(0, 65535) // 257).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return np.asarray(image.convert("RGB"))


def read_file(path: Path, *, max_bytes: int) -> bytes:
    """The bytes of a user's file. Raises MediaError, one line, when it is none or larger."""
    if not path.is_file():
        raise MediaError(f"{path}: no such file" if not path.exists() else f"{path}: not a file")
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise MediaError(f"{path}: {size:,} bytes; at most {max_bytes:,} are read")
        return path.read_bytes()
    except OSError as error:
        raise MediaError(f"{path}: cannot be read ({error.strerror})") from error


def load_image(
    store: FolderMediaStore, path: Path, *, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES
) -> MediaRef:
    """A user's picture into the store, checked and normalised. Raises MediaError, one line."""
    pixels = decode_image(read_file(path, max_bytes=max_bytes), name=str(path), max_pixels=max_pixels)
    return put_users_image(store, pixels)
