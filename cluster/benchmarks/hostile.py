"""What an enemy, or a young policy, sends: turns that go wrong in every way, and media files that were tampered with.

Each case is a function of (seed, number), so one that fails can be had again. `python -m cluster.benchmarks.hostile` is
a worker whose tool FILE opens a file as `pixelis ask` does, and uses what it finds.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from actors.dialogue import Answer, Calls, read
from actors.files import open_media
from actors.tools.config import MediaLimits, ToolsConfig
from actors.tools.frames import Setup
from actors.tools.ports import Job, Plan, Result, Seen
from actors.tools.toolbox import Toolbox
from actors.tools.worker import main
from actors.tools.workspace import Workspace
from common.chat import canonical_json
from common.errors import MediaError
from common.media import FolderMediaStore, pixels_of, put_image
from common.seeds import stream
from common.types import Clip, MediaRef, Query, ToolCall

TOOLS = ("ZOOM", "SEG", "TRK", "OCR", "TEMP", "PROP")
LIMITS = MediaLimits(max_bytes=2**22, max_pixels=2_000_000, max_frames=24, max_seconds=60.0, frame_side=256)
CALLS_AN_EPISODE = 12

_FINE = "image_1 image_2 image_3 frame_1 frame_4 frame_6 mask_1 mask_2 track_1 track_2"
_WRONG = "image_0 image_99 image_1000000 image_01 image_\u0661 image_-1 image_1.0 Image_1 image frame_0 frame_7 mask_0"
_MARKS = "<tool_call> </tool_call> <answer> </answer> <|im_end|> <|im_start|> <|image_pad|>"
_SIGNS = '{ } [ ] " : , \\ \\u0000 \\ud800 \\udfff name arguments "name":"ZOOM" NaN Infinity -Infinity 1e999 null true'

_NUMBERS: tuple[Any, ...] = (
    *(0, 1, -1, 0.5, 500, 999.999, 1000, 1000.0001, -0.0, 1e-320, 1e308, -1e308, 2**31, 2**63, -(2**63), 10**40),
    *(True, False, None, "7", "NaN", [], {}),
)
_NAMES: tuple[Any, ...] = (
    *(*_FINE.split(), *_WRONG.split(), *_MARKS.split(), "", "image_1 ", " image_1", "image_1\n", "image_\u200b1"),
    *("../../etc/passwd", "\x00", "a" * 5000, None, 1, [], {}, ["image_1"]),
)
_WORDS = (
    *("red", "change", "image_1", "frame_3", "track_1 stops", "blue disc enters", "", " ", "\x00", "\ufeff"),
    *("\u0301" * 50, "\U0001f7e5" * 80, "</tool_call><answer>1</answer>", "<|image_pad|>" * 9, "word " * 500),
    "<|im_end|>\n<|im_start|>assistant",
)
_PIECES = (
    *(*_MARKS.split(), *_SIGNS.split(), "\n", "\x00", "\x7f", "\U0001f4a5", "\u2028"),
    *("[" * 50, '{"a":' * 30, "0" * 400),
)


# Turns


def turn(seed: int, number: int) -> str:
    """What a policy might write: a call that is right, hostile or damaged, an answer, or noise."""
    random = stream(seed, "turn", number)
    kind = int(random.integers(10))
    if kind == 0:
        return "".join(str(random.choice(_PIECES)) for _ in range(int(random.integers(0, 14))))
    if kind == 1:
        return "".join(map(chr, random.integers(1, 0xD7FF, int(random.integers(0, 60)))))
    name = str(random.choice(TOOLS))
    arguments = _right(name, random) if kind in (2, 3, 4, 5) else _hostile(random)
    if kind == 5:
        _spoil(arguments, random)
    if kind == 6:
        name = str(random.choice([*_WORDS, "zoom", "JUMP"]))
    text = f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"
    return _damaged(text, random) if kind >= 8 else text


def right_call(seed: int, number: int) -> ToolCall:
    """A call that a good policy might make on `scene`."""
    random = stream(seed, "call", number)
    name = str(random.choice(TOOLS, p=(0.3, 0.15, 0.05, 0.15, 0.1, 0.25)))
    return ToolCall(name=name, arguments=_right(name, random))


def _right(name: str, random: np.random.Generator) -> dict[str, Any]:
    """Arguments that are mostly in order."""
    picture = f"image_{random.integers(1, 3)}" if random.random() < 0.7 else f"frame_{random.integers(1, 7)}"
    x, y = (int(value) for value in random.integers(0, 700, 2))
    width, height = (int(value) for value in random.integers(60, 300, 2))
    box = [x, y, x + width, y + height]
    match name:
        case "ZOOM" | "OCR":
            return {"image": picture, "box": box}
        case "SEG":
            where = {"box": box} if random.random() < 0.5 else {"point": [x, y]}
            return {"image": picture, **where}
        case "TRK":
            return {"box": box, "frame": f"frame_{random.integers(1, 5)}"}
        case "TEMP":
            return {"query": str(random.choice(["red", "change", "image_1", "blue", "frame_2"]))}
        case _:
            return {"image": picture, "box": box}


def _hostile(random: np.random.Generator) -> dict[str, Any]:
    """Arguments of which anything may be wrong."""
    keys = ("image", "box", "point", "points", "mask", "track", "frame", "stop", "query", "factor", "other", "x", "")
    arguments: dict[str, Any] = {}
    for _ in range(int(random.integers(0, 5))):
        arguments[str(random.choice(keys))] = _value(random)
    return arguments


def _value(random: np.random.Generator, depth: int = 0) -> Any:
    kind = int(random.integers(6 if depth < 4 else 3))
    if kind == 0:
        return _NUMBERS[int(random.integers(len(_NUMBERS)))]
    if kind == 1:
        return _NAMES[int(random.integers(len(_NAMES)))]
    if kind == 2:
        return _WORDS[int(random.integers(len(_WORDS)))]
    if kind == 3:
        return {f"k{n}": _value(random, depth + 1) for n in range(int(random.integers(3)))}
    return [_value(random, depth + 1) for _ in range(int(random.integers(6)))]


def _spoil(arguments: dict[str, Any], random: np.random.Generator) -> None:
    """Make one thing wrong: a box swapped, empty, outside or of other numbers, a name that is none."""
    key = str(random.choice(sorted(arguments)))
    if isinstance(arguments[key], list):
        numbers = arguments[key]
        place = int(random.integers(len(numbers)))
        change: Callable[[], Any] = [
            lambda: numbers[::-1],
            lambda: numbers[:2] * 2,
            lambda: [-value for value in numbers],
            lambda: [value * 1000 for value in numbers],
            lambda: numbers[:-1],
            lambda: [*numbers[:place], _NUMBERS[int(random.integers(len(_NUMBERS)))], *numbers[place + 1 :]],
            lambda: [value / 1e6 for value in numbers],
        ][int(random.integers(7))]
        arguments[key] = change()
    else:
        arguments[key] = _NAMES[int(random.integers(len(_NAMES)))]


def _damaged(text: str, random: np.random.Generator) -> str:
    for _ in range(int(random.integers(1, 5))):
        at = int(random.integers(len(text) + 1))
        until = min(len(text), at + int(random.integers(0, 8)))
        text = text[:at] + str(random.choice(["", *_PIECES])) + text[until:]
    return text


# A scene to act on


def scene(store: FolderMediaStore, *, side: int = 96) -> Query:
    """Two small photographs and a clip of six frames in which a red disc moves."""
    photographs = [np.ascontiguousarray(_photograph(name)[:side, :side]) for name in ("astronaut", "coffee")]
    y, x = np.mgrid[:side, :side]
    frames = []
    for number in range(6):
        frame = photographs[1].copy()
        frame[(x - 20 - 10 * number) ** 2 + (y - side // 2) ** 2 < (side // 8) ** 2] = (220, 40, 40)
        frames.append(put_image(store, frame))
    clip = Clip(frames=tuple(frames), times_s=tuple(0.5 * number for number in range(6)), shown=(0,))
    return Query(query_id="hostile", question="?", images=tuple(put_image(store, p) for p in photographs), clip=clip)


@cache
def _photograph(name: str) -> NDArray[np.uint8]:
    from skimage import data

    pixels: NDArray[np.uint8] = getattr(data, name)()
    return pixels


@dataclass(slots=True)
class Episode:
    """A rollout of hostile turns: names accumulate, and it begins anew after a few calls."""

    toolbox: Toolbox
    query: Query
    workspace: Workspace | None = None
    num_calls: int = 0

    async def say(self, text: str) -> str:
        """What became of a turn: "answer", "malformed_call", an error's code, or "ok". Raises what should never be."""
        action = read(text).action
        if isinstance(action, Answer):
            return "answer"
        if not isinstance(action, ToolCall | Calls):
            return action.code
        outcome = "ok"
        for call in action.calls if isinstance(action, Calls) else (action,):
            outcome = await self.act(call)
        return outcome

    async def act(self, call: ToolCall) -> str:
        if self.workspace is None or self.num_calls >= CALLS_AN_EPISODE:
            self.workspace, self.num_calls = self.toolbox.open(self.query), 0
        executed, self.workspace = await self.toolbox.execute(call, self.workspace)
        self.num_calls += 1
        observation = executed.observation
        value = json.loads(observation.text)
        if canonical_json(value) != observation.text or "<" in observation.text:
            raise AssertionError(f"not canonical: {observation.text[:200]}")
        if (observation.error is None) == ("error" in value):
            raise AssertionError(f"an error that is not said, or said and none: {observation.text[:200]}")
        return observation.error or "ok"


# Files


def file(seed: int, number: int) -> bytes:
    """A picture or video file that was tampered with."""
    random = stream(seed, "file", number)
    bases = _bases()
    data = bytearray(bases[int(random.integers(len(bases)))])
    for _ in range(int(random.integers(1, 4))):
        _tamper(data, random, bases)
    return bytes(data)


def _tamper(data: bytearray, random: np.random.Generator, bases: tuple[bytes, ...]) -> None:
    if not data:
        return
    at = int(random.integers(len(data)))
    head = int(random.integers(min(len(data), 120)))
    match int(random.integers(9)):
        case 0:
            del data[at:]
        case 1:
            for place in random.integers(0, len(data), int(random.integers(1, 20))):
                data[place] = int(random.integers(256))
        case 2:
            data[head : head + 4] = random.bytes(4)
        case 3:
            data[head : head + 4] = int(random.choice([0, 1, 2**31 - 1, 2**31, 2**32 - 1, 20_000])).to_bytes(4, "big")
        case 4:
            data[head : head + 2] = int(random.choice([0, 1, 2**15, 2**16 - 1, 20_000])).to_bytes(2, "little")
        case 5:
            data[at : at + int(random.integers(1, 400))] = b""
        case 6:
            data[at:at] = data[at : at + int(random.integers(1, 400))]
        case 7:
            data[at : at + int(random.integers(1, 400))] = bytes(int(random.integers(1, 400)))
        case _:
            other = bases[int(random.integers(len(bases)))]
            data[at:] = other[int(random.integers(len(other))) :]


@cache
def _bases() -> tuple[bytes, ...]:
    """Whole files of every kind, from photographs."""
    return (*_pictures(), *_videos())


def _pictures() -> list[bytes]:
    from PIL import Image

    photograph = Image.fromarray(_photograph("astronaut")).resize((96, 72))
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = [photograph.rotate(90 * number) for number in range(3)]
    animated: dict[str, Any] = {"save_all": True, "append_images": frames[1:]}
    deep = Image.fromarray(np.asarray(photograph.convert("L")).astype(np.uint16) * 257)
    wanted: list[tuple[Image.Image, str, dict[str, Any]]] = [
        (photograph, "PNG", {}),
        (photograph, "JPEG", {}),
        (photograph, "JPEG", {"progressive": True, "exif": exif}),
        (photograph, "WEBP", {}),
        (photograph, "WEBP", {"lossless": True}),
        (photograph, "GIF", {}),
        (photograph, "BMP", {}),
        (photograph, "TIFF", {}),
        (photograph, "TIFF", {"compression": "tiff_lzw"}),
        (photograph, "PPM", {}),
        (photograph, "AVIF", {}),
        (photograph.convert("CMYK"), "JPEG", {}),
        (photograph.convert("CMYK"), "TIFF", {}),
        (photograph.convert("RGBA"), "PNG", {}),
        (photograph.convert("P"), "PNG", {}),
        (photograph.convert("1"), "PNG", {}),
        (photograph.convert("LA"), "PNG", {}),
        (deep, "PNG", {}),
        (deep, "TIFF", {}),
        (frames[0], "GIF", animated),
        (frames[0], "PNG", animated),
        (frames[0], "WEBP", animated),
    ]
    files = []
    for picture, kind, options in wanted:
        buffer = io.BytesIO()
        picture.save(buffer, kind, **options)
        files.append(buffer.getvalue())
    return files


def _videos() -> list[bytes]:
    import av

    files = []
    for container_format, codec in (("mp4", "mpeg4"), ("matroska", "libx264"), ("webm", "libvpx"), ("avi", "mjpeg")):
        buffer = io.BytesIO()
        with av.open(buffer, "w", format=container_format) as container:
            video: Any = container.add_stream(codec, rate=10)
            video.width, video.height = 64, 48
            video.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            for number in range(12):
                pixels = np.roll(_photograph("coffee")[:48, :64], 4 * number, axis=1)
                container.mux(video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")))
            container.mux(video.encode(None))
        files.append(buffer.getvalue())
    return files


def use(path: Path, store: FolderMediaStore) -> str:
    """Open a file and use it: "picture", "clip", or "refused". Raises what should never be."""
    try:
        media = open_media(path, store, LIMITS)
    except MediaError as error:
        if "\n" in str(error) or str(path) not in str(error):
            raise AssertionError(f"not one line with the file's name: {error}") from None
        return "refused"
    refs: tuple[MediaRef, ...] = media.frames if isinstance(media, Clip) else media
    for ref in refs:
        if pixels_of(store, ref).shape != (ref.height, ref.width, 3):
            raise AssertionError(f"{ref} is of another size")
    if not isinstance(media, Clip):
        return "picture"
    if list(media.times_s) != sorted(set(media.times_s)) or media.times_s[0] < 0 or not media.shown:
        raise AssertionError(f"times {media.times_s}, shown {media.shown}")
    return "clip"


class OpenFile:
    """FILE: what `use` says of the file at `path`."""

    name: ClassVar[str] = "FILE"
    version: ClassVar[int] = 1
    description: ClassVar[str] = "Open a file."
    arguments: ClassVar[type] = dict

    def plan(self, arguments: Any, workspace: Workspace, config: ToolsConfig) -> Plan:
        raise NotImplementedError

    def observe(self, plan: Plan, result: Result, workspace: Workspace, config: ToolsConfig) -> Seen:
        raise NotImplementedError

    def run(self, job: Job, bench: Any) -> Result:
        return Result(values={"outcome": use(Path(job.options["path"]), bench)})


def _store(setup: Setup) -> Any:
    return FolderMediaStore(Path(setup.store_root))


def _open_file(name: str) -> Any:
    return OpenFile()


if __name__ == "__main__":
    main(find=_open_file, furnish=_store)
