"""Shrunk, randomly initialised relatives of the large models: the real classes, files and conventions, few parameters.

A folder holds what the published ones hold: the architecture's own tokenizer class with its special tokens and more
rows of embeddings than tokens, the image processor's sizes, mean and standard deviation, a chat template with the same
structure, and weights under the same names.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.dialects.hermes import Hermes

_SPECIAL = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>"),
    *("<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>"),
    *("<|image_pad|>", "<|video_pad|>"),
)
_PLAIN = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")
"""Added tokens that decoding keeps."""
_CORPUS = (
    '{"name":"ZOOM","arguments":{"image":"image_1","box":[250,300,450,400]}} {"text":"493"}',
    "<answer>493</answer> What is the number on the red plate? frame_1 0.0s system user assistant I look closer.",
)
_SPARE_ROWS = 32
"""Rows of the embedding that no token has: the published models' are padded too."""
_CONTENT = (
    "{% macro said(content) %}{% if content is string %}{{ content }}{% else %}{% for c in content %}"
    "{% if c.type == 'image' or 'image' in c %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in c %}{{ c.text }}{% endif %}{% endfor %}{% endif %}{% endmacro %}"
)
_TURNS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ said(m.content) }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_DEFAULT_SYSTEM = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Large:
    """An architecture's conventions, from its published files.

    config, model, processor, video: class names in transformers. sizes: bounds in the form of its processor's file.
    deep: layers of the tower that feed layers of the language model (DeepStack). tied: embeddings serve as the head.
    """

    config: str
    model: str
    processor: str
    video: str
    patch: int
    sizes: dict[str, Any]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    rope_theta: float
    rope: dict[str, Any]
    vision: dict[str, Any]
    template: str
    deep: bool
    tied: bool


_QWEN25 = Large(
    config="Qwen2_5_VLConfig",
    model="Qwen2_5_VLForConditionalGeneration",
    processor="Qwen2_5_VLProcessor",
    video="Qwen2VLVideoProcessor",
    patch=14,
    sizes={"min_pixels": 3136, "max_pixels": 12845056},
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
    rope_theta=1e6,
    rope={"mrope_section": [4, 6, 6]},
    vision={"window_size": 112, "fullatt_block_indexes": [1], "hidden_act": "silu"},
    template=_CONTENT + _DEFAULT_SYSTEM + _TURNS,
    deep=False,
    tied=False,
)


def _qwen3(*, tied: bool) -> Large:
    return Large(
        config="Qwen3VLConfig",
        model="Qwen3VLForConditionalGeneration",
        processor="Qwen3VLProcessor",
        video="Qwen3VLVideoProcessor",
        patch=16,
        sizes={"size": {"shortest_edge": 65536, "longest_edge": 16777216}},
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        rope_theta=5e6,
        rope={"mrope_section": [6, 5, 5], "mrope_interleaved": True},
        vision={"num_position_embeddings": 256, "deepstack_visual_indexes": [0, 1]},
        template=_CONTENT + _TURNS,
        deep=True,
        tied=tied,
    )


LARGE = {"qwen2_5_vl_7b": _QWEN25, "qwen3_vl_8b": _qwen3(tied=False), "qwen3_vl_2b": _qwen3(tied=True)}
"""By the name of the configuration (`model=`); the 4B model ties its embeddings as the 2B one does."""


def make_large_model(folder: Path, name: str, *, seed: int = 0, max_pixels: int | None = None) -> Path:
    """Write the shrunk relative of `name` under `folder` and return it. max_pixels: of a picture, instead of the
    published bound (which an engine sizes its buffers for)."""
    import torch
    import transformers as hf

    large = LARGE[name]
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer(large.template)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = getattr(hf, large.model)(_config(large, tokenizer))
        with torch.no_grad():  # larger weights, so that a random model's choices depend on its input
            for parameter in model.parameters():
                if parameter.dim() >= 2:
                    parameter.mul_(4.0)
    end, pad = (int(tokenizer.convert_tokens_to_ids(each)) for each in ("<|im_end|>", "<|endoftext|>"))
    model.generation_config = hf.GenerationConfig(eos_token_id=[end, pad], pad_token_id=pad, bos_token_id=pad)
    model.save_pretrained(folder, safe_serialization=True)
    common: dict[str, Any] = {"patch_size": large.patch, "merge_size": 2, "temporal_patch_size": 2}
    common |= {"image_mean": list(large.mean), "image_std": list(large.std)}
    getattr(hf, large.processor)(
        image_processor=hf.Qwen2VLImageProcessor(**common),
        tokenizer=tokenizer,
        video_processor=getattr(hf, large.video)(**common),
        chat_template=large.template,
    ).save_pretrained(folder)
    (folder / "processor_config.json").unlink(missing_ok=True)  # the published folders are of before it existed
    kinds = {"processor_class": large.processor, "image_processor_type": "Qwen2VLImageProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(common | _bounded(large, max_pixels) | kinds))
    kinds = {"processor_class": large.processor, "video_processor_type": large.video}
    sizes = {"size": {"shortest_edge": 4096, "longest_edge": 25165824}}
    (folder / "video_preprocessor_config.json").write_text(json.dumps(common | sizes | kinds))
    return folder


def _bounded(large: Large, max_pixels: int | None) -> dict[str, Any]:
    if max_pixels is None:
        return large.sizes
    if "size" in large.sizes:
        return {"size": large.sizes["size"] | {"longest_edge": max_pixels}}
    return large.sizes | {"max_pixels": max_pixels}


def _tokenizer(template: str) -> Any:
    """Byte-level pieces of a small corpus, and the special tokens; Qwen's own class."""
    import transformers as hf
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        [*_CORPUS, Hermes().system("")] * 20,  # the list of tools, so that it is not thousands of tokens
        trainers.BpeTrainer(vocab_size=800, initial_alphabet=alphabet, show_progress=False),
    )
    learned = json.loads(raw.to_str())["model"]
    tokenizer = hf.Qwen2Tokenizer(
        vocab=learned["vocab"],
        merges=[tuple(pair) for pair in learned["merges"]],
        unk_token=None,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=template,
        model_max_length=32768,
    )
    tokenizer.add_tokens([AddedToken(text, special=True, normalized=False) for text in _SPECIAL])
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in _PLAIN])
    return tokenizer


def _config(large: Large, tokenizer: Any) -> Any:
    import transformers as hf

    ids = {name: int(tokenizer.convert_tokens_to_ids(name)) for name in _SPECIAL}
    hidden, heads = 64, 2  # vLLM on a CPU wants heads of 32 or more
    rope = {"rope_type": "default", "rope_theta": large.rope_theta, **large.rope}
    text = {
        "vocab_size": len(tokenizer) + _SPARE_ROWS,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": 3,
        "num_attention_heads": heads,
        "num_key_value_heads": 1,
        "head_dim": hidden // heads,
        "max_position_embeddings": 32768,
        "rope_theta": large.rope_theta,
        "rope_scaling": rope,
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
        "tie_word_embeddings": large.tied,
    }
    vision = {
        "depth": 2,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_heads": 2,
        "out_hidden_size": hidden,
        "patch_size": large.patch,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        **large.vision,
    }
    return getattr(hf, large.config)(
        text_config=text,
        vision_config=vision,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=large.tied,
    )
