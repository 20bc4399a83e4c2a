"""Settings of the actors: how they generate, act and vote. Loads no heavy library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Colour = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationConfig:
    """The engine that samples.

    max_model_len: tokens of a whole rollout. max_num_seqs: sequences sampled at once. max_num_images: in one rollout.
    dtype: of weights and activations; "float32" on a CPU. enforce_eager: no graph capture or compilation. block_size:
    tokens of a cache block; prefixes shorter than one block are not shared, so small models want 32.
    kv_cache_memory_bytes: exact size of the KV cache; None lets gpu_memory_utilization (share of the device) decide.
    tensor_parallel_size: devices that share one model. num_threads: of the engine's processor threads.
    processor_cache_gb: preprocessed pictures kept, GiB. canary_tolerance: largest log-prob difference, in nats, at
    which new weights are taken: what the numerics of dtype allow. seed: of the engine; requests have seeds of their
    own. lora_rank: of the adapters served beside the base model's weights, at most; 0 serves none, and whole weights
    are loaded instead. grammar: a tool call, once opened, is sampled under the tools' grammar (actors/grammar.py), so
    it cannot be malformed; tokens that the grammar shaped are not learned from.
    """

    max_model_len: int = 1024
    max_num_seqs: int = 8
    max_num_images: int = 12
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    enforce_eager: bool = True
    block_size: int = 32
    kv_cache_memory_bytes: int | None = 256 * 2**20
    gpu_memory_utilization: float = 0.9
    tensor_parallel_size: int = 1
    num_threads: int = 1
    processor_cache_gb: float = 0.1
    canary_tolerance: float = 0.01
    seed: int = 0
    lora_rank: int = 0
    grammar: bool = False

    def __post_init__(self) -> None:
        for name in ("max_model_len", "max_num_seqs", "max_num_images", "tensor_parallel_size", "num_threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.block_size < 16 or self.block_size % 16:
            raise ValueError(f"block_size must be a multiple of 16, got {self.block_size}")
        if not 0 < self.gpu_memory_utilization <= 1:
            raise ValueError(f"gpu_memory_utilization must be in (0, 1], got {self.gpu_memory_utilization}")
        if self.kv_cache_memory_bytes is not None and self.kv_cache_memory_bytes < 2**20:
            raise ValueError(f"kv_cache_memory_bytes must be at least 1 MiB, got {self.kv_cache_memory_bytes}")
        if not 0 <= self.lora_rank <= 512:
            raise ValueError(f"lora_rank must be from 0 to 512, got {self.lora_rank}")
        if self.canary_tolerance <= 0:
            raise ValueError(f"canary_tolerance must be positive, got {self.canary_tolerance}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewConfig:
    """What the model sees of a picture.

    kind: "fixed" letterboxes it to side × side with a thin frame, for small models that need landmarks at the border;
    "native" resizes it as the model's own processor would. side, frame_px: pixels. frame: colours of the top, bottom,
    left and right lines; fill: of the letterbox.
    """

    kind: Literal["fixed", "native"] = "fixed"
    side: int = 64
    frame_px: int = 1
    frame: tuple[Colour, Colour, Colour, Colour] = ((255, 0, 0), (0, 0, 255), (0, 255, 0), (255, 255, 0))
    fill: Colour = (127, 127, 127)

    def __post_init__(self) -> None:
        if self.kind not in ("fixed", "native"):
            raise ValueError(f'kind must be "fixed" or "native", got {self.kind!r}')
        if self.side < 8:
            raise ValueError(f"side must be at least 8, got {self.side}")
        if not 0 <= self.frame_px < self.side // 2:
            raise ValueError(f"frame_px must be from 0 to less than half of side, got {self.frame_px}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorConfig:
    """One rollout.

    max_calls: tool calls at most. max_repairs: turns that hold neither a call nor an answer, answered by a hint
    before the rollout ends. max_tokens: sampled in one turn. max_model_len, max_num_images: tokens and pictures of the
    whole rollout, the engine's own limits.
    """

    max_calls: int = 8
    max_repairs: int = 2
    max_tokens: int = 64
    max_model_len: int = 1024
    max_num_images: int = 12

    def __post_init__(self) -> None:
        for name, least in (("max_calls", 0), ("max_repairs", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        for name in ("max_tokens", "max_model_len", "max_num_images"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class VotingConfig:
    """The vote over a group's trajectories (actors/voting.py).

    answer_weight: of the plain answer vote in the kernel, in [0, 1]; 1 makes it the plain vote. min_share,
    min_margin: below either the vote abstains. min_parsed: answers at least. neighbour_weight: of one past item at
    similarity and confidence 1, in votes; 0 switches retrieval off. neighbour_cap: votes of all past items together,
    fewer than the group's own. dedupe: identical trajectories count once. fidelity_slack: how far below the best
    fidelity an exemplar may lie.
    """

    answer_weight: float = 0.5
    min_share: float = 0.6
    min_margin: float = 0.2
    min_parsed: int = 3
    neighbour_weight: float = 0.25
    neighbour_cap: float = 1.0
    dedupe: bool = True
    fidelity_slack: float = 0.1

    def __post_init__(self) -> None:
        for name in ("answer_weight", "min_share", "min_margin", "fidelity_slack"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        if self.min_parsed < 1:
            raise ValueError(f"min_parsed must be at least 1, got {self.min_parsed}")
        if self.neighbour_weight < 0:
            raise ValueError(f"neighbour_weight must not be negative, got {self.neighbour_weight}")
        if not 0 <= self.neighbour_cap < self.min_parsed:
            raise ValueError(f"neighbour_cap must be at least 0 and less than min_parsed, got {self.neighbour_cap}")
