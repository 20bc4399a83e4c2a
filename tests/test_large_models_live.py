"""Shrunk relatives of the large models in a live engine: a learner's step, its weights, their canary, a crop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fakes.large_models import LARGE, make_large_model
from fakes.learning import a_real_trace
from fakes.reference import Reference

from actors.config import GenerationConfig, ViewConfig
from actors.generation import VllmGenerator
from actors.views import see
from common.chat import Chat
from common.media import FolderMediaStore, put_view
from common.schema import encode_traces
from common.types import MediaRef, Query, Sampling, Turn
from learner.config import EngineConfig, LearnerConfig, ScheduleConfig, SftConfig
from learner.learner import Learner

pytestmark = [pytest.mark.system, pytest.mark.asyncio]

TOLERANCE = 1e-3
MAX_PIXELS = 448 * 448
SIDE = {"qwen2_5_vl_7b": 84, "qwen3_vl_8b": 256, "qwen3_vl_2b": 256}
CONFIG = LearnerConfig(
    engine=EngineConfig(backend="torch"),
    sft=SftConfig(schedule=ScheduleConfig(lr=1e-3, num_steps=40, warmup_steps=0), batch_size=2),
    micro_batch_tokens=600,
    freeze_vision=False,
)


@pytest.mark.parametrize("name", sorted(LARGE))
async def test_new_weights_of_tower_and_language_go_live_and_agree_over_two_turns_with_odd_pictures(
    name: str, tmp_path: Path
) -> None:
    folder = make_large_model(tmp_path / "model", name, max_pixels=MAX_PIXELS)
    chat = Chat.from_model(folder)
    store = FolderMediaStore(tmp_path / "media")
    learner = Learner(
        CONFIG, rank=0, world_size=1, model_folder=folder, store=store, weights_folder=tmp_path / "weights", seed=1
    )
    learner.begin("sft")
    learner.add_traces(encode_traces([a_real_trace(chat, store, i, side=SIDE[name]) for i in range(2)]))
    for step in range(3):
        learner.imitate(step)
    weights = learner.publish()
    assert weights is not None
    learner.export(tmp_path / "after")
    before, after = Reference(folder, chat, store), Reference(tmp_path / "after", chat, store)

    def view(width: int, height: int, seed: int) -> MediaRef:
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
        return put_view(store, see(pixels, ViewConfig(kind="native"), chat.vision))

    views = [view(301, 97, 0), view(37, 53, 1), view(640, 480, 2)]
    opening = chat.question(Query(query_id="q", question="What is the number?", images=tuple(views[:2])), views[:2])
    config = GenerationConfig(max_model_len=2048, max_num_seqs=4, max_num_images=4)
    generator = await VllmGenerator.start(folder, chat, store, config)

    async def rollout() -> list[Turn]:
        turns = [opening]
        for crop in (views[2], None):
            ids = [token for turn in turns for token in turn.token_ids]
            images = [each for turn in turns for each in turn.images]
            said = await generator.generate(ids, images, Sampling(temperature=0.7, max_tokens=24, seed=3))
            turns.append(
                Turn(role="assistant", token_ids=said.token_ids, logprobs=said.logprobs, versions=said.versions)
            )
            if crop is not None:
                turns.append(chat.observation('{"image":"image_3"}', crop))
        chat.check(turns)
        return turns

    def gap(turns: list[Turn], reference: Reference) -> float:
        ids = [token for turn in turns for token in turn.token_ids]
        images = [each for turn in turns for each in turn.images]
        table = reference.logprobs(ids, images, temperature=0.7, banned=chat.banned)
        given = np.concatenate([turn.logprobs or np.full(len(turn.token_ids), np.nan) for turn in turns])
        return float(np.nanmax(np.abs(given - table)))

    try:
        assert gap(await rollout(), before) <= TOLERANCE
        assert weights.canary is not None
        await generator.load(weights)  # refused unless the canary, text and a picture, agrees
        turns = await rollout()
        assert {span.version for turn in turns for span in turn.versions} == {weights.version}
        assert gap(turns, after) <= TOLERANCE < gap(turns, before)
    finally:
        await generator.close()
