"""Rollouts and traces as plain rows (dictionaries, lists, texts and numbers), and back: what common/schema writes."""

from __future__ import annotations

import json
from typing import Any

from common.chat import canonical_json
from common.types import (
    BoxTarget,
    Clip,
    ExecutedCall,
    Facts,
    MediaRef,
    Observation,
    PointTarget,
    Provenance,
    Query,
    Rollout,
    SpanTarget,
    ToolCall,
    Trace,
    Turn,
    VersionSpan,
)


def _ref_row(ref: MediaRef | None) -> dict[str, Any] | None:
    if ref is None:
        return None
    return {
        "digest": ref.digest,
        "kind": ref.kind,
        "width": ref.width,
        "height": ref.height,
        "num_bytes": ref.num_bytes,
    }


def _ref(row: dict[str, Any] | None) -> MediaRef | None:
    return None if row is None else MediaRef(**row)


def _refs(rows: list[dict[str, Any]]) -> tuple[MediaRef, ...]:
    return tuple(MediaRef(**row) for row in rows)


def _query_row(query: Query) -> dict[str, Any]:
    clip = query.clip and {
        "frames": [_ref_row(ref) for ref in query.clip.frames],
        "times_s": query.clip.times_s,
        "shown": query.clip.shown,
    }
    return {
        "query_id": query.query_id,
        "question": query.question,
        "images": [_ref_row(ref) for ref in query.images],
        "clip": clip,
    }


def _query(row: dict[str, Any]) -> Query:
    clip = row["clip"] and Clip(
        frames=_refs(row["clip"]["frames"]),
        times_s=tuple(row["clip"]["times_s"]),
        shown=tuple(row["clip"]["shown"]),
    )
    return Query(query_id=row["query_id"], question=row["question"], images=_refs(row["images"]), clip=clip)


def _turn_row(turn: Turn) -> dict[str, Any]:
    return {
        "role": turn.role,
        "token_ids": turn.token_ids,
        "images": [_ref_row(ref) for ref in turn.images],
        "logprobs": turn.logprobs,
        "versions": [
            {"start": s.start, "stop": s.stop, "version": s.version, "parent": s.parent} for s in turn.versions
        ],
        "shaped": [{"start": start, "stop": stop} for start, stop in turn.shaped],
    }


def _turn(row: dict[str, Any]) -> Turn:
    return Turn(
        role=row["role"],
        token_ids=tuple(row["token_ids"]),
        images=_refs(row["images"]),
        logprobs=tuple(row["logprobs"]),
        versions=tuple(VersionSpan(**span) for span in row["versions"]),
        shaped=tuple((span["start"], span["stop"]) for span in row["shaped"]),
    )


def _call_row(executed: ExecutedCall) -> dict[str, Any]:
    seen = executed.observation
    return {
        "name": executed.call.name,
        "arguments": canonical_json(executed.call.arguments),
        "observation": {
            "text": seen.text,
            "image": _ref_row(seen.image),
            "view": _ref_row(seen.view),
            "error": seen.error,
            "digest": seen.digest,
            "cpu_s": seen.cpu_s,
            "wall_s": seen.wall_s,
            "cached": seen.cached,
        },
        "source": executed.source,
        "footprint": executed.footprint,
    }


def _call(row: dict[str, Any]) -> ExecutedCall:
    seen = row["observation"]
    return ExecutedCall(
        call=ToolCall(name=row["name"], arguments=json.loads(row["arguments"])),
        observation=Observation(**{**seen, "image": _ref(seen["image"]), "view": _ref(seen["view"])}),
        source=row["source"],
        footprint=None if row["footprint"] is None else tuple(row["footprint"]),
    )


def rollout_row(rollout: Rollout) -> dict[str, Any]:
    facts, sampled = rollout.facts, any(turn.versions for turn in rollout.turns)
    plain = ("rollout_id", "producer", "epoch", "sequence", "group_id", "group_size", "phase", "family", "answer")
    more = ("stop_reason", "temperature", "chain", "generate_s", "tools_s", "views")
    return {name: getattr(rollout, name) for name in plain + more} | {
        "oldest_version": rollout.oldest_version if sampled else None,
        "newest_version": rollout.newest_version if sampled else None,
        "query": _query_row(rollout.query),
        "turns": [_turn_row(turn) for turn in rollout.turns],
        "calls": [_call_row(executed) for executed in rollout.calls],
        "facts": {name: getattr(facts, name) for name in Facts.__dataclass_fields__},
        "provenance": {name: getattr(rollout.provenance, name) for name in Provenance.__dataclass_fields__},
    }


def rollout_of(row: dict[str, Any]) -> Rollout:
    """The rollout of a row; one of schema 2 says nothing of its provenance, nor of the parents of versions."""
    del row["oldest_version"], row["newest_version"]
    return Rollout(
        **{
            **row,
            "query": _query(row["query"]),
            "turns": tuple(_turn(turn) for turn in row["turns"]),
            "calls": tuple(_call(call) for call in row["calls"]),
            "facts": Facts(**row["facts"]),
            "chain": tuple(row["chain"]),
            "provenance": Provenance(**row.get("provenance", {})),
        }
    )


def trace_row(trace: Trace) -> dict[str, Any]:
    return {
        "trace_id": trace.trace_id,
        "family": trace.family,
        "level": trace.level,
        "kind": trace.kind,
        "query": _query_row(trace.query),
        "turns": [_turn_row(turn) for turn in trace.turns],
        "weights": trace.weights,
        "boxes": [{"position": target.position, "box": target.box} for target in trace.boxes],
        "points": [{"position": target.position, "point": target.point} for target in trace.points],
        "spans": [{"position": target.position, "span": target.span} for target in trace.spans],
    }


def trace_of(row: dict[str, Any]) -> Trace:
    """The trace of a row; one of schema 2 has no points and spans."""
    return Trace(
        **{
            **row,
            "query": _query(row["query"]),
            "turns": tuple(_turn(turn) for turn in row["turns"]),
            "weights": tuple(row["weights"]),
            "boxes": tuple(BoxTarget(position=b["position"], box=tuple(b["box"])) for b in row["boxes"]),
            "points": tuple(
                PointTarget(position=p["position"], point=tuple(p["point"])) for p in row.get("points", ())
            ),
            "spans": tuple(SpanTarget(position=s["position"], span=tuple(s["span"])) for s in row.get("spans", ())),
        }
    )
