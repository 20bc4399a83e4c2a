"""What the model sees: exact pixels of both kinds, and augmentations that are functions of their names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.config import ViewConfig
from actors.views import AUGMENTATIONS, Viewer, augment, see, van_der_corput
from common.chat import VisionShape
from common.media import FolderMediaStore, pixels_of, put_image

SHAPE = VisionShape(patch=8, merge=2, min_pixels=256, max_pixels=4096)
PLAIN = ViewConfig(frame_px=0)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_shrinking_averages_areas() -> None:
    picture = np.zeros((448, 448, 3), np.uint8)
    picture[:7, :7] = 200
    picture[:7, 7:14, 0] = 100
    view = see(picture, PLAIN, SHAPE)
    assert view.shape == (64, 64, 3)
    assert view[0, 0].tolist() == [200, 200, 200]
    assert view[0, 1].tolist() == [100, 0, 0]
    assert view[1:].max() == 0


def test_a_wide_picture_is_centred_between_bars_of_the_fill() -> None:
    view = see(np.full((100, 200, 3), 9, np.uint8), ViewConfig(frame_px=0, fill=(1, 2, 3)), SHAPE)
    assert (view[16:48] == 9).all()
    assert (view[:16] == (1, 2, 3)).all()
    assert (view[48:] == (1, 2, 3)).all()


def test_the_frame_is_one_pixel_of_four_colours() -> None:
    view = see(np.full((64, 64, 3), 50, np.uint8), ViewConfig(), SHAPE)
    assert (view[0, 1:-1] == (255, 0, 0)).all()
    assert (view[-1, 1:-1] == (0, 0, 255)).all()
    assert (view[:, 0] == (0, 255, 0)).all()
    assert (view[:, -1] == (255, 255, 0)).all()
    assert (view[1:-1, 1:-1] == 50).all()


def test_a_native_view_has_the_size_that_the_processor_would_choose() -> None:
    shape = VisionShape(patch=14, merge=2, min_pixels=3136, max_pixels=200_000)
    view = see(noise(480, 640), ViewConfig(kind="native"), shape)
    assert (view.shape[1], view.shape[0]) == shape.fit(640, 480)
    assert shape.fit(view.shape[1], view.shape[0]) == (view.shape[1], view.shape[0])


@given(st.sampled_from(AUGMENTATIONS), st.integers(0, 10**6))
def test_an_augmentation_is_a_function_of_its_name_and_changes_little(kind: str, number: int) -> None:
    ramp = np.linspace(60, 180, 64)
    picture = np.stack([np.add.outer(ramp, ramp) / 2, np.add.outer(0 * ramp, ramp), np.add.outer(ramp, 0 * ramp)], -1)
    pixels = picture.astype(np.uint8)
    once, again = augment(pixels, f"{kind}:{number}"), augment(pixels, f"{kind}:{number}")
    assert (once == again).all()
    assert np.abs(once.astype(int) - pixels.astype(int)).mean() < 75


def test_different_numbers_give_different_pixels_and_no_name_changes_nothing() -> None:
    pixels = noise(64, 64)
    assert augment(pixels, "") is pixels
    seen = {augment(pixels, f"mixed:{number}").tobytes() for number in range(8)}
    assert len(seen) == 8


def test_a_shift_moves_the_content_by_whole_pixels() -> None:
    pixels = noise(64, 64)
    moved = augment(pixels, "shift:5")
    inner = moved[4:-4, 4:-4]
    found = [
        (down, across)
        for down in range(-2, 3)
        for across in range(-2, 3)
        if (pixels[4 - down : 60 - down, 4 - across : 60 - across] == inner).all()
    ]
    assert len(found) == 1


def test_the_numbers_of_augmentations_cover_their_range_evenly() -> None:
    assert [van_der_corput(n, 2) for n in range(8)] == [0, 1 / 2, 1 / 4, 3 / 4, 1 / 8, 5 / 8, 3 / 8, 7 / 8]
    assert [van_der_corput(n, 3) for n in range(1, 5)] == pytest.approx([1 / 3, 2 / 3, 1 / 9, 4 / 9])
    grey = np.full((8, 8, 3), 100, np.uint8)
    assert [int(augment(grey, f"brightness:{n}")[0, 0, 0]) for n in (0, 1, 2, 3)] == [70, 106, 86, 130]


@pytest.mark.parametrize("name", ["hue", "hue:", "hue:-1", "blur:1", "hue:x", ":3"])
def test_an_unknown_augmentation_is_refused_with_what_there_is(name: str) -> None:
    with pytest.raises(ValueError, match="brightness, hue, shift, mixed"):
        augment(noise(8, 8), name)


async def test_the_viewer_makes_a_view_once_and_again_when_the_store_lost_it(tmp_path: Path) -> None:
    store = FolderMediaStore(tmp_path)
    viewer = Viewer(store, SHAPE, ViewConfig())
    picture = put_image(store, noise(448, 448))
    view = await viewer.view(picture)
    assert view.kind == "view"
    assert (pixels_of(store, view) == see(noise(448, 448), ViewConfig(), SHAPE)).all()
    store.path(view.digest).unlink()
    assert await viewer.view(picture) == view
    assert view.digest in store
    assert (await viewer.view(picture, "hue:1")).digest != view.digest


@pytest.mark.parametrize("fields", [{"kind": "round"}, {"side": 4}, {"frame_px": 40}])
def test_impossible_settings_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        ViewConfig(**fields)  # type: ignore[arg-type]
