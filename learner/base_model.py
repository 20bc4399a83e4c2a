"""The small base model: a Qwen2.5-VL of under a million parameters with its tokenizer and processor.

Stock classes only, so transformers and vLLM load it like its large relatives. Views are 64×64 px, cut into patches of
8 px,
2×2 patches a token: 16 visual tokens. The tower has only relative positions; the frame drawn around every view
(actors/views)
gives it an origin, and full attention in every layer lets each patch find it.

The tokenizer is a byte-level BPE of 512 ids. Digits stand alone, so that a code that was read can be copied digit by
digit; the
scaffold of calls and the coordinates of the 50-grid are single tokens, so that a call is about a dozen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

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
_CALLS = (
    "user\n", "assistant\n", "system\n",
    '<tool_call>{"name":"', '","arguments":{"image":"', '","arguments":{"mask":"', '","arguments":{"frame":"',
    '","arguments":{"track":"', '","arguments":{"query":"', "ZOOM", "OCR", "SEG", "TRK", "TEMP", "PROP",
    '","box":', '","point":', '","query":"', '","other":"', '","event":"', '","what":"',
    ']}}</tool_call>', '"}}</tool_call>',
    '<tool_response>{"image":"', '<tool_response>{"text":"', '<tool_response>{"area":', '<tool_response>{"fill":0.',
    '<tool_response>{"distance":', '<tool_response>{"boxes":{"', '<tool_response>{"intervals":[{"frame":"',
    '"}', '"}</tool_response>', "}</tool_response>", "}]}</tool_response>", "</tool_response>",
    ',"box":[', '],"mask":"', '","score":', '":[', '],"', ']},"track":"', ',"start_s":', ',"stop_s":',
    "<answer>", "</answer>", "fill", "distance",
)  # fmt: skip
_COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "cyan", "pink", "black")
_ACTS = ("starts", "disappears")
_WORDS = (
    "code on the", " plate?", "side of the", "where is the", "how many plates?", "left", "right", "look at",
    ".0s\n", ".5s\n", "875s\n",
    "fill of the", "distance of the", "fill of the shape on the note?", "clock when", " is seen?", "clock when the",
    "last code of the", " shape?", " shapes?", " shape", " and", " left", " right", " upper", " lower",
    *_ACTS, *(f" {act}?" for act in _ACTS), *_COLOURS, *(f" {name}" for name in _COLOURS),
)  # fmt: skip
_CORPUS = (
    "You are a helpful agent with tools. image frame question answer what where which when is the of on in a red green "
    "blue yellow number text area object colour video shape ball star turn segment track read properties"
)
_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for c in m['content'] %}{% if c['type'] in ('image', 'image_url') %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in c %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseShape:
    """Sizes of the base model. `grid_step`: the step of the written coordinates on the 0–1000 grid."""

    vocabulary_size: int = 512
    hidden_size: int = 128
    intermediate_size: int = 352
    num_layers: int = 4
    num_heads: int = 4
    num_key_value_heads: int = 2
    rope_theta: float = 1e6
    vision_hidden_size: int = 128
    vision_intermediate_size: int = 344
    vision_depth: int = 4
    vision_heads: int = 4
    view_side: int = 64
    patch: int = 8
    merge: int = 2
    grid_step: int = 50

    def __post_init__(self) -> None:
        if self.hidden_size // self.num_heads != 32:
            raise ValueError(f"hidden_size / num_heads must be 32, got {self.hidden_size} / {self.num_heads}")
        if self.view_side % (self.patch * self.merge):
            raise ValueError(f"view_side must be a multiple of patch × merge, got {self.view_side}")


def make_tokenizer(shape: BaseShape) -> Any:
    """A `PreTrainedTokenizerFast` with Qwen's special tokens. The same on every machine."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    steps = range(0, 1001, shape.grid_step)
    names = [("image", 8), ("frame", 16), ("mask", 2), ("track", 1)]
    scaffold = [*_CALLS, *_WORDS, *(f"{kind}_{i}" for kind, count in names for i in range(1, count + 1))]
    scaffold += [f"[{value}" for value in steps] + [f",{value}" for value in steps]
    tokenizer = Tokenizer(models.BPE())
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=shape.vocabulary_size - len(scaffold),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=list(SPECIAL),
        show_progress=False,
    )
    tokenizer.train_from_iterator([_CORPUS] * 20, trainer)
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in scaffold])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL[1:]),
        chat_template=_TEMPLATE,
        model_max_length=4096,
    )


def make_model(shape: BaseShape, tokenizer: Any, seed: int) -> Any:
    """A `Qwen2_5_VLForConditionalGeneration` with fresh weights, a function of `seed`."""
    import torch
    import transformers as hf

    ids = {name: int(tokenizer.convert_tokens_to_ids(name)) for name in SPECIAL}
    sections = [4, 6, 6]
    assert sum(sections) == shape.hidden_size // shape.num_heads // 2
    rope = {"type": "mrope", "rope_type": "default", "mrope_section": sections, "rope_theta": shape.rope_theta}
    text = {
        "vocab_size": shape.vocabulary_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_key_value_heads,
        "max_position_embeddings": 4096,
        "rope_theta": shape.rope_theta,
        "rope_scaling": rope,
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
        "tie_word_embeddings": False,
    }
    vision = {
        "depth": shape.vision_depth,
        "hidden_size": shape.vision_hidden_size,
        "intermediate_size": shape.vision_intermediate_size,
        "num_heads": shape.vision_heads,
        "out_hidden_size": shape.hidden_size,
        "patch_size": shape.patch,
        "spatial_merge_size": shape.merge,
        "temporal_patch_size": 2,
        "window_size": shape.view_side,
        "fullatt_block_indexes": list(range(shape.vision_depth)),
    }
    config = hf.Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=False,
    )
    model = hf.Qwen2_5_VLForConditionalGeneration(config).float()
    _initialise(model, torch.Generator().manual_seed(seed))
    model.generation_config = hf.GenerationConfig(
        eos_token_id=ids["<|im_end|>"], pad_token_id=ids["<|endoftext|>"], bos_token_id=ids["<|endoftext|>"]
    )
    return model


def _initialise(model: Any, random: torch.Generator) -> None:
    """Uniform ±1/√fan-in for matrices, zero biases, unit embeddings: wider than the large models' 0.02, which learns
    slowly at this size. Queries begin equal to keys, so attention begins by similarity, which is how a colour's
    word finds the token that looks like it.
    """
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() in (2, 5):
                bound = 1 / math.sqrt(parameter[0].numel())
                parameter.uniform_(-bound, bound, generator=random)
            elif name.endswith("bias"):
                parameter.zero_()
        config = model.config.text_config
        share = config.num_attention_heads // config.num_key_value_heads
        for layer in model.model.language_model.layers:
            keys = layer.self_attn.k_proj.weight.view(config.num_key_value_heads, -1, config.hidden_size)
            layer.self_attn.q_proj.weight.copy_(keys.repeat_interleave(share, 0).flatten(0, 1))
        model.model.language_model.embed_tokens.weight.normal_(0, 1, generator=random)
        model.lm_head.weight.normal_(0, 0.02, generator=random)


def save_model(model: Any, tokenizer: Any, shape: BaseShape, folder: Path) -> Path:
    """Weights (safetensors), tokenizer and processor under `folder`, as `from_pretrained` wants them."""
    import transformers as hf

    model.save_pretrained(folder, safe_serialization=True)
    sizes: dict[str, Any] = {
        "patch_size": shape.patch,
        "merge_size": shape.merge,
        "temporal_patch_size": 2,
        "size": {"shortest_edge": (shape.patch * shape.merge) ** 2, "longest_edge": shape.view_side**2},
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    hf.Qwen2_5_VLProcessor(
        image_processor=hf.Qwen2VLImageProcessor(**sizes),
        tokenizer=tokenizer,
        video_processor=hf.Qwen2VLVideoProcessor(**sizes),
        chat_template=_TEMPLATE,
    ).save_pretrained(folder)
    return folder
