"""The Arrow form of rollouts and traces: what goes in comes out, and what breaks a law stays out."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from fakes.values import a_clip, a_group, a_query, a_rollout, a_trace, an_answer_turn
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import ContractError
from common.schema import (
    decode_rollouts,
    decode_traces,
    encode_rollouts,
    encode_traces,
    merge_rollouts,
    rollout_keys,
    rollout_table,
)
from common.types import (
    BoxTarget,
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
    Turn,
    VersionSpan,
)

texts = st.text(max_size=8)
counts = st.integers(0, 2**31 - 1)
finite = st.floats(allow_nan=False, allow_infinity=False)
refs = st.builds(
    MediaRef, digest=texts, kind=st.sampled_from(["image", "view"]), width=counts, height=counts, num_bytes=counts
)
few_refs = st.lists(refs, max_size=2).map(tuple)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | finite | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)
calls = st.builds(
    ExecutedCall,
    call=st.builds(ToolCall, name=texts, arguments=st.dictionaries(texts, json_values, max_size=3)),
    observation=st.builds(
        Observation,
        text=texts,
        image=st.none() | refs,
        view=st.none() | refs,
        error=st.none() | st.just("timeout"),
        cpu_s=finite,
        cached=st.booleans(),
    ),
    source=texts,
    footprint=st.none() | st.tuples(counts, counts, counts, counts),
)
queries = st.builds(
    Query, query_id=texts, question=texts, images=few_refs, clip=st.none() | st.integers(1, 5).map(a_clip)
)
facts_ = st.builds(
    Facts,
    score=st.none() | finite,
    parsed=st.booleans(),
    valid=st.booleans(),
    num_calls=counts,
    num_errors=counts,
    num_repeats=counts,
)


@st.composite
def turns(draw: st.DrawFn) -> Turn:
    role = draw(st.sampled_from(["user", "assistant", "tool"]))
    ids = tuple(draw(st.lists(counts, max_size=6)))
    images = draw(few_refs)
    if role != "assistant":
        return Turn(role=role, token_ids=ids, images=images)
    logprobs = tuple(
        draw(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=len(ids), max_size=len(ids)))
    )
    cuts = [
        0,
        *sorted(draw(st.sets(st.integers(1, max(1, len(ids) - 1)), max_size=2)) & set(range(1, len(ids)))),
        len(ids),
    ]
    parents = st.none() | st.integers(0, 2**40)
    spans = tuple(
        VersionSpan(start=a, stop=b, version=draw(st.integers(0, 2**40)), parent=draw(parents))
        for a, b in itertools.pairwise(cuts)
        if b > a
    )
    edges = sorted(draw(st.sets(st.integers(0, len(ids)), max_size=4)))
    shaped = tuple(zip(edges[::2], edges[1::2], strict=False))
    return Turn(role=role, token_ids=ids, images=images, logprobs=logprobs, versions=spans, shaped=shaped)


@st.composite
def rollouts(draw: st.DrawFn) -> Rollout:
    return a_rollout(
        draw(texts),
        draw(st.integers(0, 9)),
        query=draw(queries),
        turns=(*draw(st.lists(turns(), max_size=3)), an_answer_turn()),
        calls=tuple(draw(st.lists(calls, max_size=2))),
        answer=draw(st.none() | texts),
        facts=draw(facts_),
        chain=tuple(draw(st.lists(texts, max_size=2))),
        views=draw(texts),
        provenance=Provenance(source=draw(texts), consent=draw(st.sampled_from(["learn", "keep"])), split=draw(texts)),
    )


@settings(max_examples=40, deadline=None)
@given(st.lists(rollouts(), max_size=3))
def test_rollouts_come_back_as_they_went_in(values: list[Rollout]) -> None:
    assert decode_rollouts(encode_rollouts(values)) == values


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(queries, st.integers(0, 9)), max_size=3))
def test_traces_come_back_as_they_went_in(parts: list[tuple[Query, int]]) -> None:
    points, spans = (PointTarget(position=1, point=(0.25, 1.0)),), (SpanTarget(position=2, span=(0.0, 0.5)),)
    traces = [
        a_trace(i, query=query, level=level, points=points[: level % 2], spans=spans[: i % 2])
        for i, (query, level) in enumerate(parts)
    ]
    assert decode_traces(encode_traces(traces)) == traces


def test_a_trace_of_the_schema_before_points_and_spans_is_still_read() -> None:
    trace = a_trace()
    with pa.ipc.open_stream(encode_traces([trace])) as reader:
        table = reader.read_all().drop_columns(["points", "spans"])
    sink = pa.BufferOutputStream()
    old = table.schema.with_metadata({"pixelis.kind": "traces", "pixelis.schema": "2"})
    with pa.ipc.new_stream(sink, old) as writer:
        writer.write_table(table.cast(old))
    assert decode_traces(sink.getvalue().to_pybytes()) == [trace]


@pytest.mark.parametrize("target", [{"position": -1}, {"position": 99}, {"box": (0.0, 0.0, 1.2, 1.0)}])
def test_a_target_outside_the_trace_or_the_picture_stays_out(target: dict[str, Any]) -> None:
    box = BoxTarget(**({"position": 3, "box": (0.0, 0.0, 1.0, 1.0)} | target))
    with pytest.raises(ContractError, match="target"):
        encode_traces([a_trace(boxes=(box,))])


def test_log_probs_are_rounded_to_float32_and_to_nothing_coarser() -> None:
    turn = an_answer_turn((20, 21), logprob=-0.1)
    [back] = decode_rollouts(encode_rollouts([a_rollout(turns=(turn,))]))
    assert back.turns[0].logprobs == tuple(float(np.float32(x)) for x in turn.logprobs)
    assert back.turns[0].logprobs != turn.logprobs


def _with_logprobs(*logprobs: float) -> Rollout:
    return a_rollout(turns=(dataclasses.replace(an_answer_turn((20, 21)), logprobs=logprobs),))


@pytest.mark.parametrize(
    ("rollout", "message"),
    [
        (_with_logprobs(), "0 log-probs, expected 2"),
        (_with_logprobs(-0.5), "1 log-probs, expected 2"),
        (_with_logprobs(-0.5, float("nan")), "not finite"),
        (_with_logprobs(-0.5, float("-inf")), "not finite"),
        (_with_logprobs(-0.5, -1e300), "not finite in float32"),
        (a_rollout(turns=()), "no sampled token"),
        (a_rollout(turns=(dataclasses.replace(an_answer_turn(), versions=()),)), "do not tile"),
        (a_rollout(turns=(Turn(role="tool", token_ids=(1,), logprobs=(-1.0,)), an_answer_turn())), "expected 0"),
        (a_rollout(turns=(an_answer_turn((2**31, 2)),)), "does not fit its column"),
        (a_rollout(turns=(dataclasses.replace(an_answer_turn(), shaped=((1, 1),)),)), "shaped ranges"),
        (a_rollout(turns=(dataclasses.replace(an_answer_turn(), shaped=((0, 2), (1, 3))),)), "shaped ranges"),
        (a_rollout(turns=(dataclasses.replace(an_answer_turn(), shaped=((2, 5),)),)), "shaped ranges"),
        (a_rollout(turns=(Turn(role="tool", token_ids=(1,), shaped=((0, 1),)), an_answer_turn())), "shaped ranges"),
    ],
)
def test_a_rollout_that_breaks_a_law_is_refused(rollout: Rollout, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        encode_rollouts([rollout])


def test_a_quarantined_rollout_may_have_sampled_nothing() -> None:
    rollout = a_rollout(turns=(), stop_reason="quarantined")
    data = encode_rollouts([rollout])
    assert decode_rollouts(data) == [rollout]
    assert (rollout_keys(data)[0].quarantined, rollout_keys(data)[0].oldest_version) == (True, None)


def test_a_trace_is_no_rollout_and_carries_no_log_probs() -> None:
    with pytest.raises(ContractError, match="expected a stream of rollouts, got one of traces"):
        decode_rollouts(encode_traces([a_trace()]))
    with pytest.raises(ContractError, match="what was sampled is a rollout"):
        encode_traces([a_trace(turns=a_rollout().turns, weights=(1.0,) * 49)])
    with pytest.raises(ContractError, match="1 weights for"):
        encode_traces([a_trace(weights=(1.0,))])


def test_bytes_that_are_no_stream_are_refused() -> None:
    data = encode_rollouts([a_rollout()])
    for broken in (b"", b"nonsense", data[: len(data) // 2]):
        with pytest.raises(ContractError, match="not an Arrow stream"):
            decode_rollouts(broken)


def test_the_learner_reads_token_ids_without_a_copy() -> None:
    data = encode_rollouts(a_group(0))
    ids = rollout_table(data)["turns"].chunk(0).values.field("token_ids").values.to_numpy(zero_copy_only=True)
    assert ids.dtype == np.int32
    assert list(ids[:49]) == [i for turn in a_rollout().turns for i in turn.token_ids]
    start = np.frombuffer(data, np.uint8).__array_interface__["data"][0]
    assert start <= ids.__array_interface__["data"][0] < start + len(data)


def test_merging_keeps_rows_in_order() -> None:
    group = a_group(0, scores=(1.0, 0.0, 0.5))
    merged = merge_rollouts([encode_rollouts([rollout]) for rollout in group])
    assert decode_rollouts(merged) == group
    assert [keys.rollout_id for keys in rollout_keys(merged)] == [rollout.rollout_id for rollout in group]
    with pytest.raises(ContractError, match="not an Arrow stream"):
        decode_rollouts(merged + b"rest")
    assert decode_rollouts(merge_rollouts([])) == []


def test_keys_agree_with_the_decoded_rollout() -> None:
    rollout = a_rollout(3, 1, query=a_query("q", clip=a_clip(3)), score=None, version=7)
    keys = rollout_keys(encode_rollouts([a_rollout(), rollout]))[1]
    assert (keys.rollout_id, keys.producer, keys.sequence) == ("g3/1", "actor-0", 3001)
    assert (keys.group_id, keys.group_size, keys.oldest_version, keys.score) == ("g3", 2, 7, None)
    views = {ref for turn in rollout.turns for ref in turn.images}
    images = {rollout.calls[0].observation.image, rollout.calls[0].observation.view, *rollout.query.images}
    assert rollout.query.clip is not None
    assert set(keys.media) == views | images | set(rollout.query.clip.frames)
    assert len(keys.media) == len(set(keys.media))
