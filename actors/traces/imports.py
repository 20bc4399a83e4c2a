"""Traces that others published, made again: their calls are executed by our tools, what these return is what is shown.

A published conversation is read in its own dialect, turn by turn. Its boxes become boxes on our grid, its crops are cut
anew, and the whole is written in our own form under the same filters as any other trace. A call that fails here is not
imitated; the next one, which may repair it, is.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Literal, TypeAlias

from actors.agent import Toolbox, Viewer
from actors.dialects.choose import dialect_of
from actors.dialects.config import DialectConfig
from actors.dialects.crops import is_box
from actors.dialects.port import Dialect, Shown
from actors.dialogue import Answer, Calls, Unreadable
from actors.files import open_media
from actors.tasks.plan import Plan, Step
from actors.tools.config import MediaLimits
from actors.traces.config import Emphasis, Thoughts
from actors.traces.cutting import cut
from actors.traces.filters import Executed
from actors.traces.records import Record, RecordError, find_media, read_records
from actors.traces.synthesis import Synthesised, accept
from actors.traces.thoughts import with_thoughts
from common.chat import Chat, VisionShape
from common.errors import MediaError
from common.geometry import GRID
from common.media import FolderMediaStore, decode_image, put_users_image
from common.scoring import score
from common.types import Clip, ExecutedCall, MediaRef, Query, Task, ToolCall, Trace

Format: TypeAlias = Literal["pixel_reasoner", "deepeyes"]
Kind: TypeAlias = Literal["exact", "choice", "numeric", "near", "anls"]

FORMATS: tuple[Format, ...] = ("pixel_reasoner", "deepeyes")
QWEN = VisionShape(patch=14, merge=2, min_pixels=4 * 28 * 28, max_pixels=16384 * 28 * 28)
"""The size at which the published models were shown a picture: Qwen2.5-VL's processor as it comes."""
_FRAME_S = 1.0
"""Seconds between a video's frames where only their pictures are given."""
_THINK = ("<think>", "</think>")
_HAIR = 1e-6
_AHEAD = 8
"""Records read ahead for each one that is being executed: a file may be larger than the memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Imports:
    """What an import came to.

    dropped: records that gave no trace, by reason; the reasons of actors/traces/filters.py and broken_json,
    no_conversation, no_media, unreadable_turn, no_answer. num_unchecked: kept without a right answer to check theirs
    by. num_masked: kept calls that failed and are not imitated. num_cut: kept without their end.
    """

    num_records: int = 0
    num_traces: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    num_unchecked: int = 0
    num_masked: int = 0
    num_cut: int = 0

    def plus(self, made: Sequence[_Made]) -> Imports:
        """The same with a few records more."""
        kept = [one for one in made if one.trace is not None]
        dropped = Counter(self.dropped) + Counter(one.reason for one in made if one.trace is None)
        return Imports(
            num_records=self.num_records + len(made),
            num_traces=self.num_traces + len(kept),
            dropped=dict(dropped.most_common()),
            num_unchecked=self.num_unchecked + sum(one.unchecked for one in kept),
            num_masked=self.num_masked + sum(one.masked for one in kept),
            num_cut=self.num_cut + sum(one.was_cut for one in kept),
        )


async def import_traces(
    path: Path,
    media: Path,
    format: Format,
    *,
    take: Callable[[Sequence[Trace]], object],
    store: FolderMediaStore,
    toolbox: Toolbox,
    viewer: Viewer,
    chat: Chat,
    emphasis: Emphasis,
    max_model_len: int,
    max_num_images: int | None = None,
    boxes: str = "auto",
    shape: VisionShape = QWEN,
    kind: Kind = "exact",
    thoughts: Thoughts = "plan",
    too_long: Literal["drop", "cut"] = "drop",
    limits: MediaLimits | None = None,
    concurrency: int = 8,
    again: Toolbox | None = None,
    told: Callable[[Imports], object] = lambda imports: None,
) -> Imports:
    """Read conversations from `path`, media from the folder `media`, and execute their calls. Waits for all of them.

    take: given the traces, some at a time, in the order of their records; their media are in `store`.
    boxes: the frame that pixels are counted in (DialectConfig); shape: how large the published model saw a picture.
    kind: how an answer is compared with the right one where the record names it. thoughts: "plan" keeps the
    conversations' own. too_long: what becomes of a trace beyond max_model_len; "cut" keeps its whole turns within.
    concurrency: records at once. again: a toolbox without a cache that executes every call a second time. told: how far
    it is.
    Raises DataError, one line, where the file cannot be read.
    """
    dialect = dialect_of(DialectConfig(name=format, boxes=boxes))
    importer = _Importer(
        dialect,
        family=format,
        media=media,
        store=store,
        toolbox=toolbox,
        shape=shape,
        kind=kind,
        limits=limits or MediaLimits(),
    )
    gate = asyncio.Semaphore(concurrency)

    async def one(record: Record | RecordError) -> _Made:
        async with gate:
            if isinstance(record, RecordError):
                return _Made(reason=str(record))
            try:
                executed = await importer.execute(record)
            except RecordError as error:
                return _Made(reason=str(error))
            plan = with_thoughts(executed.plan, thoughts, seed=0)
            made = await accept(
                replace(executed, plan=plan),
                viewer=viewer,
                chat=chat,
                emphasis=emphasis,
                max_model_len=max_model_len if too_long == "drop" else math.inf,
                max_num_images=max_num_images,
                again=again,
            )
            return _made(made, executed, record, max_model_len)

    records, imports = read_records(path), Imports()
    while some := await asyncio.to_thread(lambda: list(islice(records, _AHEAD * concurrency))):
        made = await asyncio.gather(*map(one, some))
        take([each.trace for each in made if each.trace is not None])
        imports = imports.plus(made)
        told(imports)
    return imports


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    """What became of one record."""

    trace: Trace | None = None
    reason: str = ""
    unchecked: bool = False
    masked: int = 0
    was_cut: bool = False


def _made(made: Synthesised, executed: Executed, record: Record, max_model_len: int) -> _Made:
    trace = None if made.trace is None else cut(made.trace, max_model_len)
    if trace is None:
        return _Made(reason=made.reason or "too_long")
    return _Made(
        trace=trace,
        unchecked=not record.truths,
        masked=sum(not step.imitated for step in executed.plan.steps),
        was_cut=trace is not made.trace,
    )


class _Importer:
    """Executes one conversation at a time."""

    def __init__(
        self,
        dialect: Dialect,
        *,
        family: str,
        media: Path,
        store: FolderMediaStore,
        toolbox: Toolbox,
        shape: VisionShape,
        kind: Kind,
        limits: MediaLimits,
    ) -> None:
        self._dialect = dialect
        self._family = family
        self._media = media
        self._store = store
        self._toolbox = toolbox
        self._shape = shape
        self._kind = kind
        self._limits = limits

    async def execute(self, record: Record) -> Executed:
        """The conversation with our tools' results. Raises RecordError."""
        query = await asyncio.to_thread(self._query, record)
        shown = self._opening(query)
        workspace = self._toolbox.open(query)
        steps: list[Step] = []
        calls: list[ExecutedCall] = []
        for number, text in enumerate(record.said, 1):
            utterance = self._dialect.read(text, shown)
            thought, action = _plain_thought(utterance.thought), utterance.action
            if isinstance(action, Unreadable):
                raise RecordError("unreadable_turn")
            if isinstance(action, Answer):
                if number < len(record.said):
                    raise RecordError("unreadable_turn")
                return self._executed(record, query, steps, calls, answer=action.text, thought=thought)
            for call in action.calls if isinstance(action, Calls) else (action,):
                done, workspace = await self._toolbox.execute(_on_grid(call), workspace)
                failed = done.observation.error is not None
                steps.append(Step(thought=thought, call=done.call, imitated=not failed))
                calls.append(done)
                shown += self._returned(done)
                thought = ""
        raise RecordError("no_answer")

    def _executed(
        self,
        record: Record,
        query: Query,
        steps: list[Step],
        calls: list[ExecutedCall],
        *,
        answer: str,
        thought: str,
    ) -> Executed:
        task = Task(
            query=query,
            answer=answer,
            kind=self._kind,
            family=self._family,
            split="train",
            chain=tuple(step.call.name for step in steps if step.imitated),
        )
        if record.truths and not any(score(answer, replace(task, answer=truth)) == 1 for truth in record.truths):
            raise RecordError("wrong_answer")
        plan = Plan(task=task, steps=tuple(steps), level=len(steps), kind="imported", thought=thought)
        return Executed(plan=plan, calls=tuple(calls), answer=answer)

    def _query(self, record: Record) -> Query:
        """The question with its media in the store. Raises RecordError."""
        refs: list[MediaRef] = []
        clip: Clip | None = None
        for medium in record.media:
            opened = self._opened(medium)
            if isinstance(opened, Clip):
                clip = opened
            else:
                refs += opened
        if clip is not None and (refs or len(record.media) > 1):
            raise RecordError("no_media")
        if record.video and clip is None:
            times = tuple(_FRAME_S * index for index in range(len(refs)))
            clip = Clip(frames=tuple(refs), times_s=times, shown=tuple(range(len(refs))))
        images = () if clip is not None else tuple(refs)
        return Query(query_id=f"{self._family}/{record.name}", question=record.question, images=images, clip=clip)

    def _opened(self, medium: str | bytes) -> tuple[MediaRef, ...] | Clip:
        """A file below the folder of media, or an encoded picture, in the store. Raises RecordError."""
        try:
            if isinstance(medium, str):
                file = find_media(medium, self._media)
                if file is not None:
                    return open_media(file, self._store, self._limits)
            elif len(medium) <= self._limits.max_bytes:
                pixels = decode_image(medium, name="picture", max_pixels=self._limits.max_pixels)
                return (put_users_image(self._store, pixels),)
        except MediaError:
            pass
        raise RecordError("no_media")

    def _opening(self, query: Query) -> list[Shown]:
        if query.clip is not None:
            return [self._shown(f"frame_{at + 1}", query.clip.frames[at]) for at in query.clip.shown]
        return [self._shown(f"image_{number}", ref) for number, ref in enumerate(query.images, 1)]

    def _returned(self, done: ExecutedCall) -> list[Shown]:
        image = done.observation.image
        return [] if image is None else [self._shown(str(json.loads(done.observation.text)["image"]), image)]

    def _shown(self, name: str, picture: MediaRef) -> Shown:
        """A picture as the published model was shown it: of its size there, which is all that boxes depend on."""
        width, height = self._shape.fit(picture.width, picture.height)
        return Shown(name=name, picture=picture, view=replace(picture, kind="view", width=width, height=height))


def _on_grid(call: ToolCall) -> ToolCall:
    """A call with its box in whole numbers, rounded outward; a box without area stays as it is, to be refused."""
    box = call.arguments.get("box")
    if not is_box(box) or not (box[0] < box[2] and box[1] < box[3]):
        return call
    low = [max(0, math.floor(value + _HAIR)) for value in box[:2]]
    high = [min(GRID, math.ceil(value - _HAIR)) for value in box[2:]]
    return replace(call, arguments={**call.arguments, "box": [*low, *high]})


def _plain_thought(text: str) -> str:
    """A thought without the tags around it."""
    for tag in _THINK:
        text = text.replace(tag, "")
    return text.strip()
