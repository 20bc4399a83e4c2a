"""How a picture that is a cut of another lies in a pack: 64 bytes instead of its pixels.

| byte | bytes | |
|---|---|---|
| 0 | 32 | digest of the source |
| 32 | 16 | box in the source: x0, y0, x1, y1 |
| 48 | 8 | width and height of the source |
| 56 | 1 | how the source is laid out: 0 rows of RGB, 1 a PNG that is not compressed |
| 57 | 1 | how the picture is |
| 58 | 6 | zero |
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Literal

from common.cuts import Cut, cut_out
from common.errors import MediaError
from common.media import content_digest
from common.stored_png import stored_size
from common.types import MediaRef
from replay.frames import Bytes

_RECIPE = struct.Struct("<32s4I2I2B6x")
RECIPE_BYTES = _RECIPE.size
_LAYOUTS: tuple[Literal["view", "image"], ...] = ("view", "image")


def pack_recipe(cut: Cut) -> bytes:
    source = cut.source
    layouts = (_LAYOUTS.index(source.kind), _LAYOUTS.index(cut.target.kind))
    return _RECIPE.pack(bytes.fromhex(source.digest), *cut.box, source.width, source.height, *layouts)


def unpack_recipe(digest: str, body: Bytes) -> Cut:
    """The recipe of the picture called `digest`, from bytes whose hash was checked."""
    source, x0, y0, x1, y1, width, height, laid_out, wanted = _RECIPE.unpack(body)
    return Cut(
        target=_ref(digest, wanted, x1 - x0, y1 - y0),
        source=_ref(source.hex(), laid_out, width, height),
        box=(x0, y0, x1, y1),
    )


def _ref(digest: str, layout: int, width: int, height: int) -> MediaRef:
    kind = _LAYOUTS[layout]
    size = 3 * width * height if kind == "view" else stored_size(width, height)
    return MediaRef(digest=digest, kind=kind, width=width, height=height, num_bytes=size)


def made(cut: Cut, read: Callable[[str], Bytes]) -> Bytes:
    """The picture again. read: the bytes of the source, by digest. Raises MediaError where they do not give it."""
    data = cut_out(cut, read(cut.source.digest))
    if data is None or content_digest(data) != cut.target.digest:
        raise MediaError(f"media {cut.target.digest[:12]}… is not in {cut.source.digest[:12]}…, which it was cut from")
    return data
