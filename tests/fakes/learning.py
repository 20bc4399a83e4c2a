"""Traces and rollouts in a tiny model's own tokens, with views in a store, for the learner's tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from actors.config import ViewConfig
from actors.traces.sets import form_of, writing
from common.chat import Chat
from common.media import FolderMediaStore, put_view
from common.types import (
    BoxTarget,
    Consensus,
    ExecutedCall,
    Facts,
    MediaRef,
    Observation,
    Query,
    Rollout,
    ToolCall,
    Trace,
    Turn,
    VersionSpan,
)

SIDE = 64


def a_view(store: FolderMediaStore, seed: int, side: int = SIDE) -> MediaRef:
    return put_view(store, np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


def zoom_text(box: Sequence[int]) -> str:
    values = ",".join(map(str, box))
    return f'<tool_call>{{"name":"ZOOM","arguments":{{"image":"image_1","box":[{values}]}}}}</tool_call>'


def a_real_trace(
    chat: Chat, store: FolderMediaStore, number: int, *, level: int = 1, weight: float = 1.0, side: int = SIDE
) -> Trace:
    """ZOOM, then the answer; one box target at the call's first token."""
    view, crop = a_view(store, 2 * number, side), a_view(store, 2 * number + 1, side)
    query = Query(query_id=f"q{number}", question="What is the number?", images=(view,))
    box = [100 + number % 5 * 50, 200, 400 + number % 5 * 50, 600]
    turns = (
        chat.question(query, [view]),
        Turn(role="assistant", token_ids=chat.written(zoom_text(box))),
        chat.observation('{"image":"image_2"}', crop),
        Turn(role="assistant", token_ids=chat.written(f"<answer>{number % 10}</answer>")),
    )
    weights = tuple(weight * (turn.role == "assistant") for turn in turns for _ in turn.token_ids)
    relative = (box[0] / 1000, box[1] / 1000, box[2] / 1000, box[3] / 1000)
    targets = (BoxTarget(position=len(turns[0].token_ids) + 1, box=relative),)
    return Trace(
        trace_id=f"t{number:04d}",
        family="tiny_text",
        level=level,
        kind="golden",
        query=query,
        turns=turns,
        weights=weights,
        boxes=targets,
    )


def a_set(
    folder: Path, chat: Chat, *, first: int = 0, count: int, view: ViewConfig | None = None, side: int = SIDE
) -> Path:
    """A folder of traces as `pixelis data import` writes one."""
    with writing(folder) as writer:
        writer.take([a_real_trace(chat, writer.store, first + number, side=side) for number in range(count)])
        writer.close(form_of(chat, view or ViewConfig()), {})
    return folder


def a_real_rollout(
    chat: Chat,
    store: FolderMediaStore,
    number: int,
    *,
    group: int = 0,
    group_size: int = 4,
    score: float | None = 1.0,
    answer: str = "4",
    version: int = 0,
    temperature: float = 1.0,
    num_calls: int = 1,
    logprob: float = -5.0,
    side: int = SIDE,
    **changes: Any,
) -> Rollout:
    """ZOOM `num_calls` times, then the answer; every sampled token at `logprob`."""
    view = a_view(store, 1000 + group, side)
    query = Query(query_id=f"g{group}", question="What is the number?", images=(view,))
    turns = [chat.question(query, [view])]
    calls = []
    for index in range(num_calls):
        box = [100 + 60 * number, 200 + 100 * index, 400 + 60 * number, 600]
        crop = a_view(store, 2000 + 10 * number + index, side)
        turns.append(_sampled(chat, zoom_text(box), version, logprob))
        text = f'{{"image":"image_{index + 2}"}}'
        turns.append(chat.observation(text, crop))
        call = ToolCall(name="ZOOM", arguments={"image": "image_1", "box": box})
        footprint = (box[0], box[1], box[2], box[3])
        calls.append(
            ExecutedCall(
                call=call, observation=Observation(text=text, view=crop), source="image_1", footprint=footprint
            )
        )
    turns.append(_sampled(chat, f"<answer>{answer}</answer>", version, logprob))
    fields: dict[str, Any] = {
        "rollout_id": f"g{group}/{number}",
        "producer": "actor-0",
        "epoch": 0,
        "sequence": group * 1000 + number,
        "group_id": f"g{group}",
        "group_size": group_size,
        "phase": "rft",
        "family": "tiny_text",
        "query": query,
        "turns": tuple(turns),
        "calls": tuple(calls),
        "answer": answer,
        "stop_reason": "answer",
        "facts": Facts(score=score, parsed=True, valid=True, num_calls=num_calls, num_errors=0, num_repeats=0),
        "temperature": temperature,
        "chain": ("ZOOM",),
    }
    return Rollout(**(fields | changes))


def _sampled(chat: Chat, text: str, version: int, logprob: float) -> Turn:
    ids = chat.written(text)
    span = VersionSpan(start=0, stop=len(ids), version=version)
    return Turn(role="assistant", token_ids=ids, logprobs=(logprob,) * len(ids), versions=(span,))


def a_vote(rollouts: Sequence[Rollout], *, winner: str = "4", share: float = 0.75) -> Consensus:
    """Those with the answer `winner` agree; the first of them is the exemplar."""
    agrees = {rollout.rollout_id: rollout.answer == winner for rollout in rollouts}
    return Consensus(
        group_id=rollouts[0].group_id,
        answer=winner,
        share=share,
        margin=0.5,
        agrees=agrees,
        exemplar=next(name for name, yes in agrees.items() if yes),
        neighbours=0,
    )
