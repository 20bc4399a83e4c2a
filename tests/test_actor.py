"""An actor: what leaves the process, how it is numbered, and who sees the truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fakes.chats import tiny_chat
from fakes.generator import ScriptedGenerator
from fakes.toolbox import PlainViewer, ScriptedToolbox
from fakes.values import a_query, a_ref, a_task

from actors.actor import Actor
from actors.config import ActorConfig, VotingConfig
from actors.embedding import ClassicalEmbedder
from actors.tasks.plan import Plan, Step
from actors.traces.config import Emphasis
from common.media import FolderMediaStore, put_image
from common.schema import decode_rollouts, decode_traces
from common.types import Rollout, Sampling, ToolCall, Weights

ZOOM = '<tool_call>{"name":"ZOOM","arguments":{"image":"image_1","box":[250,300,450,400]}}</tool_call>'
OCR = '<tool_call>{"name":"OCR","arguments":{"image":"image_2"}}</tool_call>'
ANSWER = "<answer>493</answer>"
SAMPLING = Sampling(temperature=0.7, max_tokens=500, seed=1)


@pytest.fixture
def store(tmp_path: Path) -> FolderMediaStore:
    return FolderMediaStore(tmp_path)


def an_actor(store: FolderMediaStore, *script: str, epoch: int = 0) -> Actor:
    chat = tiny_chat()
    return Actor(
        name="actor-3",
        epoch=epoch,
        generator=ScriptedGenerator(chat, list(script), version=5),
        toolbox=ScriptedToolbox(crop=a_ref("crop")),
        viewer=PlainViewer(),
        embedder=ClassicalEmbedder(),
        chat=chat,
        store=store,
        config=ActorConfig(max_tokens=200, max_model_len=2000),
        voting=VotingConfig(min_parsed=2),
        emphasis=Emphasis(),
    )


async def run(actor: Actor, **options: object) -> Rollout:
    fields: dict[str, object] = {"sampling": SAMPLING, "group_id": "g0", "group_size": 4, "phase": "rft"}
    data = await actor.run(a_task(), **(fields | options))  # type: ignore[arg-type]
    (rollout,) = decode_rollouts(data)
    return rollout


async def test_a_rollout_carries_its_facts_versions_and_origin(store: FolderMediaStore) -> None:
    rollout = await run(an_actor(store, ZOOM, OCR, ANSWER), views="hue:1")
    assert (rollout.producer, rollout.epoch, rollout.sequence) == ("actor-3", 0, 0)
    assert (rollout.group_id, rollout.group_size, rollout.phase, rollout.views) == ("g0", 4, "rft", "hue:1")
    assert (rollout.oldest_version, rollout.newest_version, rollout.temperature) == (5, 5, 0.7)
    assert rollout.facts.score == 1.0
    assert rollout.facts.valid
    assert (rollout.facts.num_calls, rollout.facts.num_errors, rollout.facts.num_repeats) == (2, 0, 0)
    assert rollout.chain == ("ZOOM", "OCR")


async def test_no_two_rollouts_of_one_actor_have_the_same_name_even_after_a_restart(store: FolderMediaStore) -> None:
    first, second = an_actor(store, ANSWER), an_actor(store, ANSWER, epoch=1)
    made = [await run(actor) for actor in (first, first, second, second)]
    assert len({rollout.rollout_id for rollout in made}) == 4
    assert [(rollout.epoch, rollout.sequence) for rollout in made] == [(0, 0), (0, 1), (1, 0), (1, 1)]


async def test_errors_and_repeats_are_counted(store: FolderMediaStore) -> None:
    rollout = await run(an_actor(store, ZOOM, ZOOM, "no call", ANSWER))
    assert (rollout.facts.num_calls, rollout.facts.num_errors, rollout.facts.num_repeats) == (3, 1, 1)
    assert rollout.facts.parsed
    assert not rollout.facts.valid


async def test_a_wrong_answer_scores_0_and_a_deployment_scores_nothing(store: FolderMediaStore) -> None:
    assert (await run(an_actor(store, "<answer>8</answer>"))).facts.score == 0.0
    assert (await run(an_actor(store, ANSWER), scored=False)).facts.score is None


async def test_a_turn_is_never_longer_than_the_actor_allows(store: FolderMediaStore) -> None:
    rollout = await run(an_actor(store, "x" * 400))
    assert rollout.stop_reason == "max_tokens"
    assert rollout.num_sampled_tokens == 200


async def test_a_quarantined_rollout_still_reaches_the_replay(store: FolderMediaStore) -> None:
    chat = tiny_chat()
    actor = an_actor(store, ANSWER)
    actor = Actor(
        name="a",
        epoch=0,
        generator=ScriptedGenerator(chat, [ANSWER], logprob=float("inf")),
        toolbox=ScriptedToolbox(crop=a_ref("crop")),
        viewer=PlainViewer(),
        embedder=ClassicalEmbedder(),
        chat=chat,
        store=store,
        config=ActorConfig(max_tokens=200, max_model_len=2000),
        voting=VotingConfig(),
        emphasis=Emphasis(),
    )
    rollout = await run(actor)
    assert (rollout.stop_reason, rollout.answer, rollout.facts.parsed) == ("quarantined", None, False)


async def test_an_evaluation_tells_what_was_done_and_with_what(store: FolderMediaStore) -> None:
    outcome = await an_actor(store, ZOOM, OCR, ANSWER).evaluate(a_task(), strip=True)
    assert (outcome.score, outcome.answer, outcome.truth) == (1.0, "493", "493")
    assert outcome.tools == ("ZOOM", "OCR")
    assert outcome.chained
    assert outcome.valid
    assert outcome.tools_cpu_s == 0.75
    assert outcome.version == 5
    zoom, read, answer = outcome.strip
    assert zoom.source == a_task().query.images[0]
    assert zoom.picture == a_ref("crop")
    assert zoom.footprint == (100, 100, 160, 140)
    assert read.source == a_ref("crop")
    assert (answer.said, answer.tool) == (ANSWER, "")


async def test_without_tools_nothing_is_called(store: FolderMediaStore) -> None:
    outcome = await an_actor(store, "493</answer>").evaluate(a_task(), arm="no_tool")
    assert (outcome.score, outcome.tools, outcome.chained) == (1.0, (), False)


async def test_a_group_votes_from_what_left_the_process(store: FolderMediaStore) -> None:
    actor = an_actor(store, ZOOM, OCR, ANSWER)
    fields = {"sampling": SAMPLING, "group_id": "g7", "group_size": 3, "phase": "ttrl"}
    group = [await actor.run(a_task(), views=f"hue:{i}", **fields) for i in range(3)]  # type: ignore[arg-type]
    result = await actor.vote(group)
    assert (result.group_id, result.answer, result.share) == ("g7", "493", 1.0)


async def test_traces_leave_out_what_the_tools_do_not_bear_out(store: FolderMediaStore) -> None:
    steps = (
        Step(thought="", call=ToolCall(name="ZOOM", arguments={"image": "image_1", "box": [0, 0, 500, 500]})),
        Step(thought="", call=ToolCall(name="OCR", arguments={"image": "image_2"})),
    )
    plans = [Plan(task=a_task(f"q{i}", answer=answer), steps=steps, level=1) for i, answer in enumerate(("493", "1"))]
    traces = decode_traces(await an_actor(store, ANSWER).trace(plans))
    assert [trace.query.query_id for trace in traces] == ["q0"]


async def test_a_query_is_embedded_from_its_stored_pictures(store: FolderMediaStore) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    vector = await an_actor(store, ANSWER).embed(a_query(images=(put_image(store, pixels),)))
    wanted = ClassicalEmbedder().embed(a_query().question, [pixels])
    assert np.allclose(vector, wanted)


async def test_weights_and_the_end_go_to_the_generator(store: FolderMediaStore) -> None:
    actor = an_actor(store, ANSWER)
    await actor.load(Weights(version=6, parent=5, step=1, buckets=(), tensors=()))
    assert (await run(actor)).oldest_version == 6
    await actor.close()
