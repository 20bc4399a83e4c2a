"""Media by content: same bytes once, whole files only, hostile pictures named in one line."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import MediaError
from common.media import FolderMediaStore, content_digest, decode_image, load_image, pixels_of, put_image, put_view


def picture(width: int = 6, height: int = 4) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)


def test_what_was_put_reads_back_and_equal_content_is_kept_once(tmp_path: Path) -> None:
    store = FolderMediaStore(tmp_path)
    view, image = put_view(store, picture()), put_image(store, picture())
    assert put_view(store, picture()) == view
    assert np.array_equal(pixels_of(store, view), picture())
    assert np.array_equal(pixels_of(store, image), picture())
    assert len(list(tmp_path.glob("??/*"))) == 2
    assert content_digest(store.get(view.digest)) == view.digest


def test_missing_media_are_an_error_of_one_line(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="is not in"):
        FolderMediaStore(tmp_path).get("0" * 64)
    with pytest.raises(MediaError, match="no such file"):
        load_image(FolderMediaStore(tmp_path), tmp_path / "nothing.png")


def test_a_users_picture_is_kept_uncompressed_unless_it_is_large(tmp_path: Path) -> None:
    store = FolderMediaStore(tmp_path / "store")
    Image.fromarray(picture()).save(tmp_path / "small.png")
    small = load_image(store, tmp_path / "small.png")
    assert small.num_bytes > picture().size and np.array_equal(pixels_of(store, small), picture())
    flat = np.zeros((2001, 2001, 3), np.uint8)
    Image.fromarray(flat).save(tmp_path / "large.png")
    large = load_image(store, tmp_path / "large.png")
    assert large.num_bytes < flat.size / 10 and np.array_equal(pixels_of(store, large), flat)


def test_trim_removes_the_oldest_but_never_what_is_pinned(tmp_path: Path) -> None:
    store = FolderMediaStore(tmp_path)
    refs = [store.put(bytes([i]) * 100, kind="view", width=1, height=1) for i in range(5)]
    assert store.trim(200, keep=frozenset({refs[0].digest})) == 300
    assert refs[0].digest in store
    assert store.num_bytes() == 200


@pytest.mark.parametrize("cut", [0, 1, 20, 60])
def test_a_truncated_picture_is_refused(cut: int) -> None:
    buffer = io.BytesIO()
    Image.fromarray(picture(64, 64)).save(buffer, "PNG")
    with pytest.raises(MediaError, match=r"x\.png: not a whole picture"):
        decode_image(buffer.getvalue()[:cut], name="x.png")


def test_pictures_are_made_upright_rgb_with_alpha_on_white() -> None:
    def decoded(image: Image.Image, kind: str, **options: object) -> np.ndarray:
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        return decode_image(buffer.getvalue(), name="x")

    assert decoded(Image.new("RGBA", (2, 2), (0, 0, 0, 0)), "PNG").min() == 255
    assert decoded(Image.new("CMYK", (2, 2)), "TIFF").shape == (2, 2, 3)
    assert decoded(Image.fromarray(np.full((2, 2), 65535, np.uint16)), "PNG").max() == 255
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    assert decoded(Image.new("RGB", (4, 2)), "JPEG", exif=exif).shape == (4, 2, 3)


def test_a_decompression_bomb_is_refused_before_it_is_decoded() -> None:
    buffer = io.BytesIO()
    Image.new("1", (9000, 9000)).save(buffer, "PNG")
    with pytest.raises(MediaError, match="at most"):
        decode_image(buffer.getvalue(), name="bomb.png")
