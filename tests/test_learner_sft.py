"""Supervised steps of a whole learner: heads, weighting, what is held out, the way back, and resuming with them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fakes.learning import a_real_trace
from safetensors.torch import load_file

from common.chat import Chat
from common.errors import ContractError
from common.media import FolderMediaStore
from common.schema import encode_traces
from common.types import BoxTarget, PointTarget, SpanTarget, Trace
from learner.batch import row_of_trace
from learner.config import Curriculum, EngineConfig, LearnerConfig, RollbackConfig, ScheduleConfig, SftConfig
from learner.curriculum import is_held_out
from learner.learner import Learner
from learner.policy import load_backbone

SEED = 7
SFT = SftConfig(schedule=ScheduleConfig(lr=3e-3, num_steps=12, warmup_steps=2), batch_size=6)
HEADS = {"box": "boxes", "point": "points", "span": "spans"}

Make = Callable[..., Learner]


@pytest.fixture(scope="module")
def traces(chat: Chat, store: FolderMediaStore) -> list[Trace]:
    """Twelve traces of two levels that weigh calls double, with a box each; half have a point, a third a time span."""
    return [aimed(a_real_trace(chat, store, i, level=1 + i % 2), i) for i in range(12)]


def aimed(trace: Trace, number: int) -> Trace:
    at = trace.boxes[0].position
    start = len(trace.turns[0].token_ids)
    heavy = range(start, start + len(trace.turns[1].token_ids))
    return replace(
        trace,
        weights=tuple(2.0 * weight if i in heavy else weight for i, weight in enumerate(trace.weights)),
        points=(PointTarget(position=at + 1, point=(0.1 * (number % 5), 0.8)),) if number % 2 else (),
        spans=(SpanTarget(position=at + 2, span=(0.2, 0.4 + 0.1 * (number % 5))),) if number % 3 == 0 else (),
    )


@pytest.fixture
def make(folder: Path, store: FolderMediaStore, tmp_path: Path) -> Make:
    def build(name: str, traces: Sequence[Trace], **changes: object) -> Learner:
        sft = replace(SFT, **changes)  # type: ignore[arg-type]
        config = LearnerConfig(engine=EngineConfig(backend="torch"), sft=sft, micro_batch_tokens=600)
        learner = Learner(
            config,
            rank=0,
            world_size=1,
            model_folder=folder,
            store=store,
            weights_folder=tmp_path / name,
            seed=SEED,
        )
        learner.begin("sft")
        learner.add_traces(encode_traces(list(traces)))
        return learner

    return build


def weights_of(learner: Learner) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in learner._trainer.engine.weights()}


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return set(one) == set(two) and all(torch.equal(one[name], two[name]) for name in one)


def test_every_head_learns_what_it_should_say(make: Make, traces: list[Trace]) -> None:
    learner = make("heads", traces, schedule=ScheduleConfig(lr=3e-3, num_steps=40, warmup_steps=2), batch_size=12)
    metrics = [learner.imitate(step) for step in range(20)]
    for name in HEADS:
        losses = [step[f"{name}_loss"] for step in metrics]
        assert sum(losses[-5:]) < 0.8 * sum(losses[:5]), name
    # The loss is the sum that it says it is.
    first = metrics[0]
    assert first["loss"] == pytest.approx(first["nll"] + 0.1 * sum(first[f"{name}_loss"] for name in HEADS))


@pytest.mark.parametrize("name", sorted(HEADS))
def test_a_head_without_weight_is_as_if_it_had_nothing_to_say(make: Make, traces: list[Trace], name: str) -> None:
    weightless = make("zero", traces, **{f"{name}_weight": 0.0})
    silent = make("none", [replace(trace, **{HEADS[name]: ()}) for trace in traces])  # type: ignore[arg-type]
    every = make("all", traces)
    for step in range(3):
        metrics = weightless.imitate(step)
        assert f"{name}_loss" not in metrics
        silent.imitate(step)
        every.imitate(step)
    assert same(weights_of(weightless), weights_of(silent))
    assert not same(weights_of(weightless), weights_of(every))


def test_without_weighting_every_imitated_token_weighs_one(
    make: Make, chat: Chat, store: FolderMediaStore, traces: list[Trace]
) -> None:
    plain = [replace(trace, weights=tuple(float(w > 0) for w in trace.weights)) for trace in traces]
    off, ones, on = make("off", traces, weighting=False), make("ones", plain), make("on", traces)
    for step in range(3):
        first, second = off.imitate(step), ones.imitate(step)
        on.imitate(step)
        assert first["loss"] == second["loss"]
    assert same(weights_of(off), weights_of(ones))
    assert not same(weights_of(off), weights_of(on))


def test_the_loss_of_arguments_is_theirs_alone(make: Make, chat: Chat, traces: list[Trace]) -> None:
    def only_arguments(trace: Trace) -> Trace:
        row = row_of_trace(trace, chat)
        wanted = set(row.trained[row.slots != 0].tolist())
        return replace(trace, weights=tuple(float(i in wanted) for i in range(len(trace.weights))))

    metrics = make("arguments", [only_arguments(trace) for trace in traces]).imitate(0)
    assert metrics["argument_nll"] == pytest.approx(metrics["nll"], rel=1e-5)
    metrics = make("whole", traces).imitate(0)
    assert metrics["argument_nll"] != pytest.approx(metrics["nll"], rel=1e-3)
    assert 0 < metrics["argument_entropy"] < math.log(10)  # digits, which differ little from box to box
    assert make("alone", traces[:1]).imitate(0)["argument_entropy"] == 0.0


def test_heads_are_checkpointed_and_never_published(
    make: Make, traces: list[Trace], folder: Path, tmp_path: Path
) -> None:
    learner = make("published", traces)
    learner.imitate(0)
    learner.save(tmp_path / "state")
    shared = load_file(tmp_path / "state" / "shared.safetensors")
    for name in HEADS:
        assert {f"{name}.0.value", f"{name}.1.value", f"{name}.0.exp_avg"} <= set(shared)
    weights = learner.publish()
    assert weights is not None
    assert {record.name for record in weights.tensors} == set(load_backbone(folder).state_dict())


LADDER = (Curriculum(levels=(1,), until=0.25), Curriculum(levels=(2,), until=1.0))
WAY_BACK = RollbackConfig(every=2, held_out=0.4, num_measured=4, tolerance=0.0, max_rollbacks=2)


@pytest.fixture(scope="module")
def ladder_traces(chat: Chat, store: FolderMediaStore) -> list[Trace]:
    """Level 2 is traces whose calls are quite different from those of level 1, at a rate that forgets level 1."""
    levels = [aimed(a_real_trace(chat, store, i, level=1 + i % 2), i) for i in range(16)]
    held = [trace for trace in levels if is_held_out(trace.trace_id, WAY_BACK.held_out, SEED)]
    assert {trace.level for trace in held} == {1, 2} and len(held) < 12
    return levels


def test_held_out_traces_are_never_learned_from(make: Make, ladder_traces: list[Trace]) -> None:
    way_back = replace(WAY_BACK, tolerance=1.0)  # measured, never acted on

    def other(trace: Trace) -> Trace:
        if not is_held_out(trace.trace_id, way_back.held_out, SEED):
            return trace
        return replace(trace, weights=tuple(3 * w for w in trace.weights), boxes=())

    one = make("one", ladder_traces, curriculum=LADDER, rollback=way_back)
    two = make("two", [other(trace) for trace in ladder_traces], curriculum=LADDER, rollback=way_back)
    measured = [(one.imitate(step), two.imitate(step)) for step in range(6)]
    assert "earlier_accuracy" in measured[4][0]
    assert same(weights_of(one), weights_of(two))


def forgetting(traces: Sequence[Trace], chat: Chat) -> list[Trace]:
    """Traces whose level 2 teaches to say something else where level 1 says something: level 1 is lost."""

    def swapped(trace: Trace) -> Trace:
        answer = chat.written("<answer>something else</answer>")
        call = chat.written('<tool_call>{"name":"OCR","arguments":{"image":"image_2"}}</tool_call>')
        turns = list(trace.turns)
        turns[1], turns[3] = replace(turns[1], token_ids=call), replace(turns[3], token_ids=answer)
        weights = tuple(float(turn.role == "assistant") for turn in turns for _ in turn.token_ids)
        return replace(trace, turns=tuple(turns), weights=weights, points=(), spans=(), boxes=trace.boxes)

    return [swapped(trace) if trace.level == 2 else trace for trace in traces]


def test_a_learner_that_loses_a_level_goes_back_to_the_bit(make: Make, ladder_traces: list[Trace], chat: Chat) -> None:
    schedule = ScheduleConfig(lr=1e-2, num_steps=24, warmup_steps=0)
    learner = make("ladder", forgetting(ladder_traces, chat), curriculum=LADDER, rollback=WAY_BACK, schedule=schedule)
    for step in range(6):
        learner.imitate(step)
    before = weights_of(learner)
    history = []
    for step in range(6, 24):
        metrics = learner.imitate(step)
        history.append(metrics.get("rollbacks", 0.0))
        if len(history) > 1 and metrics.get("rollbacks", 0) > max(history[:-1]):
            assert metrics["earlier_fall"] > 0
            assert same(weights_of(learner), before)
    assert 1 <= max(history) <= WAY_BACK.max_rollbacks
    assert not same(weights_of(learner), before)  # then it goes on


@pytest.mark.parametrize("cut", [5, 7, 9])
def test_a_learner_with_heads_and_a_way_back_resumes_to_the_bit(
    make: Make, ladder_traces: list[Trace], chat: Chat, tmp_path: Path, cut: int
) -> None:
    traces = forgetting(ladder_traces, chat)
    settings = {"curriculum": LADDER, "rollback": WAY_BACK, "schedule": ScheduleConfig(lr=1e-2, num_steps=24)}
    learner = make("whole", traces, **settings)
    expected = []
    for step in range(14):
        expected.append(learner.imitate(step))
        if step + 1 == cut:
            learner.save(tmp_path / "state")
    assert any("rollbacks" in metrics and metrics["rollbacks"] > 0 for metrics in expected[cut:])
    other = make("resumed", traces, **settings)
    assert other.restore(tmp_path / "state") == cut
    for step in range(cut, 14):
        found = other.imitate(step)
        assert {k: v for k, v in found.items() if k != "learn_s"} == {
            k: v for k, v in expected[step].items() if k != "learn_s"
        }
    assert same(weights_of(learner), weights_of(other))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": (BoxTarget(position=10_000, box=(0.1, 0.1, 0.2, 0.2)),)}, "box"),
        ({"points": (PointTarget(position=3, point=(1.5, 0.2)),)}, "point"),
        ({"spans": (SpanTarget(position=-1, span=(0.1, 0.2)),)}, "span"),
    ],
)
def test_a_target_outside_its_trace_or_picture_is_refused(
    chat: Chat, traces: list[Trace], change: dict[str, object], message: str
) -> None:
    with pytest.raises(ContractError, match=message):
        row_of_trace(replace(traces[0], **change), chat)  # type: ignore[arg-type]


def test_a_negative_weight_is_refused(chat: Chat, traces: list[Trace]) -> None:
    weights = (*traces[0].weights[:-1], -1.0)
    with pytest.raises(ContractError, match="negative"):
        row_of_trace(replace(traces[0], weights=weights), chat)
