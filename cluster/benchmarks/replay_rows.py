"""Rollouts to measure with: as large as real ones, each a valid one of its own, and made in microseconds.

Eight siblings are encoded once, with names of a fixed length; a further rollout is the bytes of one of them with other
names and another number in their place, which is what encoding it would give.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from common.columns import RolloutKeys
from common.schema import encode_rollouts, rollout_keys
from common.types import (
    Box,
    ExecutedCall,
    Facts,
    MediaRef,
    Observation,
    Query,
    Rollout,
    ToolCall,
    Turn,
    VersionSpan,
)

SIBLINGS = 8
NUM_TOKENS, NUM_SAMPLED = 2000, 500
"""Of a rollout: a question with its picture, two turns that were sampled, and an observation between them."""
PHASE = "rft"
_NUMBER = 0x7E57A11C0FFEE
"""A producer's number that no other bytes of a rollout are likely to spell."""


def _name(what: str, number: int) -> str:
    return f"{what}{number:012d}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What a group shows: `num_views` pictures as the model sees them, `side` pixels high and wide, of its question;
    and a crop for each sibling, `crop_side` pixels, of the first of them. step: from one sibling's crop to the next,
    in x, y.
    """

    num_views: int
    side: int
    crop_side: int
    step: tuple[int, int]

    def box_of(self, sibling: int) -> Box:
        """Where a sibling looks closer."""
        x0, y0 = (sibling * step for step in self.step)
        return (x0, y0, x0 + self.crop_side, y0 + self.crop_side)


STILL = Shown(num_views=1, side=672, crop_side=336, step=(24, 40))
CLIP = Shown(num_views=16, side=448, crop_side=224, step=(16, 24))


@dataclass(frozen=True, slots=True)
class Row:
    """A rollout as its actor sends it, and what the replay reads of it."""

    body: bytes
    keys: RolloutKeys


class Rows:
    """An endless supply of rollouts, in groups of SIBLINGS whose scores differ. seed: of their tokens.

    shown: the pictures that they refer to.
    """

    def __init__(self, seed: int = 0, *, shown: Shown | None = None) -> None:
        random = np.random.default_rng(seed)
        self._bodies = [encode_rollouts([_rollout(sibling, random, shown)]) for sibling in range(SIBLINGS)]
        self._keys = [rollout_keys(body)[0] for body in self._bodies]
        self._media = [[ref.digest.encode() for ref in keys.media] for keys in self._keys]

    @property
    def num_bytes(self) -> int:
        """Of one rollout."""
        return len(self._bodies[0])

    def keys(self, number: int) -> RolloutKeys:
        """Of rollout `number`, from 0; group number // SIBLINGS."""
        group, sibling = divmod(number, SIBLINGS)
        return replace(self._keys[sibling], rollout_id=_name("r", number), group_id=_name("g", group), sequence=number)

    def body(self, number: int, media: tuple[MediaRef, ...] = ()) -> bytes:
        """The bytes of rollout `number`. media: the views and the crop that it shows."""
        group, sibling = divmod(number, SIBLINGS)
        body = self._bodies[sibling].replace(_name("r", sibling).encode(), _name("r", number).encode())
        body = body.replace(_name("g", 0).encode(), _name("g", group).encode())
        body = body.replace(_number(sibling), number.to_bytes(8, "little"))
        for old, ref in zip(self._media[sibling], media, strict=bool(media)):
            body = body.replace(old, ref.digest.encode())
        return body

    def row(self, number: int) -> Row:
        return Row(self.body(number), self.keys(number))

    def bodies(self, first: int, count: int) -> Iterator[bytes]:
        return (self.body(number) for number in range(first, first + count))


def group_name(group: int) -> str:
    """Of the rollouts SIBLINGS · group and those after it."""
    return _name("g", group)


def pixels_of_group(
    random: np.random.Generator, shown: Shown = STILL, *, resampled: bool = False
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """(views, shape (num_views, side, side, 3); a crop of the first for each sibling, shape (SIBLINGS, crop_side,
    crop_side, 3)). Noise, so that nothing can be compressed. resampled: crops are other noise, as if no pixel of the
    view were left in them.
    """
    views = random.integers(0, 256, (shown.num_views, shown.side, shown.side, 3), dtype=np.uint8)
    if resampled:
        return views, random.integers(0, 256, (SIBLINGS, shown.crop_side, shown.crop_side, 3), dtype=np.uint8)
    boxes = [shown.box_of(sibling) for sibling in range(SIBLINGS)]
    return views, np.stack([views[0, y0:y1, x0:x1] for x0, y0, x1, y1 in boxes])


def _number(sibling: int) -> bytes:
    return (_NUMBER + sibling).to_bytes(8, "little")


def _rollout(sibling: int, random: np.random.Generator, shown: Shown | None) -> Rollout:
    def ids(count: int) -> tuple[int, ...]:
        return tuple(map(int, random.integers(0, 150_000, count)))

    def sampled(count: int) -> Turn:
        logprobs = tuple(map(float, -random.random(count, dtype=np.float32)))
        span = VersionSpan(start=0, stop=count, version=0)
        return Turn(role="assistant", token_ids=ids(count), logprobs=logprobs, versions=(span,))

    views, crops, calls = tuple[MediaRef, ...](), tuple[MediaRef, ...](), tuple[ExecutedCall, ...]()
    if shown is not None:
        views = tuple(_view(f"{number:064x}", shown.side) for number in range(shown.num_views))
        crops = (_view(f"{shown.num_views + sibling:064x}", shown.crop_side),)
        calls = (_zoomed(views[0], crops[0], shown.box_of(sibling)),)
    half = NUM_SAMPLED // 2
    turns = (
        Turn(role="user", token_ids=ids(NUM_TOKENS // 2), images=views),
        sampled(half),
        Turn(role="tool", token_ids=ids(NUM_TOKENS // 2 - NUM_SAMPLED), images=crops),
        sampled(half),
    )
    score = sibling / SIBLINGS
    return Rollout(
        rollout_id=_name("r", sibling),
        producer="bench",
        epoch=0,
        sequence=_NUMBER + sibling,
        group_id=_name("g", 0),
        group_size=SIBLINGS,
        phase=PHASE,
        family="bench",
        query=Query(query_id="bench", question="What is the code on the plate?", images=views),
        turns=turns,
        calls=calls,
        answer="493",
        stop_reason="answer",
        facts=Facts(score=score, parsed=True, valid=True, num_calls=1, num_errors=0, num_repeats=0),
        temperature=1.0,
    )


def _zoomed(view: MediaRef, crop: MediaRef, box: Box) -> ExecutedCall:
    call = ToolCall(name="ZOOM", arguments={"image": "image_1", "box": list(box)})
    seen = Observation(text='{"image":"image_2"}', view=crop)
    return ExecutedCall(call=call, observation=seen, source=view.digest, footprint=box)


def _view(digest: str, side: int) -> MediaRef:
    return MediaRef(digest=digest, kind="view", width=side, height=side, num_bytes=3 * side * side)
