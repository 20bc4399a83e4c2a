"""A chat without a model: a byte-level tokenizer trained in memory, 64×64 views of 16 visual tokens."""

from __future__ import annotations

from functools import cache

from common.chat import Chat, VisionShape

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
SHAPE = VisionShape(patch=8, merge=2, min_pixels=256, max_pixels=4096)


@cache
def tiny_chat(*, scaffold: tuple[str, ...] = ()) -> Chat:
    """A vocabulary of bytes and little more; `scaffold` are pieces that are one token each."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=list(SPECIAL),
        show_progress=False,
    )
    tokenizer.train_from_iterator(
        ['<tool_call>{"name":"ZOOM","arguments":{"image":"image_1"}}</tool_call>'] * 4, trainer
    )
    tokenizer.add_tokens([AddedToken(piece, special=False, normalized=False) for piece in scaffold])
    return Chat(tokenizer, SHAPE)
