"""What a person can be shown of a call: where it looked and what it found, in the pixels of the pictures it is about.

An observation is written for the model: names, and boxes on a grid. Drawing it needs the pictures, masks and tracks
that the names stand for, and pixels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from actors.tools.errors import ToolError
from actors.tools.workspace import Track, Workspace
from common.geometry import grid_to_pixels
from common.types import Box, ExecutedCall, MediaRef

NUM_FRAMES = 5
"""Frames of a track that are drawn at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """A box with a few words, in pixels of the picture that it stands on."""

    box: Box
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One picture and what was found in it. caption: stands under it. asked: the place that the call named, in pixels.
    missing: the thing is not seen here.
    """

    picture: MediaRef
    caption: str = ""
    asked: Box | None = None
    masks: tuple[MediaRef, ...] = ()
    labels: tuple[Label, ...] = ()
    missing: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """Seconds [start_s, stop_s) of a clip. text: a score, say."""

    start_s: float
    stop_s: float
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """Everything about one call. scenes: the picture, or some frames of a clip. span_s: first and last second of it.

    found: more was found than the place that the call named.
    """

    scenes: tuple[Scene, ...] = ()
    intervals: tuple[Interval, ...] = ()
    span_s: tuple[float, float] | None = None
    found: bool = False


def marks_of(done: ExecutedCall, workspace: Workspace) -> Marks:
    """The marks of an executed call. workspace: after it, or later in the same rollout (names do not change)."""
    payload: dict[str, Any] = json.loads(done.observation.text)
    source = _known(workspace).get(done.source)
    if done.observation.error is None:
        try:
            found = _FOUND[done.call.name](done, payload, source, workspace) if done.call.name in _FOUND else None
        except (ToolError, KeyError, IndexError):  # a name of an abridged workspace
            found = None
        if found is not None:
            return found
    if source is None:
        return Marks()
    return Marks(scenes=(Scene(picture=source, asked=done.footprint),))


def _known(workspace: Workspace) -> dict[str, MediaRef]:
    """Every picture of the workspace by its digest."""
    refs = [picture.source for picture in workspace.images] + [picture.ref for picture in workspace.images]
    refs += [mask.source for mask in workspace.masks]
    refs += workspace.clip.frames if workspace.clip else ()
    return {ref.digest: ref for ref in refs}


def _of_segment(done: ExecutedCall, payload: Mapping[str, Any], source: MediaRef | None, workspace: Workspace) -> Marks:
    mask = workspace.mask(payload["mask"])
    label = Label(box=_pixels(payload["box"], mask.source), text=f"{payload['mask']} {payload['area']} px")
    scene = Scene(picture=mask.source, asked=done.footprint, masks=(mask.ref,), labels=(label,))
    return Marks(scenes=(scene,), found=True)


def _of_track(done: ExecutedCall, payload: Mapping[str, Any], source: MediaRef | None, workspace: Workspace) -> Marks:
    return Marks(scenes=_frames_of(workspace.track(payload["track"]), payload["track"], workspace), found=True)


def _frames_of(track: Track, name: str, workspace: Workspace) -> tuple[Scene, ...]:
    """Some frames of a track, evenly spread, with the first and the last."""
    clip = workspace.clip_or_refuse()
    last = len(track.boxes) - 1
    scenes = []
    for at in sorted({round(last * i / max(1, NUM_FRAMES - 1)) for i in range(NUM_FRAMES)}):
        index = track.start + at
        mask = track.masks[at] if track.masks else None
        scenes.append(
            Scene(
                picture=clip.frames[index],
                caption=f"frame_{index + 1} {clip.times_s[index]:.1f}s",
                masks=() if mask is None else (mask,),
                labels=(Label(box=track.boxes[at], text=name),),
                missing=not track.visible[at],
            )
        )
    return tuple(scenes)


def _of_reading(
    done: ExecutedCall, payload: Mapping[str, Any], source: MediaRef | None, workspace: Workspace
) -> Marks | None:
    lines = payload.get("lines", ())
    if source is None or not lines:
        return None
    name = done.call.arguments.get("image")
    x0, y0, x1, y1 = workspace.picture(name).frame if name else (0, 0, source.width, source.height)
    labels = []
    for line in lines:
        a, b, c, d = grid_to_pixels(line["box"], x1 - x0, y1 - y0)
        labels.append(Label(box=(x0 + a, y0 + b, x0 + c, y0 + d), text=str(line.get("text", ""))))
    return Marks(scenes=(Scene(picture=source, asked=done.footprint, labels=tuple(labels)),), found=True)


def _of_moments(done: ExecutedCall, payload: Mapping[str, Any], source: MediaRef | None, workspace: Workspace) -> Marks:
    clip = workspace.clip_or_refuse()
    found = payload.get("intervals", ())
    intervals = tuple(
        Interval(start_s=item["start_s"], stop_s=item["stop_s"], text=f"{item['score']:.2f}" if "score" in item else "")
        for item in found
    )
    keys = sorted({workspace.frame(item["frame"]) for item in found if "frame" in item})
    indices = keys[:NUM_FRAMES] or [0, len(clip.frames) - 1]
    scenes = tuple(
        Scene(picture=clip.frames[i], caption=f"frame_{i + 1} {clip.times_s[i]:.1f}s", asked=done.footprint)
        for i in dict.fromkeys(indices)
    )
    step = (clip.times_s[-1] - clip.times_s[0]) / max(1, len(clip.times_s) - 1)
    return Marks(scenes=scenes, intervals=intervals, span_s=(clip.times_s[0], clip.times_s[-1] + step), found=True)


def _of_measure(
    done: ExecutedCall, payload: Mapping[str, Any], source: MediaRef | None, workspace: Workspace
) -> Marks | None:
    arguments = done.call.arguments
    tracks = [arguments[key] for key in ("track", "other") if str(arguments.get(key, "")).startswith("track_")]
    if tracks:
        return Marks(scenes=_frames_of(workspace.track(tracks[0]), tracks[0], workspace), found=True)
    if source is None:
        return None
    masks = [str(arguments[key]) for key in ("mask", "other") if str(arguments.get(key, "")).startswith("mask_")]
    asked, labels = done.footprint, []
    for name, box in (("image", "box"), ("other", "other_box")):
        if arguments.get("other") is None or arguments.get(name) is None or arguments.get(box) is None:
            continue
        picture = workspace.picture(arguments[name])
        place = picture.at_source(_pixels(arguments[box], picture.ref))
        if name == "image":
            asked = place
        else:
            labels = [Label(box=place, text=str(payload.get("relation", "")))]
    if "box" in payload:
        words = " ".join(str(payload[key]) for key in ("colour", "area") if key in payload)
        labels = [Label(box=_pixels(payload["box"], source), text=words)]
    refs = tuple(workspace.mask(name).ref for name in masks)
    return Marks(scenes=(Scene(picture=source, asked=asked, masks=refs, labels=tuple(labels)),), found=True)


def _pixels(box: Any, picture: MediaRef) -> Box:
    return grid_to_pixels(box, picture.width, picture.height)


_FOUND = {"SEG": _of_segment, "TRK": _of_track, "OCR": _of_reading, "TEMP": _of_moments, "PROP": _of_measure}
