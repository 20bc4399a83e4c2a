"""Small valid values for tests: every factory gives a complete value whose parts a test may replace.

Log-probs are multiples of 1/8, so they are exact in float32 and a round trip through any float32 store is exact.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal

from common.types import (
    BoxTarget,
    Clip,
    Consensus,
    ExecutedCall,
    Facts,
    MediaRef,
    Observation,
    Query,
    Rollout,
    Task,
    ToolCall,
    Trace,
    Turn,
    VersionSpan,
)

IMAGE_TOKENS = 16
"""Visual tokens of a 64×64 view at patch 8, merge 2."""


def a_ref(
    name: str = "plate", *, kind: Literal["image", "view"] = "image", width: int = 64, height: int = 64
) -> MediaRef:
    """A reference to media that no store holds; `name` decides the digest."""
    digest = hashlib.sha256(f"{kind}/{name}".encode()).hexdigest()
    return MediaRef(digest=digest, kind=kind, width=width, height=height, num_bytes=width * height * 3)


def a_clip(num_frames: int = 4) -> Clip:
    frames = tuple(a_ref(f"frame_{i}") for i in range(1, num_frames + 1))
    return Clip(frames=frames, times_s=tuple(i * 0.5 for i in range(num_frames)), shown=tuple(range(0, num_frames, 2)))


def a_query(query_id: str = "q0", **changes: Any) -> Query:
    """A question about one plate; `clip=a_clip(), images=()` makes it one about a clip."""
    fields: dict[str, Any] = {"question": "What is the code on the plate?", "images": (a_ref(f"plate of {query_id}"),)}
    return Query(query_id=query_id, **(fields | changes))


def a_task(query_id: str = "q0", **changes: Any) -> Task:
    fields: dict[str, Any] = {
        "query": a_query(query_id),
        "answer": "493",
        "kind": "exact",
        "family": "tiny_text",
        "split": "train",
        "chain": ("ZOOM", "OCR"),
    }
    return Task(**(fields | changes))


def facts(score: float | None = 1.0, **changes: Any) -> Facts:
    fields: dict[str, Any] = {"parsed": True, "valid": True, "num_calls": 1, "num_errors": 0, "num_repeats": 0}
    return Facts(score=score, **(fields | changes))


def an_executed_call(name: str = "ZOOM", *, picture: str = "crop") -> ExecutedCall:
    """A ZOOM that returned a crop, or an OCR that returned text."""
    if name == "OCR":
        call = ToolCall(name="OCR", arguments={"image": "image_2"})
        return ExecutedCall(
            call=call, observation=Observation(text='{"text":"493"}', digest="0c" * 32), source="image_2"
        )
    return ExecutedCall(
        call=ToolCall(name="ZOOM", arguments={"image": "image_1", "box": [250, 300, 450, 400]}),
        observation=Observation(
            text='{"image":"image_2"}',
            image=a_ref(picture),
            view=a_ref(picture, kind="view"),
            digest="20" * 32,
            cpu_s=0.25,
            wall_s=0.5,
        ),
        source="image_1",
        footprint=(16, 19, 29, 26),
    )


def a_prompt(image: str = "plate", *, num_words: int = 4) -> Turn:
    """A user's turn: one view (token 3 an image pad) and `num_words` words."""
    ids = (1,) + (3,) * IMAGE_TOKENS + tuple(range(10, 10 + num_words)) + (2,)
    return Turn(role="user", token_ids=ids, images=(a_ref(image, kind="view"),))


def an_answer_turn(
    token_ids: tuple[int, ...] = (20, 21, 22, 2), *, version: int = 0, logprob: float = -0.5, parent: int | None = None
) -> Turn:
    """An assistant's turn: sampled ids, a log-prob each, all under one version."""
    return Turn(
        role="assistant",
        token_ids=token_ids,
        logprobs=tuple(logprob - 0.125 * (i % 4) for i in range(len(token_ids))),
        versions=(VersionSpan(start=0, stop=len(token_ids), version=version, parent=parent),),
    )


def an_observation_turn(picture: str = "crop") -> Turn:
    ids = (1, 30) + (3,) * IMAGE_TOKENS + (2,)
    return Turn(role="tool", token_ids=ids, images=(a_ref(picture, kind="view"),))


def a_rollout(
    group: int | str = 0,
    sibling: int = 0,
    *,
    group_size: int = 2,
    score: float | None = 1.0,
    version: int = 0,
    producer: str = "actor-0",
    sequence: int | None = None,
    **changes: Any,
) -> Rollout:
    """Prompt with a view → ZOOM call → crop → answer. Sibling `sibling` of group `group`; `changes` replaces fields.

    `group` 3 gives group_id "g3"; a text is taken as it is. The sequence defaults to group·1000 + sibling.
    """
    group_id = f"g{group}" if isinstance(group, int) else group
    number = group if isinstance(group, int) else 0
    fields: dict[str, Any] = {
        "rollout_id": f"{group_id}/{sibling}",
        "producer": producer,
        "epoch": 0,
        "sequence": number * 1000 + sibling if sequence is None else sequence,
        "group_id": group_id,
        "group_size": group_size,
        "phase": "rft",
        "family": "tiny_text",
        "query": a_query(f"q{group}"),
        "turns": (
            a_prompt(),
            an_answer_turn((20, 21, 22, 23, 2), version=version),
            an_observation_turn(),
            an_answer_turn((24, 25, 2), version=version),
        ),
        "calls": (an_executed_call(),),
        "answer": "493",
        "stop_reason": "answer",
        "facts": facts(score),
        "temperature": 1.0,
        "chain": ("ZOOM", "OCR"),
        "generate_s": 0.5,
        "tools_s": 0.25,
    }
    return Rollout(**(fields | changes))


def a_group(
    group: int = 0, *, scores: tuple[float | None, ...] = (1.0, 0.0), version: int = 0, **changes: Any
) -> list[Rollout]:
    """All siblings of one group, a score each."""
    return [
        a_rollout(group, i, group_size=len(scores), score=score, version=version, **changes)
        for i, score in enumerate(scores)
    ]


def a_trace(number: int = 0, **changes: Any) -> Trace:
    """A golden chain: prompt, ZOOM call, crop, answer. Weights: prompt and observation 0, call 2, answer 1."""
    turns = (
        a_prompt(),
        Turn(role="assistant", token_ids=(20, 21, 22, 23, 2)),
        an_observation_turn(),
        Turn(role="assistant", token_ids=(24, 25, 2)),
    )
    per_turn = (0.0, 2.0, 0.0, 1.0)
    fields: dict[str, Any] = {
        "trace_id": f"t{number}",
        "family": "tiny_text",
        "level": 3,
        "kind": "golden",
        "query": a_query(f"q{number}"),
        "turns": turns,
        "weights": tuple(w for turn, w in zip(turns, per_turn, strict=True) for _ in turn.token_ids),
        "boxes": (BoxTarget(position=len(turns[0].token_ids) + 2, box=(0.25, 0.25, 0.5, 0.375)),),
    }
    return Trace(**(fields | changes))


def a_consensus(
    group: int | str = 0, *, answer: str | None = "493", num_siblings: int = 2, **changes: Any
) -> Consensus:
    """A clear vote: all siblings but the last agree. `answer=None` gives an abstention with a reason."""
    group_id = f"g{group}" if isinstance(group, int) else group
    names = [f"{group_id}/{i}" for i in range(num_siblings)]
    fields: dict[str, Any] = {
        "share": 0.75,
        "margin": 0.5,
        "agrees": {name: answer is not None and name != names[-1] for name in names},
        "exemplar": names[0] if answer is not None else None,
        "neighbours": 0,
        "reason": "" if answer is not None else "margin",
    }
    return Consensus(group_id=group_id, answer=answer, **(fields | changes))
