"""Rows that share a line: placed without waste, and the same losses and gradients as rows with a line each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes.learning import a_real_rollout, a_real_trace
from hypothesis import given
from hypothesis import strategies as st

from common.chat import Chat
from common.media import FolderMediaStore
from learner.batch import Batch, Row, collate, plan, row_of_rollout, row_of_trace
from learner.losses import processed_logprobs, weighted_nll
from learner.packing import packed_batches, places
from learner.policy import FeatureInput, PatchInput, Policy, load_backbone, run
from learner.views import Views, pixel_shape


@pytest.fixture(scope="module")
def rows(chat: Chat, store: FolderMediaStore) -> list[Row]:
    """Five rows of three lengths, none in order of length: two or three share a line."""
    short = [row_of_trace(a_real_trace(chat, store, i), chat) for i in range(3)]
    long = [row_of_rollout(a_real_rollout(chat, store, i, num_calls=4), chat) for i in range(2)]
    return [short[0], long[0], short[1], long[1], short[2]]


def qwen2_5(folder: Path) -> Any:
    return load_backbone(folder)


def qwen3(folder: Path) -> Any:
    """A tiny random Qwen3-VL with DeepStack over the same tokens and patches."""
    import transformers as hf

    config = load_backbone(folder).config
    ids = {name: getattr(config, name) for name in ("image_token_id", "video_token_id", "vision_start_token_id")}
    text = dict(
        vocab_size=config.text_config.vocab_size, hidden_size=64, intermediate_size=128, num_hidden_layers=3,
        num_attention_heads=2, num_key_value_heads=1, head_dim=32,
        rope_scaling={"rope_type": "default", "mrope_section": [4, 6, 6], "mrope_interleaved": True, "rope_theta": 1e4},
    )  # fmt: skip
    vision = dict(
        depth=3, hidden_size=64, intermediate_size=128, num_heads=2, out_hidden_size=64, patch_size=8,
        spatial_merge_size=2, temporal_patch_size=2, num_position_embeddings=64, deepstack_visual_indexes=[0, 1],
    )  # fmt: skip
    torch.manual_seed(0)
    model = hf.Qwen3VLForConditionalGeneration._from_config(
        hf.Qwen3VLConfig(text_config=text, vision_config=vision, **ids), attn_implementation="sdpa"
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.mul_(4.0)
    return model.eval()


def loss_and_gradients(
    backbone: Any, chat: Chat, batch: Batch, pictures: Any
) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
    """The weighted loss, its gradients by name, and the log-probs in the order of the rows."""
    policy = Policy(backbone)
    policy.zero_grad()
    logits, _ = run(policy, batch, pictures(batch.images))
    everything = processed_logprobs(logits, batch.temperatures, torch.tensor(chat.banned))
    logprobs = everything.gather(1, batch.targets[:, None])[:, 0]
    loss = weighted_nll(logprobs, batch.weights, total_weight=float(batch.weights.sum()))
    loss.backward()  # type: ignore[no-untyped-call]
    grads = {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}
    return loss.detach(), grads, logprobs.detach()


@pytest.mark.parametrize(("build", "kept"), [(qwen2_5, True), (qwen2_5, False), (qwen3, False)])
def test_packed_losses_and_gradients_are_those_of_a_line_each(
    *, build: Callable[[Path], Any], kept: bool, folder: Path, chat: Chat, store: FolderMediaStore, rows: list[Row]
) -> None:
    backbone = build(folder)
    views = Views(store, chat.vision, pixel_shape(folder, chat.vision))
    pictures = FeatureInput(backbone, views, max_bytes=2**20) if kept else PatchInput(views)
    apart = collate(rows, image_pad=chat.image_pad)
    where = places([row.length for row in rows])
    packed = collate(rows, image_pad=chat.image_pad, places=where)
    assert packed.ids.shape[0] < apart.ids.shape[0]
    assert sorted(packed.images, key=str) == sorted(apart.images, key=str)
    assert packed.images != apart.images  # pictures go where their lines go
    loss, grads, logprobs = loss_and_gradients(backbone, chat, packed, pictures)
    wanted_loss, wanted_grads, wanted_logprobs = loss_and_gradients(backbone, chat, apart, pictures)
    torch.testing.assert_close(logprobs, wanted_logprobs, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(loss, wanted_loss, atol=1e-5, rtol=1e-6)
    assert set(grads) == set(wanted_grads)
    for name, gradient in grads.items():
        scale = float(wanted_grads[name].abs().max())
        assert (gradient - wanted_grads[name]).abs().max() <= 1e-4 * scale + 1e-7, name
    # Without a place of each token in its own row, rows see those before them in the line.
    leaky = replace(packed, positions=packed.positions[1:])
    _, _, seen = loss_and_gradients(backbone, chat, leaky, pictures)
    assert (seen - wanted_logprobs).abs().max() > 1e-2


def test_a_short_row_takes_the_room_beside_a_long_one() -> None:
    # lines of 10: [6, 4], [5, 5], [3]
    found = places([4, 5, 10, 6, 5, 3])
    assert [(place.line, place.start) for place in found] == [(1, 6), (2, 0), (0, 0), (1, 0), (2, 5), (3, 0)]


LENGTHS = st.lists(st.integers(1, 300), min_size=1, max_size=40)


@given(LENGTHS)
def test_places_overlap_nowhere_and_no_line_is_longer_than_the_longest_row(lengths: list[int]) -> None:
    taken: set[tuple[int, int]] = set()
    for length, place in zip(lengths, places(lengths), strict=True):
        cells = {(place.line, place.start + i) for i in range(length)}
        assert not cells & taken
        taken |= cells
    assert len(taken) == sum(lengths)
    assert max(cell for _, cell in taken) < max(lengths)


@given(LENGTHS, st.integers(50, 1000))
def test_a_packed_batch_keeps_to_the_budget_where_places_puts_it(lengths: list[int], budget: int) -> None:
    batches = packed_batches(lengths, range(len(lengths)), budget=budget)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        mine = [lengths[index] for index in batch]
        num_lines = 1 + max(place.line for place in places(mine))
        assert num_lines * max(mine) <= budget or num_lines == 1


@given(LENGTHS, st.integers(1, 3), st.integers(50, 1000))
def test_ranks_that_pack_share_all_rows(lengths: list[int], world_size: int, budget: int) -> None:
    plans = [plan(lengths, rank=r, world_size=world_size, budget=budget, packing=True) for r in range(world_size)]
    seen = [index for batches, _ in plans for batch in batches for index in batch]
    assert sorted(seen) == list(range(len(lengths)))
    assert len({num_passes for _, num_passes in plans}) == 1
