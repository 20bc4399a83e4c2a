"""Clips: travellers that meet behind an occluder, and others that enter, stop, change or cross a line.

Every frame is painted through a z-buffer: the occluder in front, then the target, then the rest. A thing keeps its
pixels while it moves by whole pixels, so masks are exact in every frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count, pairwise

import numpy as np
from numpy.typing import NDArray

from actors.tasks.scene import COLOURS
from actors.tasks.scenes.acts import ACTS, Plan, perform, travel
from actors.tasks.scenes.events import Course, events_of
from actors.tasks.scenes.ground import add_noise, draw_ground
from actors.tasks.scenes.paint import BAR_COLOURS, clipped, colour_names, lay, painted, shaded, stands_out
from actors.tasks.scenes.shapes import SHAPES, silhouette, tight_box
from actors.tasks.scenes.truth import Difficulty, Event, Moving, Shape, Thing, Track, Written
from actors.tasks.scenes.writing import lay_ink, write
from common.types import Box

_SIGN, _SIGN_INK = 235, 16
"""Grey levels of the signs and of their digits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Player:
    """A thing with its plan. colours, rgbs: its own, and the one it turns to (its own again when it does not)."""

    shape: Shape
    colours: tuple[str, str]
    rgbs: tuple[tuple[int, int, int], tuple[int, int, int]]
    silhouette: NDArray[np.bool_]
    plan: Plan

    def box(self, frame: int) -> Box | None:
        """The whole silhouette's box, or None while the thing does not exist."""
        if not self.plan.exists[0] <= frame < self.plan.exists[1]:
            return None
        (x, y), (height, width) = self.plan.centres[frame], self.silhouette.shape
        left, top = x - width // 2, y - height // 2
        return left, top, left + width, top + height

    def look(self, frame: int) -> int:
        """0 in its own colour, 1 in the other."""
        return int(self.plan.turned[0] <= frame < self.plan.turned[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stage:
    """Where a clip plays: its ground, the x of its line, its length."""

    ground: NDArray[np.uint8]
    line_x: int
    num_frames: int

    @property
    def side(self) -> int:
        return len(self.ground)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Troupe:
    """players: from front to back: the bar, if there is one, travellers with the target first, actors. turning: for
    each traveller whether it turns around. rows: the y at which travellers start and end.
    """

    bars: tuple[_Player, ...]
    travellers: tuple[_Player, ...]
    actors: tuple[_Player, ...]
    turning: tuple[bool, ...]
    rows: tuple[float, ...]

    @property
    def players(self) -> tuple[_Player, ...]:
        return *self.bars, *self.travellers, *self.actors


def draw_moving(
    random: np.random.Generator, difficulty: Difficulty, *, side: int = 320, num_frames: int = 24, fps: float = 8
) -> Moving:
    """A clip of `num_frames` frames of `side` pixels. Raises ValueError outside 160–1024 pixels and 16–64 frames."""
    if not 160 <= side <= 1024:
        raise ValueError(f"side must be in 160–1024, got {side}")
    if not 16 <= num_frames <= 64:
        raise ValueError(f"num_frames must be in 16–64, got {num_frames}")
    if fps <= 0:
        raise ValueError(f"fps must be positive, got {fps}")
    ground = draw_ground(random, difficulty.ground, side)
    while True:
        stage = _Stage(ground=ground, line_x=_line(random, side), num_frames=num_frames)
        troupe = _cast(random, difficulty, stage)
        if all(_stands_out(ground, player) for player in (*troupe.travellers, *troupe.actors)):
            clip = _film(random, difficulty, stage, troupe, fps)
            if clip is not None:
                return clip


def _line(random: np.random.Generator, side: int) -> int:
    """x of the line, left or right of the middle."""
    offset = round(side * float(random.uniform(0.23, 0.27)))
    return offset if random.integers(2) else side - offset


def _cast(random: np.random.Generator, difficulty: Difficulty, stage: _Stage) -> _Troupe:
    own, *others = colour_names(random)
    num_travellers = 1 + difficulty.same_hue_distractors
    plans, turning, middle, rows = travel(
        random,
        num_travellers=num_travellers,
        meet_in_one_row=difficulty.hiding[0] >= 1,
        side=stage.side,
        num_frames=stage.num_frames,
    )
    shapes = [SHAPES[int(index)] for index in random.permutation(len(SHAPES))]
    travellers = []
    for index, plan in enumerate(plans):
        shape = shapes[0 if difficulty.look_alikes else index]
        cut = silhouette(shape, stage.side * float(random.uniform(0.15, 0.18)), float(random.uniform(-25, 25)))
        travellers.append(_player(shape, own, own, cut, plan))
    num_others = int(random.integers(difficulty.num_things[0], difficulty.num_things[1] + 1)) - num_travellers
    actors = _actors(random, others, min(4, num_others), stage)
    bars = _bar(random, difficulty, travellers, middle, stage)
    return _Troupe(
        bars=tuple(bars),
        travellers=tuple(travellers),
        actors=tuple(actors),
        turning=tuple(turning),
        rows=tuple(rows),
    )


def _player(shape: Shape, colour: str, other: str, cut: NDArray[np.bool_], plan: Plan) -> _Player:
    rgbs = COLOURS[colour], COLOURS[other]
    return _Player(shape=shape, colours=(colour, other), rgbs=rgbs, silhouette=cut, plan=plan)


def _actors(random: np.random.Generator, colours: list[str], num_actors: int, stage: _Stage) -> list[_Player]:
    """Others, each in a corner, of a colour of its own; what turns, turns to a colour that nobody has."""
    side = stage.side
    quarter, low, high = side * 0.25, side * 0.125, side * 0.875
    corners = [(quarter, low), (quarter, high), (side - quarter, low), (side - quarter, high)]
    corners = [corners[int(index)] for index in random.permutation(4)][:num_actors]
    acts = [ACTS[int(index)] for index in random.permutation(len(ACTS))]
    actors = []
    for corner in corners:
        line_is_near = (corner[0] < side / 2) == (stage.line_x < side / 2)
        act = next(act for act in acts if act != "crosses" or line_is_near)
        acts.remove(act)
        x, y = (value + side * float(random.uniform(-0.015, 0.015)) for value in corner)
        shape = SHAPES[int(random.integers(len(SHAPES)))]
        cut = silhouette(shape, side * float(random.uniform(0.13, 0.17)), float(random.uniform(-25, 25)))
        plan = perform(random, act, corner=(x, y), line_x=stage.line_x, side=side, num_frames=stage.num_frames)
        colour = colours.pop()
        actors.append(_player(shape, colour, colours.pop(0) if act == "turns" else colour, cut, plan))
    return actors


def _bar(
    random: np.random.Generator, difficulty: Difficulty, travellers: list[_Player], middle: int, stage: _Stage
) -> list[_Player]:
    """The bar, as wide as it must be to hide the target by a share within the range when it stands behind it.

    A share of 1 makes it wider than every traveller by two steps of the fastest, so that it hides whole frames.
    """
    low, high = difficulty.hiding
    if high == 0:
        return []
    columns = travellers[0].silhouette.sum(axis=0)
    aim = float(random.uniform(low + (high - low) / 4, high - (high - low) / 4))
    if aim >= 1:
        step = max(abs(b[0] - a[0]) for it in travellers for a, b in pairwise(it.plan.centres))
        width = max(it.silhouette.shape[1] for it in travellers) + 2 * step
    else:
        # Centred on the silhouette; clipping the start at 0 matters only once the bar is as wide as the target.
        half, area = len(columns) // 2, int(columns.sum())
        hidden = (int(columns[max(0, half - wide // 2) : half - wide // 2 + wide].sum()) for wide in count(1))
        width = next(wide for wide, pixels in enumerate(hidden, start=1) if pixels >= aim * area)
    top, bottom = round(stage.side * 0.2), round(stage.side * 0.8)
    name = list(BAR_COLOURS)[int(random.integers(len(BAR_COLOURS)))]
    plan = Plan(centres=((middle, (top + bottom) // 2),) * stage.num_frames, exists=(0, stage.num_frames))
    cut, rgb = np.ones((bottom - top, width), bool), BAR_COLOURS[name]
    return [_Player(shape="bar", colours=(name, name), rgbs=(rgb, rgb), silhouette=cut, plan=plan)]


def _stands_out(ground: NDArray[np.uint8], player: _Player) -> bool:
    """Whether the player is well seen where it is inside the picture: at the start, in the middle and at the end."""
    side, last = len(ground), len(player.plan.centres) - 1
    for frame in (0, last // 2, last):
        box = player.box(frame)
        if box is None or box[2] <= 4 or box[0] >= side - 4:
            continue
        if not all(stands_out(ground, box, rgb) for rgb in player.rgbs):
            return False
    return True


def _film(
    random: np.random.Generator, difficulty: Difficulty, stage: _Stage, troupe: _Troupe, fps: float
) -> Moving | None:
    """Paint all frames and read the truth off them; None when the target is not hidden as it should be.

    Numbers are shuffled: they say nothing.
    """
    players, num_bars = troupe.players, len(troupe.bars)
    numbers = [int(number) + 1 for number in random.permutation(len(players))]
    scenery, strings = _scenery(random, stage, troupe.rows)
    frames, labels = _paint(random, difficulty, scenery, players, numbers)
    order = sorted(range(len(players)), key=lambda index: numbers[index])
    tracks = tuple(_track(numbers[index], players[index], labels) for index in order)
    target = numbers[num_bars]
    visible = tracks[target - 1].visible
    low, high = difficulty.hiding
    if visible[0] < 1 or not low <= 1 - min(visible) <= high or not all(any(track.boxes) for track in tracks):
        return None
    travellers = numbers[num_bars : num_bars + len(troupe.turning)]
    return Moving(
        frames=tuple(frames),
        labels=tuple(labels),
        things=tuple(_thing(players[index], tracks[numbers[index] - 1], labels) for index in order),
        tracks=tracks,
        times_s=tuple(frame / fps for frame in range(stage.num_frames)),
        fps=fps,
        events=_events([players[index] for index in order], stage, fps),
        strings=strings,
        target=target,
        occluder=numbers[0] if num_bars else None,
        reversed_things=tuple(n for n, turns in zip(travellers, troupe.turning, strict=True) if turns),
        line_x=stage.line_x,
        difficulty=difficulty.name,
    )


def _scenery(
    random: np.random.Generator, stage: _Stage, rows: tuple[float, ...]
) -> tuple[NDArray[np.uint8], tuple[Written, ...]]:
    """The ground with its line, and a sign with a digit of its own at both ends of every row."""
    pixels, side = stage.ground.copy(), stage.side
    dashes = np.arange(side) % 16 < 10
    pixels[dashes, stage.line_x - 1 : stage.line_x + 1] = 255 if pixels.mean() < 128 else 0
    digits = [str(digit) for digit in random.permutation(10)]
    height_px = max(7, round(side * 0.04))
    strings = []
    for row in rows:
        for at_left in (True, False):
            text = digits.pop()
            ink = write(text, height_px)
            (height, width), y = ink.coverage.shape, round(row) - ink.coverage.shape[0] // 2
            x = 3 if at_left else side - 3 - width
            pixels[y - 3 : y + height + 3, x - 3 : x + width + 3] = _SIGN
            strings.append(lay_ink(ink, pixels, x, y, text=text, tone=_SIGN_INK, height_px=height_px, on=None))
    return pixels, tuple(strings)


def _paint(
    random: np.random.Generator,
    difficulty: Difficulty,
    scenery: NDArray[np.uint8],
    players: tuple[_Player, ...],
    numbers: list[int],
) -> tuple[list[NDArray[np.uint8]], list[NDArray[np.uint8]]]:
    """The frames and their label maps."""
    patches = []
    for player in players:
        light = shaded(random, player.silhouette, difficulty.shading)
        patches.append([painted(rgb, light) for rgb in player.rgbs])
    frames, labels = [], []
    for frame in range(len(players[0].plan.centres)):
        pixels, seen = scenery.copy(), np.zeros(scenery.shape[:2], np.uint8)
        boxes = [player.box(frame) for player in players]
        layers = (
            (number, (box[0], box[1]), player.silhouette, looks[player.look(frame)])
            for number, box, player, looks in zip(numbers, boxes, players, patches, strict=True)
            if box is not None
        )
        lay(pixels, seen, layers)
        frames.append(add_noise(random, pixels, difficulty.noise))
        labels.append(seen)
    return frames, labels


def _track(number: int, player: _Player, labels: list[NDArray[np.uint8]]) -> Track:
    area = int(player.silhouette.sum())
    boxes: list[Box | None] = []
    shares: list[float] = []
    for frame, seen in enumerate(labels):
        amodal = player.box(frame)
        x0, y0, x1, y1 = clipped(amodal, *seen.shape) if amodal else (0, 0, 0, 0)
        mask = seen[y0:y1, x0:x1] == number if x0 < x1 and y0 < y1 else np.zeros((0, 0), bool)
        shares.append(int(mask.sum()) / area)
        if not mask.any():
            boxes.append(None)
            continue
        left, top, right, bottom = tight_box(mask)
        boxes.append((x0 + left, y0 + top, x0 + right, y0 + bottom))
    amodals = tuple(player.box(frame) for frame in range(len(labels)))
    return Track(thing=number, boxes=tuple(boxes), amodal=amodals, visible=tuple(shares))


def _thing(player: _Player, track: Track, labels: list[NDArray[np.uint8]]) -> Thing:
    """As it is in the first frame that shows it."""
    frame = next(index for index, box in enumerate(track.boxes) if box is not None)
    box, amodal = track.boxes[frame], track.amodal[frame]
    assert box is not None and amodal is not None
    return Thing(
        number=track.thing,
        shape=player.shape,
        colour=player.colours[0],
        rgb=player.rgbs[0],
        box=box,
        area=int((labels[frame] == track.thing).sum()),
        amodal_box=amodal,
        amodal_area=int(player.silhouette.sum()),
    )


def _events(players: list[_Player], stage: _Stage, fps: float) -> tuple[Event, ...]:
    """Of all things, in order of time."""
    found: list[Event] = []
    for number, player in enumerate(players, start=1):
        course = Course(
            thing=number,
            boxes=tuple(player.box(frame) for frame in range(stage.num_frames)),
            colours=tuple(player.colours[player.look(frame)] for frame in range(stage.num_frames)),
        )
        found.extend(events_of(course, side=stage.side, fps=fps, line_x=stage.line_x))
    return tuple(sorted(found, key=lambda event: (event.start_s, event.thing, event.kind)))
