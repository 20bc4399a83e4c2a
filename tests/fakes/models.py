"""A tiny random Qwen2.5-VL folder: tokenizer, processor and weights, loadable by transformers and vLLM.

About 0.3 M parameters; views of 64×64 px are cut into patches of 8 px, 2×2 patches a token, so 16 visual tokens a
picture.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
VOCABULARY = 512
VIEW_SIDE = 64
PATCH = 8
MERGE = 2

_CORPUS = (
    '<tool_call>{"name":"ZOOM","arguments":{"image":"image_1","box":[250,300,450,400]}}</tool_call>',
    '<tool_response>{"image":"image_2"}</tool_response> <tool_response>{"text":"493"}</tool_response>',
    '{"error":"empty_box","hint":"give a box inside the picture"} {"name":"OCR","arguments":{"image":"image_2"}}',
    "<answer>493</answer> What is the number on the red plate? frame_1 0.0s system user assistant I look closer.",
)

_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for c in m['content'] %}{% if c['type'] in ('image','image_url') %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in c %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tiny_model(folder: Path, *, seed: int = 0, hidden_size: int = 64, num_layers: int = 2) -> Path:
    """Write the model under `folder` (made if needed) and return it. Weights are a function of `seed`."""
    import torch
    import transformers as hf

    tokenizer = _tokenizer()
    ids = {name: int(tokenizer.convert_tokens_to_ids(name)) for name in SPECIAL}
    torch_state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    model = hf.Qwen2_5_VLForConditionalGeneration(_config(ids, hidden_size, num_layers))
    with torch.no_grad():  # larger weights, so that a random model's choices depend on its input
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.mul_(4.0)
    torch.random.set_rng_state(torch_state)
    model.generation_config = hf.GenerationConfig(
        eos_token_id=ids["<|im_end|>"], pad_token_id=ids["<|endoftext|>"], bos_token_id=ids["<|endoftext|>"]
    )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder, safe_serialization=True)
    pixels = VIEW_SIDE * VIEW_SIDE
    sizes: dict[str, Any] = dict(patch_size=PATCH, merge_size=MERGE, temporal_patch_size=2)
    image_processor = hf.Qwen2VLImageProcessor(
        size={"shortest_edge": (PATCH * MERGE) ** 2, "longest_edge": pixels}, **sizes
    )
    processor = hf.Qwen2_5_VLProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        video_processor=hf.Qwen2VLVideoProcessor(**sizes),
        chat_template=_TEMPLATE,
    )
    processor.save_pretrained(folder)
    image_processor.save_pretrained(folder)
    return folder


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=list(SPECIAL),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*_CORPUS] * 50, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL[1:]),
        chat_template=_TEMPLATE,
        model_max_length=4096,
    )


def _config(ids: dict[str, int], hidden_size: int, num_layers: int) -> Any:
    import transformers as hf

    rope = {"type": "mrope", "rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 10000.0}
    return hf.Qwen2_5_VLConfig(
        text_config=dict(
            vocab_size=VOCABULARY,
            hidden_size=hidden_size,
            intermediate_size=2 * hidden_size,
            num_hidden_layers=num_layers,
            num_attention_heads=hidden_size // 32,  # vLLM on a CPU wants heads of 32 or more
            num_key_value_heads=max(1, hidden_size // 64),
            max_position_embeddings=4096,
            rope_theta=10000.0,
            rope_scaling=rope,
            bos_token_id=ids["<|endoftext|>"],
            eos_token_id=ids["<|im_end|>"],
            pad_token_id=ids["<|endoftext|>"],
            tie_word_embeddings=False,
        ),
        vision_config=dict(
            depth=2,
            hidden_size=64,
            intermediate_size=128,
            num_heads=2,
            out_hidden_size=hidden_size,
            patch_size=PATCH,
            spatial_merge_size=MERGE,
            temporal_patch_size=2,
            window_size=64,
            fullatt_block_indexes=[1],
        ),
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=False,
    )


def describe(folder: Path) -> dict[str, Any]:
    """The folder's config.json."""
    return dict(json.loads((Path(folder) / "config.json").read_text()))
