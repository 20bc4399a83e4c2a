"""Rows, batches and pictures against transformers, and the invariants of the token contract."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes.learning import a_real_rollout, a_real_trace, a_view
from hypothesis import given
from hypothesis import strategies as st

from common.chat import Chat
from common.errors import ContractError
from common.media import FolderMediaStore, pixels_of
from common.types import Clip, Query
from learner.batch import collate, micro_batches, plan, row_of_rollout, row_of_trace, share_out
from learner.losses import processed_logprobs
from learner.policy import FeatureInput, PatchInput, Policy, load_backbone, run
from learner.views import PixelShape, Views, patchify, pixel_shape


@pytest.fixture(scope="module")
def policy(folder: Path) -> Policy:
    return Policy(load_backbone(folder))


def views_of(folder: Path, chat: Chat, store: FolderMediaStore) -> Views:
    return Views(store, chat.vision, pixel_shape(folder, chat.vision))


@pytest.mark.parametrize("num_images", [1, 2, 3])
def test_rope_positions_equal_transformers(
    policy: Policy, chat: Chat, store: FolderMediaStore, num_images: int
) -> None:
    views = [a_view(store, i) for i in range(num_images)]
    clip = Clip(frames=tuple(views), times_s=(0.0, 0.5, 1.0)[:num_images], shown=tuple(range(num_images)))
    turn = chat.question(Query(query_id="q", question="When does the light turn on?", clip=clip), views)
    grids = [chat.vision.grid(view) for view in views]
    ids = torch.tensor([turn.token_ids])
    expected, _ = policy.backbone.model.get_rope_index(
        ids, mm_token_type_ids=(ids == chat.image_pad).int(), image_grid_thw=torch.tensor(grids)
    )
    assert (chat.rope_positions(turn.token_ids, grids) == expected[:, 0].numpy()).all()


@pytest.mark.parametrize(("height", "width"), [(64, 64), (32, 96)])
def test_patches_equal_the_image_processor(folder: Path, chat: Chat, height: int, width: int) -> None:
    from transformers import AutoImageProcessor

    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    expected = AutoImageProcessor.from_pretrained(folder)(
        images=[pixels], do_resize=False, return_tensors="pt", input_data_format="channels_last"
    )
    found = patchify(pixels, pixel_shape(folder, chat.vision))
    assert expected["image_grid_thw"].tolist() == [[1, height // 8, width // 8]]
    np.testing.assert_allclose(found, expected["pixel_values"].numpy(), atol=2e-6)


def test_a_patch_is_the_picture_scaled_and_shifted() -> None:
    shape = PixelShape(patch=1, merge=2, temporal=1, mean=(0.5,) * 3, std=(0.5,) * 3)
    pixels = np.arange(4 * 2 * 3, dtype=np.uint8).reshape(2, 4, 3)
    found = patchify(pixels, shape)
    order = [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (0, 3), (1, 2), (1, 3)]  # 2×2 blocks, left to right
    np.testing.assert_allclose(found, [pixels[y, x] / 127.5 - 1 for y, x in order], atol=1e-6)


def test_the_trainers_ids_are_the_turns_ids_and_the_mask_is_what_was_sampled(
    chat: Chat, store: FolderMediaStore
) -> None:
    rollout = a_real_rollout(chat, store, 0)
    row = row_of_rollout(rollout, chat)
    assert row.ids.tolist() == [token for turn in rollout.turns for token in turn.token_ids]
    assert len(row.trained) == rollout.num_sampled_tokens == len(row.behaviour_logprobs)
    sampled = [token for turn in rollout.turns if turn.role == "assistant" for token in turn.token_ids]
    assert row.ids[row.trained].tolist() == sampled


def test_what_a_grammar_shaped_is_left_out_with_its_log_probs(chat: Chat, store: FolderMediaStore) -> None:
    rollout = a_real_rollout(chat, store, 0)
    said = rollout.turns[1]
    whole = row_of_rollout(rollout, chat)
    shaped = replace(said, shaped=((1, 3), (len(said.token_ids) - 1, len(said.token_ids))))
    row = row_of_rollout(replace(rollout, turns=(rollout.turns[0], shaped, *rollout.turns[2:])), chat)
    start = len(rollout.turns[0].token_ids)
    gone = {start + 1, start + 2, start + len(said.token_ids) - 1}
    kept = [at for at, index in enumerate(whole.trained.tolist()) if index not in gone]
    assert row.trained.tolist() == whole.trained[kept].tolist()
    assert row.behaviour_logprobs.tolist() == whole.behaviour_logprobs[kept].tolist()
    assert len(row.weights) == len(row.trained) and (row.ids == whole.ids).all()


def test_a_rollout_that_a_grammar_shaped_throughout_teaches_nothing(chat: Chat, store: FolderMediaStore) -> None:
    rollout = a_real_rollout(chat, store, 0)
    turns = tuple(
        replace(turn, shaped=((0, len(turn.token_ids)),)) if turn.role == "assistant" else turn
        for turn in rollout.turns
    )
    row = row_of_rollout(replace(rollout, turns=turns), chat)
    assert len(row.trained) == len(row.behaviour_logprobs) == 0
    assert collate([row, row_of_rollout(rollout, chat)], image_pad=chat.image_pad).select.min() >= row.length


def test_another_observation_text_changes_no_trained_token(chat: Chat, store: FolderMediaStore) -> None:
    rollout = a_real_rollout(chat, store, 0)
    other = chat.observation('{"text":"a much longer observation than before"}', rollout.turns[2].images[0])
    changed = replace(rollout, turns=(*rollout.turns[:2], other, *rollout.turns[3:]))
    before, after = row_of_rollout(rollout, chat), row_of_rollout(changed, chat)
    assert len(after.ids) > len(before.ids)
    assert (after.ids[after.trained] == before.ids[before.trained]).all()


def test_a_rollout_without_logprobs_or_with_a_placeholder_is_refused(chat: Chat, store: FolderMediaStore) -> None:
    rollout = a_real_rollout(chat, store, 0)
    bare = replace(rollout.turns[1], logprobs=())
    with pytest.raises(ContractError, match="log-probs"):
        row_of_rollout(replace(rollout, turns=(rollout.turns[0], bare, *rollout.turns[2:])), chat)
    ids = (chat.image_pad, *rollout.turns[1].token_ids[1:])
    with pytest.raises(ContractError, match="placeholder"):
        row_of_rollout(
            replace(rollout, turns=(rollout.turns[0], replace(rollout.turns[1], token_ids=ids), *rollout.turns[2:])),
            chat,
        )
    with pytest.raises(ContractError, match="greedily"):
        row_of_rollout(replace(rollout, temperature=0.0), chat)


def test_a_trace_with_too_few_weights_is_refused(chat: Chat, store: FolderMediaStore) -> None:
    trace = a_real_trace(chat, store, 0)
    with pytest.raises(ContractError, match="weights"):
        row_of_trace(replace(trace, weights=trace.weights[1:]), chat)


def logprobs_of(policy: Policy, chat: Chat, pictures: object, rows: list) -> torch.Tensor:  # type: ignore[type-arg]
    batch = collate(rows, image_pad=chat.image_pad)
    logits, _ = run(policy, batch, pictures(batch.images))  # type: ignore[operator]
    everything = processed_logprobs(logits, batch.temperatures, torch.tensor(chat.banned))
    return everything.gather(1, batch.targets[:, None])[:, 0]


def test_logprobs_equal_a_plain_transformers_pass(
    folder: Path, policy: Policy, chat: Chat, store: FolderMediaStore
) -> None:
    rollout = a_real_rollout(chat, store, 0, num_calls=2, temperature=0.7)
    row = row_of_rollout(rollout, chat)
    pictures = FeatureInput(policy.backbone, views_of(folder, chat, store), max_bytes=2**20)
    with torch.no_grad():
        found = logprobs_of(policy, chat, pictures, [row])
        from transformers import AutoProcessor

        pixels = [pixels_of(store, view) for view in row.images]
        inputs = AutoProcessor.from_pretrained(folder).image_processor(
            images=pixels, do_resize=False, return_tensors="pt", input_data_format="channels_last"
        )
        ids = torch.tensor([row.ids.tolist()])
        logits = policy.backbone(
            input_ids=ids,
            mm_token_type_ids=(ids == chat.image_pad).int(),
            attention_mask=torch.ones_like(ids),
            **inputs,
        ).logits[0]
    logits[:, list(chat.banned)] += -100.0
    expected = torch.log_softmax(logits / 0.7, dim=1)[row.trained - 1, row.ids[row.trained]]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_kept_features_equal_the_tower_within_the_network(
    folder: Path, policy: Policy, chat: Chat, store: FolderMediaStore
) -> None:
    rows = [row_of_trace(a_real_trace(chat, store, i), chat) for i in range(3)]
    views = views_of(folder, chat, store)
    with torch.no_grad():
        kept = logprobs_of(policy, chat, FeatureInput(policy.backbone, views, max_bytes=2**20), rows)
        inside = logprobs_of(policy, chat, PatchInput(views), rows)
    torch.testing.assert_close(kept, inside, atol=1e-4, rtol=0)


def test_a_full_cache_drops_the_oldest_and_computes_it_again(
    folder: Path, policy: Policy, chat: Chat, store: FolderMediaStore
) -> None:
    views = [a_view(store, i) for i in range(6)]
    inputs = FeatureInput(policy.backbone, views_of(folder, chat, store), max_bytes=2 * 16 * 64 * 4)
    first = inputs(views[:2]).features
    for view in views[2:]:
        inputs([view])
    assert inputs._num_bytes <= 2 * 16 * 64 * 4
    again = inputs(views[:2]).features
    assert first is not None
    assert again is not None
    torch.testing.assert_close(first, again, atol=1e-5, rtol=0)


def test_padding_changes_no_logprob(folder: Path, policy: Policy, chat: Chat, store: FolderMediaStore) -> None:
    short = row_of_rollout(a_real_rollout(chat, store, 0), chat)
    long = row_of_rollout(a_real_rollout(chat, store, 1, num_calls=3), chat)
    pictures = FeatureInput(policy.backbone, views_of(folder, chat, store), max_bytes=2**20)
    with torch.no_grad():
        alone = logprobs_of(policy, chat, pictures, [short])
        beside = logprobs_of(policy, chat, pictures, [short, long])[: len(alone)]
    torch.testing.assert_close(alone, beside, atol=1e-5, rtol=0)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=40), st.integers(1, 4), st.integers(50, 1000))
def test_every_row_is_in_exactly_one_micro_batch_within_the_budget(
    lengths: list[int], world_size: int, budget: int
) -> None:
    seen: list[int] = []
    for rank in range(world_size):
        batches, num_passes = plan(lengths, rank=rank, world_size=world_size, budget=budget)
        assert len(batches) <= num_passes
        for batch in batches:
            assert len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= budget
            seen += batch
    assert sorted(seen) == list(range(len(lengths)))


def test_shares_are_even_by_tokens() -> None:
    shares = share_out([10, 9, 8, 7, 6, 5], 2)
    assert [sum([10, 9, 8, 7, 6, 5][i] for i in share) for share in shares] == [23, 22]
    assert micro_batches([5, 9, 5], [0, 1, 2], budget=10) == [[1], [0, 2]]
