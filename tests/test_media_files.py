"""A user's file: pictures as they should be seen, videos exact to the frame, hostile ones refused in one line."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes.videos import CODECS, number_of, numbered, write_sound, write_video
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from actors.files import evenly, open_media
from actors.tools.config import MediaLimits, ToolsConfig
from actors.video import Video
from common.errors import MediaError
from common.media import FolderMediaStore, pixels_of
from common.types import Clip

LIMITS = MediaLimits()


def clip_in(path: Path, store: FolderMediaStore, limits: MediaLimits = LIMITS) -> Clip:
    clip = open_media(path, store, limits)
    assert isinstance(clip, Clip)
    return clip


def numbers(clip: Clip, store: FolderMediaStore) -> list[int]:
    return [number_of(pixels_of(store, ref)) for ref in clip.frames]


def decoded_by_hand(path: Path) -> list[tuple[float, np.ndarray]]:
    """Every frame from the beginning, as FFmpeg hands them out."""
    import av

    with av.open(str(path)) as container:
        frames = [(float(frame.time), frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    return [(time - frames[0][0], pixels) for time, pixels in frames]


# Videos


@pytest.mark.parametrize("kind", CODECS)
def test_every_frame_is_found_by_its_number_whatever_lies_between(tmp_path: Path, kind: str) -> None:
    path = write_video(tmp_path / "v", numbered(30), kind=kind)
    truth = decoded_by_hand(path)
    assert len(truth) == 30
    with Video(path, LIMITS) as video:
        assert np.allclose(video.times_s, [time for time, _ in truth], atol=2e-3)
        for index in (0, 29, 7, 8, 9, 15, 16, 3):
            ((found, pixels),) = video.frames([index])
            assert found == index and np.abs(pixels.astype(int) - truth[index][1]).max() <= 8
        some = [1, 2, 11, 12, 27]
        assert [number_of(pixels) for _, pixels in video.frames(some)] == some


def test_a_clip_has_all_frames_with_their_seconds_and_shows_a_few(tmp_path: Path) -> None:
    store = FolderMediaStore(tmp_path / "store")
    clip = clip_in(write_video(tmp_path / "v.mp4", numbered(20)), store, replace(LIMITS, num_shown=3))
    assert numbers(clip, store) == list(range(20))
    assert np.allclose(clip.times_s, [0.04 * index for index in range(20)], atol=1e-4)
    assert clip.shown == (0, 10, 19)


@pytest.mark.parametrize("kind", ["mp4", "webm"])
def test_uneven_frames_keep_their_own_times(tmp_path: Path, kind: str) -> None:
    times = [0, 40, 50, 400, 1000, 1010, 1020, 3000, 3040, 9000]
    store = FolderMediaStore(tmp_path / "store")
    clip = clip_in(write_video(tmp_path / "v", numbered(10), times_ms=times, kind=kind), store)
    assert numbers(clip, store) == list(range(10))
    assert np.allclose(clip.times_s, [time / 1000 for time in times], atol=1e-3)


@given(st.integers(1, 400), st.integers(1, 60))
def test_thinning_keeps_the_ends_and_never_repeats(count: int, most: int) -> None:
    kept = evenly(count, most)
    assert len(kept) == min(count, most) and kept == sorted(set(kept))
    assert kept[0] == 0 and (most == 1 or kept[-1] == count - 1)


def test_a_long_video_is_thinned_and_a_large_one_shrunk(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", numbered(40, width=128, height=64))
    store = FolderMediaStore(tmp_path / "store")
    clip = clip_in(path, store, replace(LIMITS, max_frames=5, frame_side=32))
    assert numbers(clip, store) == [0, 10, 20, 29, 39]
    assert {(ref.width, ref.height) for ref in clip.frames} == {(32, 16)}


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"max_seconds": 1.0}, "at most 1 s"),
        ({"max_pixels": 1000}, "at most 1,000"),
        ({"max_bytes": 500}, "at most 500"),
    ],
)
def test_a_video_beyond_a_limit_is_refused_before_it_is_decoded(
    tmp_path: Path, limits: dict[str, float], reason: str
) -> None:
    path = write_video(tmp_path / "v.mp4", numbered(40))
    with pytest.raises(MediaError, match=reason) as caught:
        open_media(path, FolderMediaStore(tmp_path / "store"), replace(LIMITS, **limits))  # type: ignore[arg-type]
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_sound_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="no pictures, only sound"):
        open_media(write_sound(tmp_path / "a.mp4"), FolderMediaStore(tmp_path / "store"), LIMITS)


def test_a_video_cut_short_gives_its_whole_frames_or_is_refused(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "v.ts", numbered(40), kind="ts").read_bytes()
    cut = tmp_path / "cut.ts"
    cut.write_bytes(whole[: int(len(whole) * 0.7)])
    store = FolderMediaStore(tmp_path / "store")
    clip = clip_in(cut, store)
    assert 10 < len(clip.frames) < 40 and numbers(clip, store)[:10] == list(range(10))
    headless = tmp_path / "cut.mp4"
    headless.write_bytes(write_video(tmp_path / "v.mp4", numbered(40)).read_bytes()[:-200])
    with pytest.raises(MediaError, match="neither a picture nor a video"):
        open_media(headless, store, LIMITS)


def test_a_playlist_reaches_no_other_file(tmp_path: Path) -> None:
    video = write_video(tmp_path / "v.ts", numbered(5), kind="ts")
    for name, text in (
        ("list.m3u8", f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{video}\n#EXT-X-ENDLIST\n"),
        ("list.ffconcat", f"ffconcat version 1.0\nfile '{video}'\n"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(MediaError, match="neither a picture nor a video"):
            open_media(tmp_path / name, FolderMediaStore(tmp_path / "store"), LIMITS)


def test_real_videos_are_read_exactly(tmp_path: Path) -> None:
    folder = Path(__file__).parents[2] / "shared" / "data" / "videos"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data/videos")
    path = min(folder.glob("*.mp4"), key=lambda file: file.stat().st_size)
    truth = decoded_by_hand(path)
    with Video(path, replace(LIMITS, frame_side=10_000)) as video:
        assert len(video.times_s) == len(truth)
        for index in (0, len(truth) // 2, len(truth) - 1):
            ((_, pixels),) = video.frames([index])
            assert np.abs(pixels.astype(int) - truth[index][1]).mean() < 1
            assert abs(video.times_s[index] - truth[index][0]) < 1e-3


# Pictures


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF"])
def test_a_picture_is_known_by_its_bytes_not_its_name(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "picture.mp4"
    Image.new("RGB", (40, 30), (200, 10, 10)).save(path, kind)
    store = FolderMediaStore(tmp_path / "store")
    (ref,) = open_media(path, store, LIMITS)
    assert (ref.width, ref.height, ref.kind) == (40, 30, "image")
    assert np.abs(pixels_of(store, ref).astype(int) - (200, 10, 10)).max() <= 6


def test_of_an_animation_the_first_frame_counts(tmp_path: Path) -> None:
    path = tmp_path / "a.gif"
    pictures = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    pictures[0].save(path, save_all=True, append_images=pictures[1:])
    store = FolderMediaStore(tmp_path / "store")
    (ref,) = open_media(path, store, LIMITS)
    assert pixels_of(store, ref)[0, 0].tolist() == [255, 0, 0]


def test_a_pixel_and_a_long_strip_are_pictures_and_a_bomb_is_none(tmp_path: Path) -> None:
    store = FolderMediaStore(tmp_path / "store")
    for size in ((1, 1), (20_000, 1), (1, 20_000), (20_000, 1_000)):
        Image.new("1", size).save(tmp_path / "p.png")
        (ref,) = open_media(tmp_path / "p.png", store, LIMITS)
        assert (ref.width, ref.height) == size
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    assert (tmp_path / "bomb.png").stat().st_size < 100_000
    with pytest.raises(MediaError, match="at most 40,000,000 are decoded"):
        open_media(tmp_path / "bomb.png", store, LIMITS)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"\x89PNG\r\n\x1a\n", "not a whole picture"),
        (b"hello, this is text", "neither a picture nor a video"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "neither a picture nor a video"),
        (b"\0" * 5000, "neither a picture nor a video"),
    ],
)
def test_what_is_neither_is_refused_in_one_line(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(MediaError, match=reason) as caught:
        open_media(path, FolderMediaStore(tmp_path / "store"), LIMITS)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_no_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "nothing", "no such file"), (tmp_path, "not a file")):
        with pytest.raises(MediaError, match=reason):
            open_media(path, FolderMediaStore(tmp_path / "store"), LIMITS)


def test_floating_point_and_broken_orientation(tmp_path: Path) -> None:
    store = FolderMediaStore(tmp_path / "store")
    Image.new("F", (4, 4), 0.5).save(tmp_path / "f.tiff")
    with pytest.raises(MediaError, match="floating-point"):
        open_media(tmp_path / "f.tiff", store, LIMITS)
    buffer = io.BytesIO()
    Image.new("RGB", (4, 2)).save(buffer, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff garbage")
    (tmp_path / "e.jpg").write_bytes(buffer.getvalue())
    (ref,) = open_media(tmp_path / "e.jpg", store, LIMITS)
    assert (ref.width, ref.height) == (4, 2)


def test_the_limits_are_those_of_the_configuration() -> None:
    assert ToolsConfig().media_limits == MediaLimits()
    assert ToolsConfig(max_file_mb=1, max_seconds=2.0).media_limits == MediaLimits(max_bytes=2**20, max_seconds=2.0)
