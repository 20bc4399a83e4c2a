"""Laws of a trace's tokens, on whatever plans, variants and tools make of it, up to the learner's loss."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from fakes.chats import tiny_chat
from fakes.toolbox import PlainViewer
from fakes.traces import CarefulToolbox
from fakes.values import a_clip, a_query, a_ref, a_task
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn import functional

from actors.tasks.plan import Plan, Step
from actors.traces.config import Emphasis
from actors.traces.cutting import cut
from actors.traces.synthesis import synthesise
from actors.traces.thoughts import with_thoughts
from actors.traces.variants import VARIANTS
from common.chat import Chat
from common.types import Query, ToolCall, Trace
from learner.batch import Row, collate, row_of_trace
from learner.losses import processed_logprobs, weighted_nll

SCAFFOLD = ('<tool_call>{"name":"', '","arguments":{"image":"', "image_1", '","box":[', "}}</tool_call>", "500")
words = st.text(max_size=12)
FEW = settings(max_examples=25, deadline=None)


@st.composite
def queries(draw: st.DrawFn) -> Query:
    """A question about one to three pictures, or about a clip."""
    changes = {"question": draw(words)}
    if draw(st.booleans()):
        return a_query(clip=a_clip(draw(st.integers(1, 5))), images=(), **changes)
    return a_query(images=tuple(a_ref(f"picture {at}") for at in range(draw(st.integers(1, 3)))), **changes)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """A look or two before the one that answers; golden or a variant, with thoughts of any words or none."""
    query = draw(queries())
    first, crops = ("image_1", len(query.images)) if query.clip is None else ("frame_1", 0)
    steps = []
    for at in range(draw(st.integers(0, 2))):
        box = [50 * at, 0, 500, 50 * draw(st.integers(1, 20))]
        steps.append(ToolCall(name="ZOOM", arguments={"image": first, "box": box}))
        steps.append(ToolCall(name="OCR", arguments={"image": f"image_{crops + at + 1}"}))
    plan = Plan(
        task=a_task(query=query),
        steps=tuple(Step(thought=draw(words), call=call) for call in steps),
        level=1,
        kind="golden" if steps else "negative",
        thought=draw(words),
    )
    kind = draw(st.sampled_from(["golden", *sorted(VARIANTS)]))
    if steps and kind != "golden":
        plan = VARIANTS[kind](plan, np.random.default_rng(draw(st.integers(0, 99)))) or plan
    return with_thoughts(plan, draw(st.sampled_from(["none", "plan", "varied"])), seed=draw(st.integers(0, 99)))


async def trace_of(plan: Plan, chat: Chat, *, text: str = "words", emphasis: Emphasis | None = None) -> Trace | None:
    """The trace over tools that read `text` until the last time, then the answer."""
    reads = sum(step.call.name == "OCR" for step in plan.steps)
    made = await synthesise(
        plan,
        toolbox=CarefulToolbox(crop=a_ref("crop"), texts=(*[text] * (reads - 1), "493")),
        viewer=PlainViewer(),
        chat=chat,
        emphasis=emphasis or Emphasis(),
        max_model_len=9000,
    )
    return made.trace


async def made_of(plan: Plan, chat: Chat, **fields: str | Emphasis) -> Trace:
    trace = await trace_of(plan, chat, **fields)  # type: ignore[arg-type]
    assume(trace is not None)
    assert trace is not None
    return trace


def edges(trace: Trace) -> list[tuple[int, int]]:
    """Each turn's tokens [start, stop)."""
    return list(pairwise([0, *np.cumsum([len(turn.token_ids) for turn in trace.turns]).tolist()]))


chats = st.sampled_from([tiny_chat(), tiny_chat(scaffold=SCAFFOLD)])


@FEW
@given(plans(), chats)
async def test_the_learners_row_is_the_turns_end_to_end(plan: Plan, chat: Chat) -> None:
    trace = await made_of(plan, chat)
    row = row_of_trace(trace, chat)
    written = b"".join(np.array(turn.token_ids, np.int64).tobytes() for turn in trace.turns)
    assert row.ids.tobytes() == written
    weights = np.zeros(row.length, np.float32)
    weights[row.trained] = row.weights
    assert tuple(weights.tolist()) == trace.weights


@FEW
@given(plans(), chats)
async def test_every_picture_has_its_placeholders_and_its_grid(plan: Plan, chat: Chat) -> None:
    trace = await made_of(plan, chat)
    row = row_of_trace(trace, chat)
    runs = chat.pad_runs(row.ids.tolist())
    grids = [chat.vision.grid(view) for view in row.images]
    assert len(runs) == len(row.images) == len(grids)
    assert runs == [rows * columns // chat.vision.merge**2 for _, rows, columns in grids]
    opened = len(trace.query.images) or len(trace.query.clip.shown if trace.query.clip else ())
    worked = sum(len(turn.images) for turn in trace.turns if turn.role == "tool")
    assert len(row.images) == opened + worked
    for turn in trace.turns:
        assert chat.pad_runs(turn.token_ids) == [chat.vision.num_tokens(view) for view in turn.images]


@FEW
@given(plans(), chats, st.floats(0, 1))
async def test_cutting_drops_whole_turns_only(plan: Plan, chat: Chat, share: float) -> None:
    trace = await made_of(plan, chat)
    most = int(share * len(trace.weights))
    short = cut(trace, most)
    if short is None:
        first = next(stop for (start, stop) in edges(trace) if any(trace.weights[start:stop]))
        assert first > most
        return
    assert short.turns == trace.turns[: len(short.turns)]
    row = row_of_trace(short, chat)
    assert row.length <= most or short is trace
    assert row.ids.tolist() == row_of_trace(trace, chat).ids[: row.length].tolist()
    assert len(chat.pad_runs(row.ids.tolist())) == len(row.images)
    assert any(short.weights[edges(short)[-1][0] :])
    for before, after in ((trace.boxes, short.boxes), (trace.points, short.points)):
        assert after == tuple(target for target in before if target.position < row.length - 1)


@FEW
@given(plans(), chats)
async def test_only_what_the_policy_writes_has_weight_and_the_wrong_part_has_none(plan: Plan, chat: Chat) -> None:
    trace = await made_of(plan, chat)
    imitated = [step.imitated for step in plan.steps] + [True]
    spoken = 0
    for turn, (start, stop) in zip(trace.turns, edges(trace), strict=True):
        weights = trace.weights[start:stop]
        if turn.role != "assistant":
            assert not any(weights)
            continue
        assert all(w > 0 for w in weights) if imitated[spoken] else not any(weights)
        spoken += 1
    assert spoken == len(imitated)


@FEW
@given(plans(), chats, words)
async def test_an_observations_words_change_no_weight(plan: Plan, chat: Chat, text: str) -> None:
    trace = await made_of(plan, chat)
    other = await made_of(plan, chat, text=text)
    assert sum(trace.weights) == sum(other.weights)
    said = [[turn.token_ids for turn in one.turns if turn.role == "assistant"] for one in (trace, other)]
    assert said[0] == said[1]


@FEW
@given(plans(), chats)
async def test_no_placeholder_has_weight_and_none_is_the_policys(plan: Plan, chat: Chat) -> None:
    trace = await made_of(plan, chat)
    ids = [token for turn in trace.turns for token in turn.token_ids]
    assert not {token for token, weight in zip(ids, trace.weights, strict=True) if weight} & set(chat.banned)
    assert not {token for turn in trace.turns if turn.role == "assistant" for token in turn.token_ids} & set(
        chat.banned
    )


@FEW
@given(plans(), chats)
async def test_a_target_stands_before_the_digits_that_say_it(plan: Plan, chat: Chat) -> None:
    trace = await made_of(plan, chat)
    ids = [token for turn in trace.turns for token in turn.token_ids]
    boxes = [step.call.arguments["box"] for step in plan.steps if step.imitated and "box" in step.call.arguments]
    assert [[round(1000 * value) for value in target.box] for target in trace.boxes] == boxes
    for target, box in zip(trace.boxes, boxes, strict=True):
        after = chat.decode_all(ids[target.position + 1 : target.position + 12])
        assert after.lstrip('":[').startswith(str(box[0]))
        assert trace.weights[target.position + 1] > 1


# The loss


def loss_of(row: Row, logits: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The learner's imitation loss over one row; logits: (token, vocabulary), of every token of the row."""
    predicted = logits[torch.from_numpy(row.trained - 1)]
    logprobs = processed_logprobs(predicted, torch.ones(len(predicted)), torch.zeros(0, dtype=torch.long))
    targets = torch.from_numpy(row.ids[row.trained])
    chosen = logprobs.gather(1, targets[:, None])[:, 0]
    return weighted_nll(chosen, weights, total_weight=float(weights.sum()))


@FEW
@given(plans(), st.integers(0, 99))
async def test_weights_of_one_are_plain_cross_entropy(plan: Plan, seed: int) -> None:
    chat = tiny_chat()
    row = row_of_trace(await made_of(plan, chat, emphasis=Emphasis(w_op=1.0, w_arg=1.0)), chat)
    logits = torch.randn(row.length, chat.vocabulary_size, generator=torch.Generator().manual_seed(seed))
    labels = torch.full((row.length,), -100)
    labels[row.trained] = torch.from_numpy(row.ids[row.trained])
    expected = functional.cross_entropy(logits[:-1], labels[1:], ignore_index=-100)
    assert set(row.weights.tolist()) == {1.0}
    torch.testing.assert_close(loss_of(row, logits, torch.from_numpy(row.weights)), expected, rtol=1e-5, atol=1e-6)


@FEW
@given(plans(), st.integers(0, 99), st.floats(0.125, 8))
async def test_the_weighted_mean_divides_by_the_weights(plan: Plan, seed: int, scale: float) -> None:
    chat = tiny_chat()
    row = row_of_trace(await made_of(plan, chat, emphasis=Emphasis(w_op=3.0, w_arg=2.0)), chat)
    logits = torch.randn(row.length, chat.vocabulary_size, generator=torch.Generator().manual_seed(seed))
    weights = torch.from_numpy(row.weights)
    each = functional.cross_entropy(
        logits[row.trained - 1].double(), torch.from_numpy(row.ids[row.trained]), reduction="none"
    )
    expected = (each * weights).sum() / weights.sum()
    found = loss_of(row, logits, weights)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(loss_of(row, logits, scale * weights), found, rtol=1e-5, atol=1e-6)


@FEW
@given(st.lists(plans(), min_size=2, max_size=3))
async def test_rows_side_by_side_are_told_from_their_own_tokens(several: list[Plan]) -> None:
    chat = tiny_chat()
    rows = [row_of_trace(await made_of(plan, chat), chat) for plan in several]
    batch = collate(rows, image_pad=chat.image_pad)
    assert batch.targets.tolist() == [token for row in rows for token in row.ids[row.trained].tolist()]
    flat = batch.ids.reshape(-1)
    assert flat[batch.select + 1].tolist() == batch.targets.tolist()
    assert int((flat == chat.image_pad).sum()) == len(batch.slots)


@pytest.mark.parametrize("kind", sorted(VARIANTS))
async def test_the_strategy_makes_traces_of_every_kind(kind: str) -> None:
    zoom = ToolCall(name="ZOOM", arguments={"image": "image_1", "box": [0, 0, 500, 500]})
    read = ToolCall(name="OCR", arguments={"image": "image_2"})
    plan = Plan(task=a_task(), steps=(Step(thought="", call=zoom), Step(thought="", call=read)), level=1)
    varied = VARIANTS[kind](plan, np.random.default_rng(0))
    assert varied is not None and await trace_of(varied, tiny_chat()) is not None
