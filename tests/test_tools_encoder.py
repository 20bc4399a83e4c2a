"""TEMP with a CLIP-like encoder: a tiny random one through transformers' own classes, and one that knows colours."""

import json

import numpy as np
import pytest
from fakes.desk import Desk
from fakes.tools import PALETTE

from actors.tools.backends.encoder import TransformersEncoder, describe_encoder, encoder_folder
from actors.tools.backends.scores import NOTHING
from actors.tools.catalogue import describe_back_ends, furnish
from actors.tools.colours import NAMES, name_indices
from actors.tools.config import ToolsConfig
from common.errors import ModelError
from common.media import FolderMediaStore


def save_tiny_clip(folder):
    """A small CLIP with random weights, its tokenizer and its image processor, as transformers saves them."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

    torch.manual_seed(0)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    letters = [chr(code) for code in range(33, 127)]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    ends = {"bos_token_id": len(tokens) - 2, "eos_token_id": len(tokens) - 1, "pad_token_id": len(tokens) - 1}
    config = CLIPConfig(
        text_config={**small, **ends, "vocab_size": len(tokens), "max_position_embeddings": 40},
        vision_config={**small, "image_size": 32, "patch_size": 8},
        projection_dim=24,
    )
    CLIPModel(config).save_pretrained(folder)
    CLIPTokenizer(vocab=vocabulary, merges=[]).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    save_tiny_clip(folder / "clip-tiny")
    return folder


def test_a_model_in_the_weights_folder_is_used_and_named(folder, tmp_path):
    config = ToolsConfig(num_workers=0, ocr="none", weights_dir=str(folder))
    assert describe_back_ends(config)["TEMP"].startswith("clip (transformers ")
    encoder = furnish(config, FolderMediaStore(tmp_path)).encoder
    assert isinstance(encoder, TransformersEncoder)
    without = ToolsConfig(num_workers=0, ocr="none", weights_dir=str(folder), encoder="none")
    assert furnish(without, FolderMediaStore(tmp_path)).encoder is None
    assert "clip" not in describe_back_ends(without)["TEMP"]


def test_the_vectors_are_those_of_the_model_itself(folder):
    import torch
    from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

    place = encoder_folder(folder)
    encoder = TransformersEncoder(place)
    pictures = [np.random.default_rng(seed).integers(0, 256, (40, 60 + seed, 3), dtype=np.uint8) for seed in range(3)]
    texts = ["a red ball", "a much longer text about nothing"]
    model, tokenizer = CLIPModel.from_pretrained(place).eval(), CLIPTokenizer.from_pretrained(place)
    processor = CLIPImageProcessor.from_pretrained(place)
    with torch.inference_mode():
        both = model(
            **tokenizer(texts, padding=True, return_tensors="pt"),
            **processor(images=pictures, return_tensors="pt", input_data_format="channels_last"),
        )
    logits = encoder.scale * encoder.pictures(pictures) @ encoder.texts(texts).T
    assert np.allclose(logits, both.logits_per_image.numpy(), atol=1e-3)
    assert np.allclose(np.linalg.norm(encoder.texts(texts), axis=1), 1, atol=1e-5)


def test_a_text_is_answered_end_to_end_and_the_same_every_time(folder, tmp_path):
    answers = []
    for part in ("a", "b"):
        desk = Desk(tmp_path / part, encoder=TransformersEncoder(encoder_folder(folder)))
        desk.play([np.full((40, 60, 3), 20 * at, np.uint8) for at in range(8)])
        answers.append((desk.call("TEMP", query="the dog barks"), desk.call("TEMP", query="frame_3")))
    assert answers[0] == answers[1]


def test_a_folder_that_holds_no_model_is_named_in_one_line(tmp_path):
    with pytest.raises(ModelError, match=r"tools\.encoder"):
        describe_back_ends(ToolsConfig(ocr="none", encoder="clip", weights_dir=str(tmp_path)))
    with pytest.raises(ModelError, match="weights_dir"):
        describe_back_ends(ToolsConfig(ocr="none", encoder="clip"))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(ModelError, match="safetensors"):
        describe_encoder(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ModelError) as caught:
        TransformersEncoder(tmp_path)
    assert "\n" not in str(caught.value)


class ColourEncoder:
    """Knows the names of colours: a picture is the shares of its colours, a text the colours that it names."""

    scale = 20.0

    def texts(self, texts):
        rows = [[float(name in text.lower()) for name in NAMES] + [float(text in NOTHING)] for text in texts]
        return self._unit(np.array(rows, np.float32))

    def pictures(self, pictures):
        shares = [np.bincount(name_indices(pixels).ravel(), minlength=len(NAMES)) for pixels in pictures]
        return self._unit(np.array([[*share, share.sum() / 2] for share in shares], np.float32))

    @staticmethod
    def _unit(rows):
        return rows / np.maximum(1e-6, np.linalg.norm(rows, axis=1, keepdims=True))


def test_an_encoder_that_knows_what_it_sees_finds_a_text_and_a_crop_in_time(tmp_path):
    desk = Desk(tmp_path, encoder=ColourEncoder())
    frames = [np.full((40, 80, 3), PALETTE["blue" if 3 <= at < 6 else "orange"], np.uint8) for at in range(9)]
    desk.play(frames)
    read = desk.call("TEMP", query="the moment in which all is blue")
    assert [(found["start_s"], found["stop_s"]) for found in read["intervals"]] == [(1.5, 3.0)]
    read = desk.call("TEMP", query="frame_5")
    assert [(found["start_s"], found["stop_s"]) for found in read["intervals"]] == [(1.5, 3.0)]
