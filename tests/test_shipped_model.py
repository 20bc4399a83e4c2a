"""The small model that comes with the project: whole, of its recipe, and what stock transformers load."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cluster.config import load
from cluster.pretraining import SHIPPED, shipped
from common.chat import Chat
from common.errors import ModelError
from common.media import content_digest

MOST_BYTES = 24 * 2**20


def test_the_shipped_weights_are_those_that_its_recipe_names_and_small() -> None:
    made = json.loads((SHIPPED / "pretrain.json").read_text())
    weights = (SHIPPED / "model.safetensors").read_bytes()
    assert content_digest(weights) == made["digest"]
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) <= MOST_BYTES
    assert made["curve"][-1]["loss"] < made["curve"][0]["loss"]
    assert made["seed"] == 0


def test_a_run_starts_from_the_shipped_model_and_another_view_is_refused_in_one_line() -> None:
    assert shipped(load([])) == SHIPPED
    for override in ("view.side=96", "world.grid_step=25", "view.kind=native"):
        with pytest.raises(ModelError, match="comes with pixelis") as caught:
            shipped(load([override]))
        assert "\n" not in str(caught.value)


def test_stock_transformers_load_it_and_it_sees() -> None:
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(SHIPPED)
    processor = AutoProcessor.from_pretrained(SHIPPED)
    assert model.num_parameters() < 20_000_000
    text = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|><|im_end|>\n<|im_start|>assistant\n"
    pictures = [np.full((64, 64, 3), 200, np.uint8)]
    inputs = processor(text=[text], images=pictures, return_tensors="pt")
    assert inputs["image_grid_thw"].tolist() == [[1, 8, 8]]
    with torch.no_grad():
        logits = model(**inputs).logits
    assert torch.isfinite(logits).all()
    assert Chat.from_model(SHIPPED).vision.merge == 2
