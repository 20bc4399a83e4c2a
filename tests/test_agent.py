"""One rollout: what is asked of the generator, what comes back from the tools, and where it ends."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fakes.chats import tiny_chat
from fakes.generator import ScriptedGenerator
from fakes.toolbox import PlainViewer, ScriptedToolbox
from fakes.values import a_clip, a_query, a_ref
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.agent import Agent, Episode
from actors.config import ActorConfig
from common.errors import ContractError
from common.types import Sampling

ZOOM = '<tool_call>{"name":"ZOOM","arguments":{"image":"image_1","box":[250,300,450,400]}}</tool_call>'
OCR = '<tool_call>{"name":"OCR","arguments":{"image":"image_2"}}</tool_call>'
ANSWER = "<answer>493</answer>"
OPENS = '<tool_call>{"name":"'


class Scene:
    """An agent over fakes."""

    def __init__(
        self, script: list[str], *, logprob: float = -0.5, shaped: tuple[tuple[int, int], ...] = (), **config: Any
    ) -> None:
        self.chat = tiny_chat()
        self.generator = ScriptedGenerator(self.chat, script, logprob=logprob, shaped=shaped)
        self.toolbox = ScriptedToolbox(crop=a_ref("crop"))
        self.viewer = PlainViewer()
        settings = {"max_tokens": 200, "max_model_len": 2000} | config
        self.agent = Agent(
            generator=self.generator,
            toolbox=self.toolbox,
            chat=self.chat,
            viewer=self.viewer,
            config=ActorConfig(**settings),
        )

    async def run(self, **options: Any) -> Episode:
        query = options.pop("query", a_query())
        return await self.agent.roll_out(query, Sampling(temperature=1.0, max_tokens=200, seed=7), **options)


async def test_zoom_read_answer_takes_three_turns_and_two_calls() -> None:
    scene = Scene([ZOOM, OCR, ANSWER])
    episode = await scene.run()
    assert episode.stop_reason == "answer"
    assert episode.answer == "493"
    assert [turn.role for turn in episode.turns] == ["user", "assistant", "tool", "assistant", "tool", "assistant"]
    assert [done.call.name for done in episode.calls] == ["ZOOM", "OCR"]
    assert json.loads(episode.calls[1].observation.text) == {"text": "493"}


async def test_a_turn_says_which_tokens_a_grammar_shaped() -> None:
    scene = Scene([OCR, ANSWER], shaped=((2, 5),))
    episode = await scene.run()
    assert [turn.shaped for turn in episode.turns if turn.role == "assistant"] == [((2, 5),)] * 2
    assert all(not turn.shaped for turn in episode.turns if turn.role != "assistant")


async def test_the_generator_continues_exactly_the_ids_of_the_turns_so_far() -> None:
    scene = Scene([ZOOM, OCR, ANSWER])
    episode = await scene.run()
    for at, asked in zip((1, 3, 5), scene.generator.asked, strict=True):
        assert asked.prompt_ids == tuple(token for turn in episode.turns[:at] for token in turn.token_ids)
        assert asked.images == tuple(view for turn in episode.turns[:at] for view in turn.images)
    assert len(scene.generator.asked[1].images) == 2


async def test_every_turn_has_a_seed_of_its_own_that_depends_on_the_rollouts() -> None:
    first, again = Scene([ZOOM, OCR, ANSWER]), Scene([ZOOM, OCR, ANSWER])
    await first.run()
    await again.run()
    seeds = [asked.sampling.seed for asked in first.generator.asked]
    assert len(set(seeds)) == 3
    assert seeds == [asked.sampling.seed for asked in again.generator.asked]


async def test_only_sampled_ids_carry_log_probs() -> None:
    episode = await Scene([ZOOM, OCR, ANSWER]).run()
    for turn in episode.turns:
        assert len(turn.logprobs) == (len(turn.token_ids) if turn.role == "assistant" else 0)


async def test_an_error_is_an_observation_and_the_agent_may_repair_it() -> None:
    wrong = '<tool_call>{"name":"ZOOM","arguments":{"image":"image_9","box":[0,0,10,10]}}</tool_call>'
    episode = await Scene([wrong, ANSWER]).run()
    assert episode.calls[0].observation.error == "unknown_reference"
    assert episode.answer == "493"


async def test_a_turn_without_a_call_is_answered_by_a_hint_and_counted_as_a_call() -> None:
    scene = Scene(["hello", ANSWER])
    episode = await scene.run()
    assert episode.calls[0].observation.error == "malformed_call"
    assert "error" in scene.chat.decode(episode.turns[2].token_ids)
    assert episode.answer == "493"
    assert not scene.toolbox.executed


async def test_it_ends_after_too_many_turns_that_nobody_can_follow() -> None:
    episode = await Scene(["hello"], max_repairs=2).run()
    assert episode.stop_reason == "malformed"
    assert episode.answer is None
    assert len(episode.calls) == 2


async def test_a_call_beyond_the_limit_is_not_executed() -> None:
    scene = Scene([ZOOM], max_calls=3)
    episode = await scene.run()
    assert episode.stop_reason == "max_calls"
    assert len(scene.toolbox.executed) == len(episode.calls) == 3


async def test_a_turn_cut_by_the_token_limit_ends_the_rollout_with_what_was_sampled() -> None:
    episode = await Scene([ANSWER], max_tokens=200).agent.roll_out(a_query(), Sampling(max_tokens=3))
    assert episode.stop_reason == "max_tokens"
    assert episode.answer is None
    assert len(episode.turns[1].token_ids) == 3


async def test_an_observation_that_does_not_fit_is_left_out_whole() -> None:
    whole = await Scene([ZOOM, OCR, ANSWER]).run()
    upto_call = sum(len(turn.token_ids) for turn in whole.turns[:2])
    episode = await Scene([ZOOM, OCR, ANSWER], max_model_len=upto_call + 5).run()
    assert episode.stop_reason == "max_tokens"
    assert [turn.role for turn in episode.turns] == ["user", "assistant"]
    assert episode.calls == ()


@given(room=st.integers(0, 400))
@settings(max_examples=60, deadline=None)
async def test_whatever_the_limit_a_rollout_stays_within_it_and_pictures_keep_their_placeholders(room: int) -> None:
    scene = Scene([ZOOM, OCR, ANSWER])
    opening = len((await scene.run()).turns[0].token_ids)
    limited = Scene([ZOOM, OCR, ANSWER], max_model_len=opening + 1 + room)
    episode = await limited.run()
    assert sum(len(turn.token_ids) for turn in episode.turns) <= opening + 1 + room
    limited.chat.check(episode.turns)
    assert len(episode.calls) == sum(turn.role == "tool" for turn in episode.turns)


async def test_a_question_that_does_not_fit_is_refused_with_both_numbers() -> None:
    with pytest.raises(ContractError, match=r"max_model_len of \d+ at least; it is 20"):
        await Scene([ANSWER], max_model_len=20).run()


async def test_more_pictures_than_the_engine_takes_end_the_rollout_before_it_is_asked() -> None:
    scene = Scene([ZOOM], max_num_images=3)
    episode = await scene.run()
    assert episode.stop_reason == "max_tokens"
    assert max(len(asked.images) for asked in scene.generator.asked) == 3
    scene.chat.check(episode.turns)
    with pytest.raises(ContractError, match="max_num_images of 2 at least; it is 1"):
        await Scene([ANSWER], max_num_images=1).run(query=a_query(clip=a_clip(4), images=()))


async def test_without_tools_the_turn_is_opened_with_an_answer_that_is_not_trained() -> None:
    scene = Scene(["493</answer>"])
    episode = await scene.run(arm="no_tool")
    assert episode.answer == "493"
    opened = tuple(scene.chat.encode("<answer>"))
    assert episode.turns[0].token_ids[-len(opened) :] == opened
    assert episode.turns[1].token_ids == scene.chat.written("493</answer>")


async def test_without_tools_a_call_is_no_answer() -> None:
    scene = Scene([ZOOM])
    episode = await scene.run(arm="no_tool")
    assert episode.stop_reason == "malformed"
    assert not scene.toolbox.executed


async def test_a_rollout_that_breaks_the_token_contract_is_quarantined_with_its_reason() -> None:
    episode = await Scene([ZOOM, ANSWER], logprob=float("nan")).run()
    assert episode.stop_reason == "quarantined"
    assert "not finite" in episode.reason
    assert [turn.role for turn in episode.turns] == ["user"]
    assert episode.answer is None


async def test_a_clip_is_seen_as_its_shown_frames_and_under_the_augmentation_asked_for() -> None:
    scene = Scene([ANSWER])
    episode = await scene.run(query=a_query(clip=a_clip(4), images=()), augmentation="hue:3")
    assert len(episode.turns[0].images) == 2
    assert [augmentation for _, augmentation in scene.viewer.asked] == ["hue:3", "hue:3"]
    assert "frame_3 1.0s" in scene.chat.decode(episode.turns[0].token_ids)


async def test_a_forced_call_is_opened_for_the_policy_and_then_it_goes_on_freely() -> None:
    scene = Scene([ZOOM.removeprefix(OPENS), ANSWER])
    episode = await scene.run(arm="forced_tool")
    assert (episode.stop_reason, episode.answer) == ("answer", "493")
    assert [done.call.name for done in episode.calls] == ["ZOOM"]
    opened = tuple(scene.chat.encode(OPENS))
    assert episode.turns[0].token_ids[-len(opened) :] == opened
    assert episode.turns[1].token_ids == scene.chat.written(ZOOM.removeprefix(OPENS))
    assert episode.turns[2].token_ids[-len(opened) :] != opened


async def test_an_answer_does_not_get_round_a_forced_call() -> None:
    episode = await Scene([ANSWER], max_repairs=1).run(arm="forced_tool")
    assert (episode.stop_reason, episode.answer) == ("malformed", None)
    assert [done.observation.error for done in episode.calls] == ["malformed_call"]


async def test_random_calls_are_made_before_the_policy_answers_and_none_of_them_is_sampled() -> None:
    scene = Scene(["493</answer>"])
    episode = await scene.run(arm="random_tool", random_calls=2)
    assert (episode.stop_reason, episode.answer) == ("answer", "493")
    assert [done.call.name for done in episode.calls] == ["OCR", "OCR"]
    assert [turn.role for turn in episode.turns] == ["user", "tool", "tool", "assistant"]
    call = scene.chat.written('<tool_call>{"name":"OCR","arguments":{"image":"image_1"}}</tool_call>')
    assert episode.turns[0].token_ids[-len(call) :] == call
    assert episode.turns[-1].token_ids == scene.chat.written("493</answer>")
    assert len(scene.generator.asked) == 1
    assert scene.generator.asked[0].prompt_ids == tuple(i for turn in episode.turns[:-1] for i in turn.token_ids)


async def test_a_tool_that_an_arm_switches_off_is_refused_and_the_others_work() -> None:
    scene = Scene([ZOOM, OCR, ANSWER])
    episode = await scene.run(arm="without_OCR")
    assert [done.observation.error for done in episode.calls] == [None, "unavailable"]
    assert [done.call.name for done in episode.calls] == ["ZOOM", "OCR"]
    assert [call.name for call in scene.toolbox.executed] == ["ZOOM"]
    assert (episode.stop_reason, episode.answer) == ("answer", "493")


async def test_a_random_call_is_a_function_of_the_seed_and_the_query() -> None:
    scene = Scene(["493</answer>"])
    clip = a_query(clip=a_clip(20), images=())
    asked = []
    for seed in (1, 1, 2):
        sampling = Sampling(temperature=0.0, max_tokens=200, seed=seed)
        await scene.agent.roll_out(clip, sampling, arm="random_tool", random_calls=3)
        asked.append([call.arguments["image"] for call in scene.toolbox.executed[-3:]])
    assert asked[0] == asked[1] != asked[2]


@given(room=st.integers(0, 400), arm=st.sampled_from(["no_tool", "random_tool", "forced_tool"]))
@settings(max_examples=60, deadline=None)
async def test_whatever_the_limit_every_arm_stays_within_it_and_samples_only_what_it_says(room: int, arm: Any) -> None:
    script = {"forced_tool": [ZOOM.removeprefix(OPENS), ANSWER]}.get(arm, ["493</answer>"])
    opening = len((await Scene(script).run(arm="learned", query=a_query())).turns[0].token_ids)
    limited = Scene(script, max_model_len=opening + 20 + room)
    episode = await limited.run(arm=arm, random_calls=2)
    assert sum(len(turn.token_ids) for turn in episode.turns) <= opening + 20 + room
    limited.chat.check(episode.turns)
    said = [turn.token_ids for turn in episode.turns if turn.role == "assistant"]
    assert len(said) == len(limited.generator.asked)
    for ids, text in zip(said, script, strict=False):
        assert ids == limited.chat.written(text)[: len(ids)]


async def test_it_is_known_whether_the_first_thing_said_is_a_call() -> None:
    for script, wanted in (([ZOOM, ANSWER], True), ([f"hm {ZOOM}", ANSWER], False), ([ANSWER], False)):
        scene = Scene(script)
        assert scene.agent.begins_with_call(await scene.run()) is wanted
