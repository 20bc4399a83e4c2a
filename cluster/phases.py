"""What each phase of a run is: how long, on which tasks, and how far acting may run ahead of learning."""

from __future__ import annotations

from dataclasses import dataclass, field

from actors.arms import ARMS, Arm
from actors.tasks.shifts import Shift


@dataclass(frozen=True, slots=True, kw_only=True)
class ImitationLevel:
    """A level of the curriculum: traces of scenes with `num_plates`, learned from for `num_steps` steps.

    mixed: captions of pictures, of clips and copying; otherwise captions of pictures alone (pretraining only).
    """

    num_plates: tuple[int, int]
    num_traces: int
    num_steps: int
    mixed: bool = False

    def __post_init__(self) -> None:
        if self.num_traces < 1 or self.num_steps < 1:
            raise ValueError(f"num_traces and num_steps must be at least 1, got {self.num_traces}, {self.num_steps}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImitationPhase:
    """Learning from traces. `chunk` traces are synthesised at a time, so learning starts before all are there."""

    levels: tuple[ImitationLevel, ...] = ()
    chunk: int = 100
    checkpoint_every: int = 200

    @property
    def num_steps(self) -> int:
        return sum(level.num_steps for level in self.levels)


@dataclass(frozen=True, slots=True, kw_only=True)
class SftPhase(ImitationPhase):
    """Phase 1. It ends with the weights that answered best, with tools, the first `validate_tasks` tasks of
    `validate_split`; they are asked after every `validate_every` steps and after the last. 0: it ends with the last.
    """

    validate_every: int = 0
    validate_tasks: int = 64
    validate_split: str = "validation"

    def __post_init__(self) -> None:
        if self.validate_every < 0 or self.validate_tasks < 1:
            raise ValueError(
                "validate_every must not be negative and validate_tasks at least 1, "
                f"got {self.validate_every}, {self.validate_tasks}"
            )
        if self.validate_split in ("train", "test"):
            raise ValueError(
                f"validate_split must be neither learned from nor reported on, got {self.validate_split!r}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class RlPhase:
    """Phases 2 and 3: acting and learning side by side.

    num_steps: learner steps. groups_per_step: groups in one draw. group_size: sibling rollouts of a group.
    max_policy_lag: steps, at most, between the policy of a token and the step that learns from it; 0 is in lockstep.
    max_groups: in flight at once. split, shift: the tasks. votes: rewards come from a vote, not from the truth.
    views: augmentations of the view, dealt to siblings in turn ("" is the plain view). patience: the phase ends
    early when this many groups in a row were spent without a step.
    """

    name: str
    num_steps: int
    groups_per_step: int = 16
    group_size: int = 8
    max_policy_lag: int = 2
    max_groups: int = 8
    split: str = "train"
    shift: str = ""
    votes: bool = False
    views: tuple[str, ...] = ("",)
    temperature: float = 1.0
    checkpoint_every: int = 20
    patience: int = 200

    def __post_init__(self) -> None:
        if self.patience < self.groups_per_step * (self.max_policy_lag + 2):
            least = self.groups_per_step * (self.max_policy_lag + 2)
            raise ValueError(f"patience must be at least groups_per_step * (max_policy_lag + 2) = {least}")
        for field_name in ("groups_per_step", "group_size", "max_groups"):
            if getattr(self, field_name) < 1:
                raise ValueError(f"{field_name} must be at least 1, got {getattr(self, field_name)}")
        if self.num_steps < 0 or self.max_policy_lag < 0:
            raise ValueError(f"num_steps, max_policy_lag must not be negative: {self.num_steps}, {self.max_policy_lag}")
        if not self.views:
            raise ValueError('views must name at least one view; "" is the plain one')
        if self.temperature <= 0:
            raise ValueError(f"temperature must be above 0 to explore, got {self.temperature}")
        Shift.parse(self.shift)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationConfig:
    """num_tasks of `split`, at most `concurrency` rollouts at once. shift: of the tasks ("" for the world as
    trained). strips: rollouts that a report shows step by step.

    arms: of `pixelis eval` (actors/arms.py); phase_arms: at the end of each phase, fewer because a run waits for them.
    qa, data, reader: `pixelis eval` measures on an outside set instead: its questions (a file, a folder or a name), the
    folder that its media's paths start from ("" for where the questions are), and a reader of one's own.
    """

    num_tasks: int = 64
    split: str = "test"
    shift: str = ""
    concurrency: int = 16
    strips: int = 12
    arms: tuple[Arm, ...] = ARMS
    phase_arms: tuple[Arm, ...] = ("learned", "no_tool")
    qa: str = ""
    data: str = ""
    reader: str = ""

    def __post_init__(self) -> None:
        for name, least in (("arms", {"learned"}), ("phase_arms", {"learned", "no_tool"})):
            given = getattr(self, name)
            if not least <= set(given) or len(set(given)) < len(given):
                raise ValueError(f"{name} must have {' and '.join(sorted(least))}, each once, got {list(given)}")
        if self.num_tasks < 1 or self.concurrency < 1:
            raise ValueError(f"num_tasks and concurrency must be at least 1, got {self.num_tasks}, {self.concurrency}")
        Shift.parse(self.shift)


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainPhase:
    """Making the small base model: a vision warm-up of `num_steps` steps of `batch_size` on `num_scenes` scenes,
    then captions."""

    num_scenes: int = 4000
    num_steps: int = 450
    batch_size: int = 64
    lr: float = 2e-3
    captions: ImitationPhase = field(default_factory=ImitationPhase)
    caption_lr: float = 2e-3
    caption_batch: int = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Phases:
    """The whole of a run, in order; a phase with no steps is skipped.

    deterministic: one rollout at a time and groups learned from in order; with max_policy_lag 0 a seed then fixes
    every bit. drop_zero_variance: groups whose answers all scored alike are spent instead of learned from.
    """

    pretrain: PretrainPhase = field(default_factory=PretrainPhase)
    sft: SftPhase = field(default_factory=SftPhase)
    rft: RlPhase = field(default_factory=lambda: RlPhase(name="rft", num_steps=0))
    ttrl: RlPhase = field(default_factory=lambda: RlPhase(name="ttrl", num_steps=0, votes=True))
    deterministic: bool = False
    drop_zero_variance: bool = True
