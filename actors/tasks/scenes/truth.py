"""What is known of a scene: who is where, how much of it is seen, what is written, and when things happen.

Truth comes from the z-buffer that the picture was painted through, so masks and pixels cannot disagree. Pixels are
integers, x right, y down, boxes half-open; seconds are half-open too: an event [start_s, stop_s) holds in exactly
those frames whose time lies in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from common.types import Box

Ground: TypeAlias = Literal["quiet", "texture", "photograph"]
Shape: TypeAlias = Literal["circle", "square", "triangle", "star", "cross", "ring", "heart", "bar", "plate"]
EventKind: TypeAlias = Literal["appears", "disappears", "enters", "leaves", "stops", "starts", "turns", "crosses"]
EVENT_KINDS: tuple[EventKind, ...] = (
    "appears",
    "disappears",
    "enters",
    "leaves",
    "stops",
    "starts",
    "turns",
    "crosses",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difficulty:
    """How hard a scene is.

    ground: what lies behind the things. num_things: fewest and most things of a still, the target, its distractors and
    its occluder included; in a clip the occluder comes on top. same_hue_distractors: things painted as the target is,
    of another shape. occlusion: share of the target that is covered, at least and at most: in a still as it stands, in
    a clip at its peak behind the occluder (`hiding`). shading: by what share at most the paint of a thing is lighter
    or darker in places; 0 is flat. noise: standard deviation of what is added to every channel last, of 255.
    tilt_degrees: a line of text leans by at most so much. look_alikes: distractors have the target's shape too; in a
    clip identity is then a matter of following alone, and can be decided only while `hiding` stays under 1.
    """

    name: str
    ground: Ground
    num_things: tuple[int, int]
    same_hue_distractors: int
    occlusion: tuple[float, float]
    hiding: tuple[float, float]
    shading: float
    noise: float
    tilt_degrees: float
    look_alikes: bool = False

    def __post_init__(self) -> None:
        for name, (low, high) in (("occlusion", self.occlusion), ("hiding", self.hiding)):
            if not 0 <= low <= high <= 1:
                raise ValueError(f"{name} must be a range within [0, 1], got {low}–{high}")
        needed = 1 + self.same_hue_distractors + (self.occlusion[1] > 0)
        if not needed <= self.num_things[0] <= self.num_things[1] <= 8:
            raise ValueError(f"num_things must be a range within {needed}–8, got {self.num_things}")
        if not 0 <= self.shading <= 0.5:
            raise ValueError(f"shading must be in [0, 0.5], got {self.shading}")


EASY = Difficulty(
    name="easy",
    ground="quiet",
    num_things=(3, 4),
    same_hue_distractors=0,
    occlusion=(0.0, 0.0),
    hiding=(0.0, 0.0),
    shading=0.0,
    noise=0.0,
    tilt_degrees=0.0,
)
MEDIUM = Difficulty(
    name="medium",
    ground="texture",
    num_things=(4, 6),
    same_hue_distractors=1,
    occlusion=(0.05, 0.3),
    hiding=(0.5, 0.8),
    shading=0.12,
    noise=0.0,
    tilt_degrees=0.0,
)
HARD = Difficulty(
    name="hard",
    ground="photograph",
    num_things=(6, 7),
    same_hue_distractors=2,
    occlusion=(0.2, 0.45),
    hiding=(1.0, 1.0),
    shading=0.2,
    noise=6.0,
    tilt_degrees=6.0,
)
LEVELS: dict[str, Difficulty] = {level.name: level for level in (EASY, MEDIUM, HARD)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """One thing; its number is its label in the label maps, from 1.

    colour: its name, a key of actors/tasks/scene.COLOURS (an occluder of clips and a plate have names of their own).
    rgb: its paint before shading and noise. box, area: of the mask that is seen. amodal_box, amodal_area: of the whole
    silhouette, covered or not. In a clip they are those of the first frame in which the thing is seen, and the
    amodal ones may reach out of the picture.
    """

    number: int
    shape: Shape
    colour: str
    rgb: tuple[int, int, int]
    box: Box
    area: int
    amodal_box: Box
    amodal_area: int

    @property
    def covered(self) -> float:
        """Share of the silhouette that is not seen, in [0, 1)."""
        return 1 - self.area / self.amodal_area


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A line of text.

    box: tight around its ink. polygon: four corners (x, y) around its ink, clockwise from where reading begins; on a
    level line they are the corners of the box. height_px: of a capital letter's ink, one less where
    the font has no such size. on: the number of the thing that
    it is written on, or None where it stands on the ground.
    """

    text: str
    box: Box
    polygon: tuple[tuple[float, float], ...]
    height_px: int
    on: int | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Still:
    """A picture and its truth.

    pixels: RGB uint8, (height, width, 3). labels: uint8, (height, width), 0 the ground, n the thing n, as seen. ink:
    uint8, (height, width), 0 none, n the ink of strings[n − 1]. things: in the order of their numbers. silhouettes:
    one a thing, bool, the whole shape inside its amodal_box. target: the number of the thing that tools are asked
    about (0 on a page without things). difficulty: the level's name.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    ink: NDArray[np.uint8]
    things: tuple[Thing, ...]
    silhouettes: tuple[NDArray[np.bool_], ...]
    strings: tuple[Written, ...]
    target: int
    difficulty: str

    def thing(self, number: int) -> Thing:
        """The thing called `number`. Raises ValueError where there is none."""
        if not 1 <= number <= len(self.things):
            raise ValueError(f"number must be in 1–{len(self.things)}, got {number}")
        return self.things[number - 1]

    def mask(self, number: int) -> NDArray[np.bool_]:
        """What is seen of a thing; bool, (height, width)."""
        seen: NDArray[np.bool_] = self.labels == self.thing(number).number
        return seen

    def amodal(self, number: int) -> NDArray[np.bool_]:
        """The whole thing, covered parts included; bool, (height, width)."""
        x0, y0, x1, y1 = self.thing(number).amodal_box
        whole = np.zeros(self.labels.shape, bool)
        whole[y0:y1, x0:x1] = self.silhouettes[number - 1]
        return whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that `thing` does, in half-open seconds. What start_s and stop_s say depends on the kind:

    appears     from its first frame, inside the picture, for one frame
    disappears  from the first frame without it, for one frame
    enters      from the first frame with a part of its silhouette inside the picture to the first one wholly inside
    leaves      from the first frame with a part of its silhouette outside to the first one wholly outside
    stops       it stands still: from the first frame at its place to the frame in which it has left that place
    starts      from the frame in which it has left that place, for one frame; a thing that never moved has none
    turns       it has the colour `detail`; before and after it has its own
    crosses     its silhouette lies on both sides of the line, and comes from one side to the other; `detail` is
                "rightward" or "leftward"

    What begins before the clip or ends after it is no event, but a standstill may last to the clip's end. A standstill
    lasts at least three frames and is no event outside the picture.
    """

    kind: EventKind
    thing: int
    start_s: float
    stop_s: float
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """Where a thing is in every frame.

    boxes: tight around what is seen, None in frames where nothing is. amodal: around the whole silhouette, which may
    reach out of the picture; None in frames where the thing does not exist. visible: the share of the silhouette that
    is seen, in [0, 1].
    """

    thing: int
    boxes: tuple[Box | None, ...]
    amodal: tuple[Box | None, ...]
    visible: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Moving:
    """A clip and its truth.

    frames: RGB uint8, (height, width, 3) each. labels: uint8, (height, width) each. times_s[i] = i / fps. tracks: one
    a thing, in the order of things. target: the thing that tools are asked about, wholly seen in the first frame.
    occluder: the number of the bar that things pass behind or turn around behind, or None. reversed_things: numbers of
    the travellers (target and distractors first of all) that turned around. line_x: the line that events of the kind
    crosses are about lies between the columns line_x − 1 and line_x. strings: a digit of its own at both ends of every
    row that travellers start and end in, on the ground, never covered.
    """

    frames: tuple[NDArray[np.uint8], ...]
    labels: tuple[NDArray[np.uint8], ...]
    things: tuple[Thing, ...]
    tracks: tuple[Track, ...]
    times_s: tuple[float, ...]
    fps: float
    events: tuple[Event, ...]
    strings: tuple[Written, ...]
    target: int
    occluder: int | None
    reversed_things: tuple[int, ...]
    line_x: int
    difficulty: str
