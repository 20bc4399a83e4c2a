"""The base model: stock classes, a tokenizer that leaves digits alone, a warm-up that breaks the plateau."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from actors.tasks.config import WorldConfig
from actors.tasks.detection import WORDS, detection_scenes
from common.chat import Chat
from common.media import FolderMediaStore
from learner.base_model import BaseShape, make_model, make_tokenizer, save_model
from learner.warmup import Warmup, WarmupConfig, patches

CALL = '<tool_call>{"name":"ZOOM","arguments":{"image":"image_1","box":[250,300,450,400]}}</tool_call>'


def downsampled(pixels: np.ndarray, frame: int | None) -> np.ndarray:
    step = len(pixels) // 64
    return np.ascontiguousarray(pixels[step // 2 :: step, step // 2 :: step])


def test_the_tokenizer_is_small_total_and_leaves_digits_alone() -> None:
    tokenizer = make_tokenizer(BaseShape())
    assert len(tokenizer) <= 512
    assert len(tokenizer.encode(CALL, add_special_tokens=False)) <= 12
    assert len(tokenizer.encode("493", add_special_tokens=False)) == 3
    for text in ("naïve 東京 \x00", CALL, "<|im_start|>user\nhow many plates?"):
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_weights_are_a_function_of_the_seed() -> None:
    shape, tokenizer = BaseShape(), make_tokenizer(BaseShape())
    first, again, other = (make_model(shape, tokenizer, seed).state_dict() for seed in (0, 0, 1))
    assert all((first[name] == again[name]).all() for name in first)
    assert any((first[name] != other[name]).any() for name in first)
    assert sum(value.numel() for value in first.values()) < 2_500_000


def test_patches_are_what_the_stock_processor_makes(tmp_path: Path) -> None:
    from PIL import Image
    from transformers import AutoImageProcessor

    shape, tokenizer = BaseShape(), make_tokenizer(BaseShape())
    save_model(make_model(shape, tokenizer, 0), tokenizer, shape, tmp_path)
    views = np.random.default_rng(0).integers(0, 255, (3, 64, 64, 3), dtype=np.uint8)
    stock = AutoImageProcessor.from_pretrained(tmp_path)(
        images=[Image.fromarray(v) for v in views], return_tensors="pt"
    )
    pixels, grid = patches(views, shape)
    assert (pixels - stock["pixel_values"]).abs().max() < 1e-5
    assert (grid == stock["image_grid_thw"]).all()
    assert Chat.from_model(tmp_path).vision.patch == 8


def test_the_warm_up_learns_where_plates_are(tmp_path: Path) -> None:
    world, store = WorldConfig(), FolderMediaStore(tmp_path)
    shape = BaseShape(vision_hidden_size=64, vision_intermediate_size=176, vision_depth=2, vision_heads=2)
    warmup = Warmup(WarmupConfig(num_steps=80, batch_size=32, rise=10), shape, [f" {name}" for name in WORDS])
    assert warmup.add(detection_scenes(world, 0, 100, cells=4, view=downsampled, store=store)) == 100
    assert warmup.add(detection_scenes(world, 100, 100, cells=4, view=downsampled, store=store)) == 200
    (start,) = warmup.train(1)
    end = warmup.train(79)[-1]
    assert end["loss"] < 0.7 * start["loss"]
    assert end["corner_within_one_step"] > 1.3 * 3 / 21  # chance: three of 21 grid values are within one step
    assert warmup.train(1) == []


@pytest.mark.parametrize("values", [{"hidden_size": 100}, {"view_side": 60}])
def test_impossible_shapes_are_refused(values: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be"):
        BaseShape(**values)  # type: ignore[arg-type]
