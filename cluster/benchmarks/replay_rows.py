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


@dataclass(frozen=True, slots=True)
class Row:
    """A rollout as its actor sends it, and what the replay reads of it."""

    body: bytes
    keys: RolloutKeys


class Rows:
    """An endless supply of rollouts, in groups of SIBLINGS whose scores differ. seed: of their tokens.

    pictures: whether they refer to a view and a crop each.
    """

    def __init__(self, seed: int = 0, *, pictures: bool = False) -> None:
        random = np.random.default_rng(seed)
        self._bodies = [encode_rollouts([_rollout(sibling, random, pictures)]) for sibling in range(SIBLINGS)]
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
        """The bytes of rollout `number`. media: a view and a crop for it to show."""
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


VIEW_SIDE, CROP_SIDE = 672, 336
"""Pixels: of the question's picture as the model sees it, which all siblings share, and of what each zoomed into."""


def box_of(sibling: int) -> Box:
    """Where a sibling looks closer."""
    x0, y0 = 24 * sibling, 40 * sibling
    return (x0, y0, x0 + CROP_SIDE, y0 + CROP_SIDE)


def pixels_of_group(
    random: np.random.Generator, *, resampled: bool = False
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """(a view, shape (side, side, 3); a crop of it for each sibling, shape (SIBLINGS, side, side, 3)). Noise, so that
    nothing can be compressed. resampled: crops are other noise, as if no pixel of the view were left in them.
    """
    view = random.integers(0, 256, (VIEW_SIDE, VIEW_SIDE, 3), dtype=np.uint8)
    if resampled:
        return view, random.integers(0, 256, (SIBLINGS, CROP_SIDE, CROP_SIDE, 3), dtype=np.uint8)
    boxes = [box_of(sibling) for sibling in range(SIBLINGS)]
    return view, np.stack([view[y0:y1, x0:x1] for x0, y0, x1, y1 in boxes])


def _number(sibling: int) -> bytes:
    return (_NUMBER + sibling).to_bytes(8, "little")


def _rollout(sibling: int, random: np.random.Generator, pictures: bool) -> Rollout:
    def ids(count: int) -> tuple[int, ...]:
        return tuple(map(int, random.integers(0, 150_000, count)))

    def sampled(count: int) -> Turn:
        logprobs = tuple(map(float, -random.random(count, dtype=np.float32)))
        span = VersionSpan(start=0, stop=count, version=0)
        return Turn(role="assistant", token_ids=ids(count), logprobs=logprobs, versions=(span,))

    view, crop = _view(f"{0:064x}", VIEW_SIDE), _view(f"{sibling + 1:064x}", CROP_SIDE)
    half = NUM_SAMPLED // 2
    turns = (
        Turn(role="user", token_ids=ids(NUM_TOKENS // 2), images=(view,) if pictures else ()),
        sampled(half),
        Turn(role="tool", token_ids=ids(NUM_TOKENS // 2 - NUM_SAMPLED), images=(crop,) if pictures else ()),
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
        query=Query(query_id="bench", question="What is the code on the plate?", images=(view,) if pictures else ()),
        turns=turns,
        calls=(_zoomed(view, crop, sibling),) if pictures else (),
        answer="493",
        stop_reason="answer",
        facts=Facts(score=score, parsed=True, valid=True, num_calls=1, num_errors=0, num_repeats=0),
        temperature=1.0,
    )


def _zoomed(view: MediaRef, crop: MediaRef, sibling: int) -> ExecutedCall:
    call = ToolCall(name="ZOOM", arguments={"image": "image_1", "box": list(box_of(sibling))})
    seen = Observation(text='{"image":"image_2"}', view=crop)
    return ExecutedCall(call=call, observation=seen, source=view.digest, footprint=box_of(sibling))


def _view(digest: str, side: int) -> MediaRef:
    return MediaRef(digest=digest, kind="view", width=side, height=side, num_bytes=3 * side * side)
