"""Media by content: a folder of files named by the hash of their bytes.

The live store of a node is a folder in shared memory, so every process of the node reads the same bytes without a copy
through anyone; the replay keeps a durable one beside its log. A file appears whole (written aside, then renamed) and is
never changed, so readers need no lock.
"""

from __future__ import annotations

import io
import os
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import MediaError
from common.types import MediaRef

MAX_PIXELS = 64_000_000
"""A picture that decodes to more is refused (a decompression bomb, or a mistake)."""


def content_digest(data: bytes) -> str:
    """blake3 of `data`, hexadecimal, 64 characters."""
    from blake3 import blake3

    return blake3(data).hexdigest()


class FolderMediaStore:
    """Content-addressed files under `root`: `root/ab/abcdef…`. Safe for many processes at once."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self.root.mkdir(parents=True, exist_ok=True)

    def path(self, digest: str) -> Path:
        return self.root / digest[:2] / digest

    def __contains__(self, digest: str) -> bool:
        return self.path(digest).exists()

    def put(self, data: bytes, *, kind: str, width: int, height: int) -> MediaRef:
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
    return store.put(np.ascontiguousarray(pixels).tobytes(), kind="view", width=width, height=height)


def put_image(store: FolderMediaStore, pixels: NDArray[np.uint8]) -> MediaRef:
    """Keep a picture that tools act on, as PNG: RGB, shape (height, width, 3)."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    height, width, _ = pixels.shape
    return store.put(buffer.getvalue(), kind="image", width=width, height=height)


def pixels_of(store: FolderMediaStore, ref: MediaRef) -> NDArray[np.uint8]:
    """The pixels of `ref`: RGB, shape (height, width, 3), read-only."""
    data = store.get(ref.digest)
    if ref.kind == "view":
        return np.frombuffer(data, np.uint8).reshape(ref.height, ref.width, 3)
    return decode_image(data, name=ref.digest[:12])


def decode_image(data: bytes, *, name: str) -> NDArray[np.uint8]:
    """An encoded picture as RGB, upright by its EXIF orientation, alpha on white, shape (height, width, 3).

    Raises MediaError, one line, when the bytes are no whole picture or hold more than MAX_PIXELS.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise MediaError(f"{name}: {image.width}×{image.height} pixels; at most {MAX_PIXELS:,} are decoded")
            upright = ImageOps.exif_transpose(image)
            if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
                layer = upright.convert("RGBA")
                white = Image.new("RGBA", layer.size, "white")
                upright = Image.alpha_composite(white, layer)
            elif upright.mode.startswith("I;16") or upright.mode == "I":
                values = np.asarray(upright, dtype=np.float64)
                return np.repeat((values / 257).clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
            return np.asarray(upright.convert("RGB"))
    except MediaError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise MediaError(f"{name}: not a whole picture ({error})") from error


def load_image(store: FolderMediaStore, path: Path) -> MediaRef:
    """A user's picture into the store, checked and normalised. Raises MediaError, one line."""
    if not path.is_file():
        raise MediaError(f"{path}: no such file")
    return put_image(store, decode_image(path.read_bytes(), name=str(path)))
