"""From rollouts and traces to tensors.

A row is one sequence, prepared once; a batch is rows in lines, padded to the right. Under causal attention padding on
the right changes nothing before it, so with one row a line no attention mask is needed; rows that share a line
(learner/packing.py) are told apart by the place of each token in its own row. Only the positions that predict a
trained token are given to the language head.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.chat import Chat
from common.errors import ContractError
from common.types import MediaRef, Rollout, Trace, Turn
from learner.arguments import argument_slots
from learner.packing import Place, packed_batches

HeadName = Literal["box", "point", "span"]
HEAD_NAMES: tuple[HeadName, ...] = get_args(HeadName)


@dataclass(frozen=True, slots=True, kw_only=True)
class Aims:
    """What one auxiliary head should say in a row. positions: indices of tokens, (n,). values: (n, 4) of boxes,
    (n, 2) of points and spans, in [0, 1]."""

    positions: NDArray[np.int64]
    values: NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One sequence of `length` tokens.

    ids: (length,). positions: (3, length), M-RoPE. images: in the order of their placeholders. trained: indices of
    the tokens that are learned from, (n,), never 0. weights, behaviour_logprobs: (n,). slots: of the trained tokens
    that hold an argument's value, 0 for the others, (n,) (learner/arguments.py). aims: of the heads that have any.
    probes: indices whose hidden states are wanted, (p,).
    """

    key: str
    ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    images: tuple[MediaRef, ...]
    trained: NDArray[np.int64]
    weights: NDArray[np.float32]
    behaviour_logprobs: NDArray[np.float32]
    temperature: float = 1.0
    slots: NDArray[np.int64]
    aims: Mapping[HeadName, Aims] = field(default_factory=dict)
    probes: NDArray[np.int64]

    @property
    def length(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Rows in lines; flat indices count line · length + token.

    ids: (line, length). positions: (3, line, length), or (4, line, length) where rows share lines: the first is then
    the place of a token in its own row, which transformers keeps attention apart by. slots: flat indices of visual
    tokens. select: flat indices that predict a trained token, (n,). targets, temperatures, weights: (n,). probes: flat
    indices, those of each head's aims, then the rows' own probes; num_probes: of each, in this order. rows, images:
    what it was made of.
    """

    rows: tuple[Row, ...]
    images: tuple[MediaRef, ...]
    ids: Tensor
    positions: Tensor
    slots: Tensor
    select: Tensor
    targets: Tensor
    temperatures: Tensor
    weights: Tensor
    probes: Tensor
    num_probes: tuple[int, ...]

    def to(self, device: str) -> Batch:
        """The same batch with its tensors on `device`."""
        if device == "cpu":
            return self
        names = ("ids", "positions", "slots", "select", "targets", "temperatures", "weights", "probes")
        return replace(self, **{name: getattr(self, name).to(device, non_blocking=True) for name in names})


_NOTHING = np.zeros(0, np.int64)


def _sequence(turns: Sequence[Turn], chat: Chat) -> tuple[NDArray[np.int64], NDArray[np.int64], tuple[MediaRef, ...]]:
    ids = np.fromiter((token for turn in turns for token in turn.token_ids), np.int64)
    images = tuple(view for turn in turns for view in turn.images)
    return ids, chat.rope_positions(ids.tolist(), [chat.vision.grid(view) for view in images]), images


def starts(turns: Sequence[Turn]) -> list[int]:
    """The index of each turn's first token in the concatenated ids, and the end."""
    return [0, *np.cumsum([len(turn.token_ids) for turn in turns]).tolist()]


def row_of_trace(trace: Trace, chat: Chat) -> Row:
    """Raises ContractError when weights do not match the tokens or a placeholder would be imitated."""
    ids, positions, images = _sequence(trace.turns, chat)
    weights = np.asarray(trace.weights, np.float32)
    if len(weights) != len(ids):
        raise ContractError(f"trace {trace.trace_id}: {len(ids)} tokens but {len(weights)} weights")
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise ContractError(f"trace {trace.trace_id}: a weight is negative or not finite")
    trained = np.flatnonzero(weights)
    if len(trained) and (trained[0] == 0 or np.isin(ids[trained], chat.banned).any()):
        raise ContractError(f"trace {trace.trace_id}: a placeholder or the first token has a weight")
    return Row(
        key=trace.trace_id,
        ids=ids,
        positions=positions,
        images=images,
        trained=trained,
        weights=weights[trained],
        behaviour_logprobs=np.zeros(len(trained), np.float32),
        slots=argument_slots(trace.turns, chat)[trained],
        aims=_aims(trace, len(ids)),
        probes=_NOTHING,
    )


def _aims(trace: Trace, length: int) -> dict[HeadName, Aims]:
    """Raises ContractError for one that lies outside the trace or beside [0, 1]."""
    wanted: dict[HeadName, list[tuple[int, tuple[float, ...]]]] = {
        "box": [(target.position, target.box) for target in trace.boxes],
        "point": [(target.position, target.point) for target in trace.points],
        "span": [(target.position, target.span) for target in trace.spans],
    }
    found: dict[HeadName, Aims] = {}
    for name, targets in wanted.items():
        if not targets:
            continue
        positions = np.array([position for position, _ in targets], np.int64)
        values = np.array([value for _, value in targets], np.float32)
        if positions.min() < 0 or positions.max() >= length or not ((values >= 0) & (values <= 1)).all():
            raise ContractError(f"trace {trace.trace_id}: a {name} lies outside the trace or outside [0, 1]")
        found[name] = Aims(positions=positions, values=values)
    return found


def row_of_rollout(rollout: Rollout, chat: Chat) -> Row:
    """Trained tokens are those the sampler returned, each with its behaviour log-prob, without those that a grammar
    shaped. Probes are the last tokens of all turns.

    Raises ContractError when the rollout breaks the token contract or was sampled greedily.
    """
    chat.check(rollout.turns)
    if not rollout.temperature > 0:
        raise ContractError(f"rollout {rollout.rollout_id}: sampled greedily, so it has no behaviour distribution")
    ids, positions, images = _sequence(rollout.turns, chat)
    edges = starts(rollout.turns)
    said = [(turn, start, _unshaped(turn)) for turn, start in zip(rollout.turns, edges, strict=False) if turn.logprobs]
    logprobs = [np.asarray(turn.logprobs, np.float32)[free] for turn, _, free in said]
    trained = np.concatenate([_NOTHING, *(start + free for _, start, free in said)])
    return Row(
        key=rollout.rollout_id,
        ids=ids,
        positions=positions,
        images=images,
        trained=trained,
        weights=np.ones(len(trained), np.float32),
        behaviour_logprobs=np.concatenate([np.zeros(0, np.float32), *logprobs]),
        temperature=rollout.temperature,
        slots=np.zeros(len(trained), np.int64),
        probes=np.array(edges[1:], np.int64) - 1,
    )


def _unshaped(turn: Turn) -> NDArray[np.int64]:
    """Indices of the turn's tokens that no grammar shaped."""
    free = np.ones(len(turn.token_ids), bool)
    for start, stop in turn.shaped:
        free[start:stop] = False
    return np.flatnonzero(free)


def collate(rows: Sequence[Row], *, image_pad: int, places: Sequence[Place] | None = None) -> Batch:
    """Put rows at their `places`, a line each without any, and pad lines to the longest."""
    where = places or [Place(line=index, start=0) for index in range(len(rows))]
    num_lines = 1 + max(place.line for place in where)
    length = max(place.start + row.length for place, row in zip(where, rows, strict=True))
    ids = np.zeros((num_lines, length), np.int64)
    positions = np.zeros((3 if places is None else 4, num_lines, length), np.int64)
    for row, place in zip(rows, where, strict=True):
        span = slice(place.start, place.start + row.length)
        ids[place.line, span] = row.ids
        positions[-3:, place.line, span] = row.positions
        if places is not None:
            positions[0, place.line, span] = np.arange(row.length)
    offsets = [place.line * length + place.start for place in where]
    trained = np.concatenate([row.trained + offset for row, offset in zip(rows, offsets, strict=True)])
    probes = [np.concatenate([_NOTHING, *found]) for found in _probes(rows, offsets)]
    flat = ids.reshape(-1)
    # Placeholders are filled in the order of the lines, which need not be the order of the rows.
    order = sorted(range(len(rows)), key=lambda index: offsets[index])
    temperatures = np.concatenate([np.full(len(row.trained), row.temperature, np.float32) for row in rows])
    return Batch(
        rows=tuple(rows),
        images=tuple(view for index in order for view in rows[index].images),
        ids=torch.from_numpy(ids),
        positions=torch.from_numpy(positions),
        slots=torch.from_numpy(np.flatnonzero(flat == image_pad)),
        select=torch.from_numpy(trained - 1),
        targets=torch.from_numpy(flat[trained]),
        temperatures=torch.from_numpy(temperatures),
        weights=torch.from_numpy(np.concatenate([row.weights for row in rows])),
        probes=torch.from_numpy(np.concatenate(probes)),
        num_probes=tuple(map(len, probes)),
    )


def _probes(rows: Sequence[Row], offsets: Sequence[int]) -> Iterator[list[NDArray[np.int64]]]:
    """Flat indices a row, for each head in turn, then for the rows' own probes."""
    for name in HEAD_NAMES:
        yield [row.aims[name].positions + at for row, at in zip(rows, offsets, strict=True) if name in row.aims]
    yield [row.probes + at for row, at in zip(rows, offsets, strict=True)]


def share_out(lengths: Sequence[int], world_size: int) -> list[list[int]]:
    """Indices a rank: the longest first, each to the rank with the fewest tokens so far. The same on every rank."""
    shares: list[list[int]] = [[] for _ in range(world_size)]
    loads = [0] * world_size
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        rank = loads.index(min(loads))
        shares[rank].append(index)
        loads[rank] += lengths[index]
    return shares


def micro_batches(lengths: Sequence[int], members: Sequence[int], *, budget: int) -> list[list[int]]:
    """Split `members` (indices into `lengths`) by length into batches of at most `budget` padded tokens; a longer
    one goes alone."""
    batches: list[list[int]] = []
    for index in sorted(members, key=lambda i: (-lengths[i], i)):
        if batches and lengths[batches[-1][0]] * (len(batches[-1]) + 1) <= budget:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def plan(
    lengths: Sequence[int], *, rank: int, world_size: int, budget: int, packing: bool = False
) -> tuple[list[list[int]], int]:
    """This rank's micro-batches, and how many forward passes every rank makes (those with fewer make empty ones)."""
    shares = share_out(lengths, world_size)
    split = packed_batches if packing else micro_batches
    batches = [split(lengths, share, budget=budget) for share in shares]
    return batches[rank], max(map(len, batches), default=0)
