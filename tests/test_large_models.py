"""The large models' conventions, on shrunk relatives: what our chat and views say is what transformers itself says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes.large_models import LARGE, make_large_model
from fakes.learning import a_real_rollout, a_real_trace
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from actors.config import ViewConfig
from actors.views import see
from cluster.config import load
from common.chat import Chat
from common.media import FolderMediaStore, put_view
from common.schema import encode_rollouts, encode_traces
from common.types import Draw, MediaRef, Query, Turn
from learner.batch import row_of_trace
from learner.config import EngineConfig, LearnerConfig, ScheduleConfig, SftConfig
from learner.learner import Learner
from learner.policy import FeatureInput, PatchInput, load_backbone
from learner.views import Views, pixel_shape

SIZES = [(37, 53), (301, 97), (640, 480), (1000, 31), (29, 700), (1, 1), (1023, 769)]
"""Odd ones, narrow ones, one pixel; width and height."""
SIDE = {"qwen2_5_vl_7b": 84, "qwen3_vl_8b": 256, "qwen3_vl_2b": 256}
"""Of a view that fits."""
GROUPS = ["qwen2_5_vl_7b", "qwen3_vl_2b", "qwen3_vl_4b", "qwen3_vl_8b"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kit:
    """One architecture: its folder, and transformers' processor and model of it."""

    name: str
    folder: Path
    chat: Chat
    store: FolderMediaStore
    processor: Any
    model: Any

    def view(self, width: int, height: int, seed: int = 0) -> MediaRef:
        return put_view(self.store, see(picture(width, height, seed), ViewConfig(kind="native"), self.chat.vision))

    def processed(self, messages: list[dict[str, Any]], pictures: Sequence[NDArray[np.uint8]]) -> dict[str, Any]:
        """What transformers makes of a conversation."""
        from PIL import Image

        text = self.processor.apply_chat_template(messages, add_generation_prompt=True)
        images = [Image.fromarray(pixels) for pixels in pictures]
        return dict(self.processor(text=[text], images=images or None, return_tensors="pt"))


def picture(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module", params=sorted(LARGE))
def kit(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Kit:
    import transformers as hf

    folder = make_large_model(tmp_path_factory.mktemp(request.param), request.param)
    return Kit(
        name=request.param,
        folder=folder,
        chat=Chat.from_model(folder),
        store=FolderMediaStore(tmp_path_factory.mktemp("media")),
        processor=hf.AutoProcessor.from_pretrained(folder),
        model=load_backbone(folder),
    )


@pytest.mark.parametrize("group", GROUPS)
def test_every_large_model_composes_from_the_command_line(group: str) -> None:
    config = load([f"model={group}", "model.path=/models/x", "experiment=smoke", "learner.lora.rank=8"])
    assert config.view.kind == "native"
    assert config.model.dialect.tool_list
    assert config.learner.kl_estimator == "k3"
    assert config.actor.max_model_len == config.generation.max_model_len == 16384
    assert config.learner.lora is not None
    assert (config.learner.lora.rank, config.learner.lora.alpha) == (8, 32)
    assert load([f"model={group}", "model.path=/models/x"]).learner.lora is None


def test_the_published_bounds_are_read(kit: Kit) -> None:
    vision = kit.chat.vision
    if kit.name == "qwen2_5_vl_7b":
        assert (vision.patch, vision.merge, vision.min_pixels, vision.max_pixels) == (14, 2, 56 * 56, 16384 * 28 * 28)
    else:
        assert (vision.patch, vision.merge, vision.min_pixels, vision.max_pixels) == (16, 2, 256 * 256, 4096 * 4096)
    shape = pixel_shape(kit.folder, vision)
    assert (shape.mean, shape.std, shape.temporal) == (LARGE[kit.name].mean, LARGE[kit.name].std, 2)


@given(width=st.integers(1, 9000), height=st.integers(1, 9000), name=st.sampled_from(sorted(LARGE)))
@settings(deadline=None)
def test_a_view_has_the_size_that_transformers_would_choose(width: int, height: int, name: str) -> None:
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    from common.chat import VisionShape

    bounds = LARGE[name].sizes.get("size") or {
        "shortest_edge": LARGE[name].sizes["min_pixels"],
        "longest_edge": LARGE[name].sizes["max_pixels"],
    }
    least, most = bounds["shortest_edge"], bounds["longest_edge"]
    shape = VisionShape(patch=LARGE[name].patch, merge=2, min_pixels=least, max_pixels=most)
    if max(width, height) / min(width, height) > 200:  # transformers refuses; our views stay as they come
        return
    rows, columns = smart_resize(height, width, 2 * LARGE[name].patch, least, most)
    assert shape.fit(width, height) == (columns, rows)
    assert shape.fit(columns, rows) == (columns, rows)


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_a_picture_has_the_grid_the_patches_and_the_pads_of_transformers(kit: Kit, width: int, height: int) -> None:
    from PIL import Image

    own = kit.processor.image_processor(images=[Image.fromarray(picture(width, height))], return_tensors="pt")
    view = kit.view(width, height)
    assert [kit.chat.vision.grid(view)] == [tuple(grid) for grid in own["image_grid_thw"].tolist()]
    # given our view, which fits, it resizes nothing and cuts the same patches
    seen = Image.frombytes("RGB", (view.width, view.height), kit.store.get(view.digest))
    theirs = kit.processor.image_processor(images=[seen], return_tensors="pt")
    views = Views(kit.store, kit.chat.vision, pixel_shape(kit.folder, kit.chat.vision))
    mine, grids = views.patches([view])
    assert grids.tolist() == theirs["image_grid_thw"].tolist() == own["image_grid_thw"].tolist()
    np.testing.assert_allclose(mine, theirs["pixel_values"].numpy(), atol=3e-6)
    assert kit.chat.vision.num_tokens(view) == kit.processor.image_processor.get_number_of_image_patches(
        view.height, view.width, {}
    ) // (kit.chat.vision.merge**2)


def a_conversation(kit: Kit) -> tuple[list[Turn], list[MediaRef], list[dict[str, Any]]]:
    """Two pictures and a question, a call, a crop, an answer: our turns, and the same as messages."""
    views = [kit.view(37, 53), kit.view(301, 97, 1), kit.view(640, 480, 2)]
    system = "You act on the pictures with tools.\n<tools>\n{}\n</tools>"
    chat = Chat.from_model(kit.folder, system=system)
    query = Query(query_id="q", question="What is the number?", images=tuple(views[:2]))
    call = '<tool_call>{"name":"ZOOM","arguments":{"image":"image_1","box":[0,0,500,500]}}</tool_call>'
    turns = [
        chat.question(query, views[:2]),
        Turn(role="assistant", token_ids=chat.written(call)),
        chat.observation('{"image":"image_3"}', views[2]),
    ]
    image = {"type": "image"}
    text = {"type": "text", "text": "What is the number?"}
    head, tail = ({"type": "text", "text": part} for part in ('<tool_response>{"image":"image_3"}', "</tool_response>"))
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": system},
        {"role": "user", "content": [image, image, text]},
        {"role": "assistant", "content": call},
        {"role": "user", "content": [head, image, tail]},
    ]
    return turns, views, messages


def test_a_conversation_has_the_tokens_of_the_models_own_template(kit: Kit) -> None:
    from PIL import Image

    turns, views, messages = a_conversation(kit)
    ids = [token for turn in turns for token in turn.token_ids]
    pixels = [np.asarray(Image.frombytes("RGB", (v.width, v.height), kit.store.get(v.digest))).copy() for v in views]
    theirs = kit.processed(messages, pixels)
    assert theirs["input_ids"][0].tolist() == ids
    assert theirs["image_grid_thw"].tolist() == [list(kit.chat.vision.grid(view)) for view in views]
    assert kit.chat.pad_runs(ids) == [kit.chat.vision.num_tokens(view) for view in views]


def test_positions_of_several_odd_pictures_are_the_models_own(kit: Kit) -> None:
    views = [kit.view(width, height, i) for i, (width, height) in enumerate(SIZES)]
    query = Query(query_id="q", question="What is the number?", images=tuple(views))
    ids = kit.chat.question(query, views).token_ids
    grids = [kit.chat.vision.grid(view) for view in views]
    tokens = torch.tensor([ids])
    theirs, _ = kit.model.model.get_rope_index(
        tokens, (tokens == kit.chat.image_pad).int(), image_grid_thw=torch.tensor(grids)
    )
    assert np.array_equal(kit.chat.rope_positions(ids, grids), theirs[:, 0].numpy())


def test_ids_beyond_the_tokenizer_decode_to_nothing_and_added_tokens_are_kept(kit: Kit) -> None:
    """Embeddings have more rows than there are tokens, and a random model samples them."""
    rows = kit.model.get_input_embeddings().weight.shape[0]
    assert rows > kit.chat.vocabulary_size
    text = '<think>so</think><tool_call>{"name":"OCR"}</tool_call>'
    assert kit.chat.decode([*kit.chat.encode(text), rows - 1, kit.chat.end_of_turn]) == text


def build(kit: Kit, folder: Path, *, freeze: bool) -> Learner:
    config = LearnerConfig(
        engine=EngineConfig(backend="torch"),
        sft=SftConfig(schedule=ScheduleConfig(lr=1e-3, num_steps=20, warmup_steps=0), batch_size=2),
        micro_batch_tokens=600,
        freeze_vision=freeze,
    )
    return Learner(
        config, rank=0, world_size=1, model_folder=kit.folder, store=kit.store, weights_folder=folder, seed=5
    )


@pytest.mark.parametrize("freeze", [True, False])
def test_the_learner_says_what_transformers_says_and_takes_a_step(kit: Kit, tmp_path: Path, freeze: bool) -> None:
    learner = build(kit, tmp_path, freeze=freeze)
    once = freeze and not LARGE[kit.name].deep
    assert isinstance(learner._trainer.forward._pictures, FeatureInput if once else PatchInput)
    side = SIDE[kit.name]
    trace = a_real_trace(kit.chat, kit.store, 1, side=side)
    row = row_of_trace(trace, kit.chat)
    patches, grids = Views(kit.store, kit.chat.vision, pixel_shape(kit.folder, kit.chat.vision)).patches(row.images)
    ids = torch.from_numpy(row.ids[None])
    with torch.no_grad():
        mine = learner._trainer.forward.once([row], (0,)).logprobs
        logits = kit.model(
            input_ids=ids,
            mm_token_type_ids=(ids == kit.chat.image_pad).int(),
            pixel_values=torch.from_numpy(patches),
            image_grid_thw=torch.from_numpy(grids),
        ).logits[0]
    logits[:, list(kit.chat.banned)] = -torch.inf
    theirs = torch.log_softmax(logits, dim=1)[row.trained - 1, row.ids[row.trained]]
    torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=0)
    # one imitated and one reinforced step
    tower = {name: t.clone() for name, t in learner._trainer.engine.weights() if ".visual." in name}
    learner.begin("sft")
    learner.add_traces(encode_traces([trace]))
    first, second = learner.imitate(0), learner.imitate(1)
    assert second["nll"] < first["nll"]
    moved = [not torch.equal(t, tower[name]) for name, t in learner._trainer.engine.weights() if name in tower]
    assert any(moved) != freeze
    learner.begin("rft")
    rollouts = [
        a_real_rollout(kit.chat, kit.store, i, score=float(i % 2), side=side, answer="4" if i % 2 else "7")
        for i in range(4)
    ]
    names = tuple(rollout.rollout_id for rollout in rollouts)
    metrics = learner.step(Draw(step=0, watermark=0, rollout_ids=names, rollouts=encode_rollouts(rollouts)))
    assert metrics["kl_anchor"] == pytest.approx(0.0, abs=1e-5)
    assert metrics["grad_norm"] > 0
