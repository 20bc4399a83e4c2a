"""What the learner can be told, with meanings, units and checks. Imports no heavy library."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

MAX_RANK = 512
"""Of an adapter (vLLM's largest)."""


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")


def _not_negative(**values: float) -> None:
    for name, value in values.items():
        if not value >= 0:
            raise ValueError(f"{name} must not be negative, got {value}")


def _share(**values: float) -> None:
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be in [0, 1], got {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleConfig:
    """Learning rate: rises linearly over `warmup_steps`, then falls as a half cosine to `final_share` of `lr` at
    `num_steps`."""

    lr: float
    num_steps: int
    warmup_steps: int = 10
    final_share: float = 0.1

    def __post_init__(self) -> None:
        _positive(lr=self.lr, num_steps=self.num_steps)
        _not_negative(warmup_steps=self.warmup_steps)
        _share(final_share=self.final_share)


@dataclass(frozen=True, slots=True, kw_only=True)
class Curriculum:
    """Until `until` (share of the phase's steps) only traces of these `levels` are drawn."""

    levels: tuple[int, ...]
    until: float

    def __post_init__(self) -> None:
        _share(until=self.until)
        if not self.levels:
            raise ValueError("levels must name at least one curriculum level")


@dataclass(frozen=True, slots=True, kw_only=True)
class RollbackConfig:
    """The curriculum's way back (learner/curriculum.py).

    every: steps between two measurements after an advance; 0 switches it off. held_out: share of the traces that are
    measured on and never learned from. num_measured: traces of a level measured on, at most. tolerance: fall in an
    earlier level's token accuracy that is accepted. max_rollbacks: in the whole phase. share: of earlier levels'
    traces in a batch; it rises by this much with each rollback.
    """

    every: int = 0
    held_out: float = 0.05
    num_measured: int = 16
    tolerance: float = 0.05
    max_rollbacks: int = 3
    share: float = 0.25

    def __post_init__(self) -> None:
        _not_negative(every=self.every, tolerance=self.tolerance, max_rollbacks=self.max_rollbacks)
        _positive(num_measured=self.num_measured)
        for name, value in (("held_out", self.held_out), ("share", self.share)):
            if not 0 < value < 1:
                raise ValueError(f"{name} must be in (0, 1), got {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SftConfig:
    """Supervised fine-tuning. After the last curriculum entry's `until` every level is drawn.

    batch_size: traces a step, over all ranks. weighting: tokens weigh what their trace says; without it every imitated
    token weighs 1. box_weight, point_weight, span_weight: λ of the auxiliary heads; 0 removes a head. rollback: of the
    curriculum.
    """

    schedule: ScheduleConfig = field(default_factory=lambda: ScheduleConfig(lr=1e-3, num_steps=900, warmup_steps=30))
    batch_size: int = 48
    weighting: bool = True
    box_weight: float = 0.1
    point_weight: float = 0.1
    span_weight: float = 0.1
    curriculum: tuple[Curriculum, ...] = ()
    rollback: RollbackConfig = field(default_factory=RollbackConfig)

    def __post_init__(self) -> None:
        _positive(batch_size=self.batch_size)
        _not_negative(box_weight=self.box_weight, point_weight=self.point_weight, span_weight=self.span_weight)
        ends = [entry.until for entry in self.curriculum]
        if ends != sorted(ends):
            raise ValueError(f"curriculum: `until` must rise from entry to entry, got {ends}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SurrogateConfig:
    """The clipped policy gradient: ratio bounds 1−low and 1+high, and the dual clip's bound for negative advantages."""

    clip_low: float = 0.2
    clip_high: float = 0.28
    dual_clip: float = 3.0

    def __post_init__(self) -> None:
        for name, value in (("clip_low", self.clip_low), ("clip_high", self.clip_high)):
            if not 0 < value < 1:
                raise ValueError(f"{name} must be in (0, 1), got {value}")
        if not self.dual_clip > 1:
            raise ValueError(f"dual_clip must be greater than 1, got {self.dual_clip}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardConfig:
    """R = answer + grant·min(limit, curiosity·C + coherence·K) − efficiency·max(0, n − n*) (the last only when right).

    intrinsic_limit: of both intrinsic terms together, in units of the answer's range. wrong_share: grant of a wrong
    but valid rollout. efficiency: a call beyond the optimum. efficiency_limit: of the whole penalty.
    """

    curiosity: float = 0.15
    coherence: float = 0.15
    intrinsic_limit: float = 0.3
    wrong_share: float = 0.25
    efficiency: float = 0.05
    efficiency_limit: float = 0.3

    def __post_init__(self) -> None:
        _not_negative(curiosity=self.curiosity, coherence=self.coherence, efficiency=self.efficiency)
        _share(
            intrinsic_limit=self.intrinsic_limit, wrong_share=self.wrong_share, efficiency_limit=self.efficiency_limit
        )
        if not self.wrong_share * self.intrinsic_limit < 1 - self.efficiency_limit:
            raise ValueError(
                "wrong_share * intrinsic_limit must stay under 1 - efficiency_limit: right and dull beats wrong"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class CuriosityConfig:
    """The dynamics ensemble and its gates.

    clip: bound of a call's standardised error. overlap: a footprint that overlaps an earlier one of the same tool
    and picture by this IoU or more is no first visit. momentum: of the running per-tool baseline. num_heads:
    members of the ensemble.
    """

    clip: float = 3.0
    overlap: float = 0.7
    momentum: float = 0.98
    num_heads: int = 3
    hidden_size: int = 64
    lr: float = 3e-3
    epistemic: float = 2.0

    def __post_init__(self) -> None:
        _positive(clip=self.clip, num_heads=self.num_heads, hidden_size=self.hidden_size, lr=self.lr)
        _share(overlap=self.overlap, momentum=self.momentum)
        _not_negative(epistemic=self.epistemic)


@dataclass(frozen=True, slots=True, kw_only=True)
class CoherenceConfig:
    """The band of good cosines of adjacent steps, used until it is fitted on traces. neutral: score of 0 or 1 steps."""

    centre: float = 0.6
    width: float = 0.4
    neutral: float = 0.5

    def __post_init__(self) -> None:
        _positive(width=self.width)
        _share(neutral=self.neutral)


@dataclass(frozen=True, slots=True, kw_only=True)
class CorridorConfig:
    """β of a KL term: multiplied by `factor` above `high`, divided below `low`, kept in [beta_min, beta_max]. KL in
    nats a token."""

    low: float
    high: float
    beta: float
    factor: float = 1.5
    beta_min: float = 1e-4
    beta_max: float = 10.0

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high:
            raise ValueError(f"low must be in [0, high), got {self.low} and {self.high}")
        if not 0 < self.beta_min <= self.beta <= self.beta_max:
            raise ValueError(f"beta must be in [beta_min, beta_max], got {self.beta}")
        if not self.factor > 1:
            raise ValueError(f"factor must be greater than 1, got {self.factor}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RftConfig:
    """Curiosity-coherence reward fine-tuning. kl: to the frozen anchor, `high` is its ceiling. standardise: divide
    advantages by the group's standard deviation."""

    schedule: ScheduleConfig = field(default_factory=lambda: ScheduleConfig(lr=2e-4, num_steps=80, warmup_steps=4))
    surrogate: SurrogateConfig = field(default_factory=SurrogateConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    curiosity: CuriosityConfig = field(default_factory=CuriosityConfig)
    coherence: CoherenceConfig = field(default_factory=CoherenceConfig)
    kl: CorridorConfig = field(default_factory=lambda: CorridorConfig(low=0.02, high=0.1, beta=0.01))
    standardise: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TtrlConfig:
    """Test-time adaptation without labels.

    corridor: of KL(policy ‖ EMA). ema: its momentum a step. anchor_limit: nats a token to the fixed anchor, and
    kl_limit to the EMA, that no accepted update may exceed (the step is undone). length: reward taken a call.
    exemplar: weight of imitating exemplars.
    """

    schedule: ScheduleConfig = field(default_factory=lambda: ScheduleConfig(lr=1e-4, num_steps=60, warmup_steps=2))
    surrogate: SurrogateConfig = field(default_factory=SurrogateConfig)
    corridor: CorridorConfig = field(default_factory=lambda: CorridorConfig(low=0.1, high=0.2, beta=0.05))
    ema: float = 0.99
    anchor_limit: float = 0.5
    kl_limit: float = 0.4
    length: float = 0.02
    exemplar: float = 0.2

    def __post_init__(self) -> None:
        _positive(anchor_limit=self.anchor_limit)
        _not_negative(length=self.length, exemplar=self.exemplar)
        if not 0 < self.ema < 1:
            raise ValueError(f"ema must be in (0, 1), got {self.ema}")
        if not self.kl_limit >= self.corridor.high:
            raise ValueError(f"kl_limit must be at least the corridor's high, got {self.kl_limit}")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Who does the optimiser step.

    backend: "deepspeed", or "torch" (one rank, no DeepSpeed). zero_stage: 0 to 3. dtype: of the trained weights
    (masters are fp32). device: "cpu" or "cuda". num_threads: torch's, on the CPU.
    """

    backend: Literal["deepspeed", "torch"] = "deepspeed"
    zero_stage: int = 1
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: Literal["cpu", "cuda"] = "cpu"
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    max_grad_norm: float = 1.0
    num_threads: int = 1

    def __post_init__(self) -> None:
        if self.zero_stage not in (0, 1, 2, 3):
            raise ValueError(f"zero_stage must be 0, 1, 2 or 3, got {self.zero_stage}")
        if self.dtype == "bfloat16" and (self.backend == "torch" or self.zero_stage == 0):
            raise ValueError(
                "dtype bfloat16 needs backend deepspeed with zero_stage 1, 2 or 3, which keep fp32 masters"
            )
        _not_negative(weight_decay=self.weight_decay)
        _positive(max_grad_norm=self.max_grad_norm, num_threads=self.num_threads, eps=self.eps)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraConfig:
    """Low-rank adapters on the language layers (learner/lora.py): only they are trained and checkpointed.

    rank: of B A. alpha: the adapter's output is scaled by alpha / rank. targets: linear layers of each language layer
    that get one. dropout: must be 0, for a sampler drops nothing and log-probs must agree. publish: "adapter" hands
    engines the adapter, beside the base they hold; "merged" hands them whole weights, the adapter added in.
    """

    rank: int = 16
    alpha: int = 32
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    dropout: float = 0.0
    publish: Literal["adapter", "merged"] = "adapter"

    def __post_init__(self) -> None:
        _positive(rank=self.rank, alpha=self.alpha)
        if self.rank > MAX_RANK:
            raise ValueError(f"rank must be at most {MAX_RANK}, which engines serve, got {self.rank}")
        if not self.targets:
            raise ValueError("targets must name at least one linear layer, such as q_proj")
        if self.dropout:
            raise ValueError(f"dropout must be 0: log-probs are compared with a sampler's, got {self.dropout}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerConfig:
    """The learner.

    freeze_vision: the vision tower is not trained, so its features are kept by picture (at most feature_cache_bytes).
    micro_batch_tokens: padded tokens in one forward pass at most (a longer row goes alone). packing: short rows share
    a line, each seeing itself alone. kl_estimator: "exact" over the vocabulary, or "k3" on the sampled tokens where
    the vocabulary is large. bucket_bytes: size of a file of published weights. lora: train adapters
    instead of the weights; None trains the weights.
    """

    engine: EngineConfig = field(default_factory=EngineConfig)
    sft: SftConfig = field(default_factory=SftConfig)
    rft: RftConfig = field(default_factory=RftConfig)
    ttrl: TtrlConfig = field(default_factory=TtrlConfig)
    freeze_vision: bool = True
    feature_cache_bytes: int = 256 * 2**20
    micro_batch_tokens: int = 4096
    packing: bool = False
    kl_estimator: Literal["exact", "k3"] = "exact"
    bucket_bytes: int = 64 * 2**20
    lora: LoraConfig | None = None

    def __post_init__(self) -> None:
        if self.lora is not None and not self.freeze_vision:
            raise ValueError("lora adapts the language layers only: set freeze_vision=true, or lora=null")
        _positive(micro_batch_tokens=self.micro_batch_tokens, bucket_bytes=self.bucket_bytes)
        _not_negative(feature_cache_bytes=self.feature_cache_bytes)
