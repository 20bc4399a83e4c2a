"""The values that travel between rooms.

All are frozen and complete when made; the next stage makes a new one. Media travel by reference, never by bytes.
A `Query` has no answer: only scorers see a `Task`. A `Rollout` was sampled and carries behaviour log-probs; a `Trace`
was synthesised for imitation and has none, so the two are different types and no loss can confuse them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

Box: TypeAlias = tuple[int, int, int, int]
"""x0, y0, x1, y1: x right, y down, half-open."""

Role: TypeAlias = Literal["user", "assistant", "tool"]
StopReason: TypeAlias = Literal["answer", "max_calls", "max_tokens", "malformed", "quarantined"]
ErrorCode: TypeAlias = Literal[
    "malformed_call",
    "unknown_tool",
    "bad_argument",
    "unknown_reference",
    "empty_box",
    "limit_exceeded",
    "bad_media",
    "timeout",
    "tool_crashed",
    "unavailable",
]
"""The closed set of errors a tool call can end in; each is an observation that the agent can repair."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaRef:
    """A picture by content.

    digest: blake3 of the stored bytes, hexadecimal. It is also the engine's multimodal id.
    kind: "image" (an encoded file, what tools act on) or "view" (raw RGB rows, what the model sees).
    width, height: pixels. num_bytes: size of the stored bytes.
    """

    digest: str
    kind: Literal["image", "view"]
    width: int
    height: int
    num_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """Frames in order of time. `times_s[i]` is the second of `frames[i]`; `shown` are the indices the model sees."""

    frames: tuple[MediaRef, ...]
    times_s: tuple[float, ...]
    shown: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Media and a question; never an answer. `images` become image_1, image_2, …; a clip's frames frame_1, frame_2,
    …
    """

    query_id: str
    question: str
    images: tuple[MediaRef, ...] = ()
    clip: Clip | None = None


Consent: TypeAlias = Literal["learn", "keep"]
"""What the source of a query allows with the rollouts it led to: to learn from them, or only to keep them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where a rollout comes from.

    source: whom its query came from (a user, a tenant, a data set), the name that an erasure takes; "" for this
    project's own tasks. consent: what the source allows. split: of the task's set; "" where there is none.
    """

    source: str = ""
    consent: Consent = "learn"
    split: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A query and its truth.

    kind: the scorer (common/scoring). family: what it exercises. chain: the planner's shortest chain of tool names.
    accepted: further answers that are as right as `answer`; the best of them counts. source, consent: as in Provenance.
    """

    query: Query
    answer: str
    kind: Literal["exact", "choice", "numeric", "near", "anls"]
    family: str
    split: str
    chain: tuple[str, ...] = ()
    accepted: tuple[str, ...] = ()
    source: str = ""
    consent: Consent = "learn"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A parsed call. `arguments` holds JSON values only."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What a tool call returned, errors included.

    text: canonical JSON shown to the model. image: the picture that came back, as tools see it. view: the same as the
    model sees it. error: a code of the closed set, or None. digest: blake3 over (tool, version, back end, result),
    which
    reenactment compares. cpu_s: processor seconds spent (0 from the cache). cached: whether the result came from a
    cache.
    """

    text: str
    image: MediaRef | None = None
    view: MediaRef | None = None
    error: ErrorCode | None = None
    digest: str = ""
    cpu_s: float = 0.0
    wall_s: float = 0.0
    cached: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutedCall:
    """A call with its observation. `footprint` is the box of the source it looked at, in pixels, when it has one."""

    call: ToolCall
    observation: Observation
    source: str = ""
    footprint: Box | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionSpan:
    """Tokens [start, stop) of a turn were sampled under policy `version`.

    parent: the version that it was trained from, so that its line can be followed without anybody else's books; None
    for the first of a line, or where the sampler was started on it.
    """

    start: int
    stop: int
    version: int
    parent: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A stretch of tokens from one author. Concatenating a rollout's turns gives exactly the trainer's token ids.

    token_ids: image placeholders expanded (one id a visual token). images: views in the order of their placeholders.
    logprobs: behaviour log-probabilities in nats, one a token in an assistant turn, empty elsewhere.
    shaped: tokens [start, stop) that a grammar shaped, ascending, apart: it excluded others there, so their log-probs
    are those of another distribution and they are never learned from.
    An assistant turn holds sampled ids only, so the loss mask is 1 on its tokens that are not shaped and 0 elsewhere.
    """

    role: Role
    token_ids: tuple[int, ...]
    images: tuple[MediaRef, ...] = ()
    logprobs: tuple[float, ...] = ()
    versions: tuple[VersionSpan, ...] = ()
    shaped: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the scorer measured at the actor; a fact is never revised.

    score: the answer's score in [0, 1], or None where no truth was known. parsed: the final answer could be read.
    valid: every call parsed and returned no error, and the rollout ended in an answer. num_repeats: calls identical to
    an earlier one.
    """

    score: float | None
    parsed: bool
    valid: bool
    num_calls: int
    num_errors: int
    num_repeats: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How to sample. temperature 0 is greedy. seed: per request, or None. max_tokens: new tokens at most in one
    turn.
    """

    temperature: float = 1.0
    max_tokens: int = 64
    seed: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One sampled episode.

    (producer, epoch, sequence) is unique and removes duplicates. group_id: sibling rollouts of one task share it.
    temperature: the sampler's, which the learner applies too. chain: the planner's optimum where it is known.
    generate_s, tools_s: wall seconds spent in each. views: augmentation of the views ("" for none). provenance: whom
    the query came from, and what may be done with it.
    """

    rollout_id: str
    producer: str
    epoch: int
    sequence: int
    group_id: str
    group_size: int
    phase: str
    family: str
    query: Query
    turns: tuple[Turn, ...]
    calls: tuple[ExecutedCall, ...]
    answer: str | None
    stop_reason: StopReason
    facts: Facts
    temperature: float
    chain: tuple[str, ...] = ()
    generate_s: float = 0.0
    tools_s: float = 0.0
    views: str = ""
    provenance: Provenance = Provenance()

    @property
    def oldest_version(self) -> int:
        """The oldest policy version that any sampled token came from."""
        return min(span.version for turn in self.turns for span in turn.versions)

    @property
    def newest_version(self) -> int:
        return max(span.version for turn in self.turns for span in turn.versions)

    @property
    def num_sampled_tokens(self) -> int:
        return sum(len(turn.token_ids) for turn in self.turns if turn.role == "assistant")


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxTarget:
    """The auxiliary head at `position` should say `box`: x0, y0, x1, y1 relative to the picture, in [0, 1].

    position: index into the trace's concatenated ids, of the token before the one that holds the first digit.
    """

    position: int
    box: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class PointTarget:
    """The same of a point: x, y relative to the picture, in [0, 1]."""

    position: int
    point: tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanTarget:
    """The same of a time span: start and stop relative to the clip's length, in [0, 1]."""

    position: int
    span: tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """A synthesised episode for imitation, its observations executed by the real tools.

    weights: one a token over the concatenated turns: 0 where nothing is imitated (prompt, observation, the wrong part
    of a trap), w_op on tool names, w_arg on arguments, 1 on the rest of what the model writes.
    level: the curriculum level. kind: golden, trap, correction, near_miss, negative or imported. boxes, points, spans:
    what the auxiliary heads should say, in order of position; only of what is imitated.
    """

    trace_id: str
    family: str
    level: int
    kind: str
    query: Query
    turns: tuple[Turn, ...]
    weights: tuple[float, ...]
    boxes: tuple[BoxTarget, ...] = ()
    points: tuple[PointTarget, ...] = ()
    spans: tuple[SpanTarget, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Consensus:
    """What a vote over whole trajectories decided for one group.

    answer: the winner, or None when abstained. share: mass of the winner in [0, 1]. margin: over the runner-up.
    agrees: a rollout id → whether it agrees with the winner. exemplar: id of the shortest rollout among the most
    faithful.
    neighbours: how many past items had a say. reason: why it abstained ("" otherwise).
    """

    group_id: str
    answer: str | None
    share: float
    margin: float
    agrees: dict[str, bool]
    exemplar: str | None
    neighbours: int
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One parameter inside a bucket file of published weights. digest: blake3 of its bytes."""

    name: str
    bucket: int
    dtype: str
    shape: tuple[int, ...]
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """A published snapshot: safetensors buckets on this node plus what is needed to trust them.

    version: never used twice. parent: the version it was trained from. step: the learner step that made it.
    buckets: paths of safetensors files. canary: see `Canary`. adapter: the tensors are a LoRA adapter's, one bucket in
    a folder that peft and vLLM load; it goes beside the base model's weights, which stay.
    """

    version: int
    parent: int | None
    step: int
    buckets: tuple[str, ...]
    tensors: tuple[Tensor, ...]
    canary: Canary | None = None
    adapter: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """A short prompt with text and a picture, and the log-probs that the learner gives to `token_ids` after it.

    They are those that a sampler would have: at temperature 1, placeholders banned.
    """

    prompt_ids: tuple[int, ...]
    images: tuple[MediaRef, ...]
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """A past experience near a query. similarity: inner product of unit vectors, in [−1, 1].

    chain: names of the tools that led to `answer`. confidence: in [0, 1]. sequence: its record in the replay log.
    source: whom it came from ("" when nobody said), and whether that is trusted. version: of the policy that acted.
    """

    query_id: str
    similarity: float
    family: str
    chain: tuple[str, ...]
    answer: str | None
    confidence: float
    sequence: int
    source: str = ""
    trusted: bool = False
    version: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """One batch of whole groups for learner step `step`.

    watermark: the log's last sequence number when it was decided. rollout_ids: in the order of the rows of `rollouts`,
    which are Arrow IPC streams one after another (common/schema). consensus: one a group, in their order; empty where
    nobody voted.
    """

    step: int
    watermark: int
    rollout_ids: tuple[str, ...]
    rollouts: bytes
    consensus: tuple[Consensus, ...] = ()
