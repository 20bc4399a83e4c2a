"""From rollouts and traces to tensors.

A row is one sequence, prepared once; a batch is rows padded to the right. Under causal attention padding on the
right changes nothing before it, so no attention mask is needed. Only the positions that predict a trained token are
given to the language head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.chat import Chat
from common.errors import ContractError
from common.types import MediaRef, Rollout, Trace, Turn


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One sequence of `length` tokens.

    ids: (length,). positions: (3, length), M-RoPE. images: in the order of their placeholders. trained: indices of
    the tokens that are learned from, (n,), never 0. weights, behaviour_logprobs: (n,). box_positions: (b,), with
    `boxes` (b, 4). probes: indices whose hidden states are wanted, (p,).
    """

    key: str
    ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    images: tuple[MediaRef, ...]
    trained: NDArray[np.int64]
    weights: NDArray[np.float32]
    behaviour_logprobs: NDArray[np.float32]
    temperature: float = 1.0
    box_positions: NDArray[np.int64]
    boxes: NDArray[np.float32]
    probes: NDArray[np.int64]

    @property
    def length(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Rows side by side; flat indices count row · length + token.

    ids: (row, length). positions: (3, row, length). slots: flat indices of visual tokens. select: flat indices that
    predict a trained token, (n,). targets, temperatures, weights: (n,). probes: flat indices, (p,). rows, images:
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
        box_positions=np.array([box.position for box in trace.boxes], np.int64),
        boxes=np.array([box.box for box in trace.boxes], np.float32).reshape(-1, 4),
        probes=_NOTHING,
    )


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
        box_positions=_NOTHING,
        boxes=np.zeros((0, 4), np.float32),
        probes=np.array(edges[1:], np.int64) - 1,
    )


def _unshaped(turn: Turn) -> NDArray[np.int64]:
    """Indices of the turn's tokens that no grammar shaped."""
    free = np.ones(len(turn.token_ids), bool)
    for start, stop in turn.shaped:
        free[start:stop] = False
    return np.flatnonzero(free)


def collate(rows: Sequence[Row], *, image_pad: int) -> Batch:
    """Pad rows to the longest."""
    length = max(row.length for row in rows)
    ids = np.zeros((len(rows), length), np.int64)
    positions = np.zeros((3, len(rows), length), np.int64)
    for index, row in enumerate(rows):
        ids[index, : row.length] = row.ids
        positions[:, index, : row.length] = row.positions
    offsets = np.arange(len(rows)) * length
    trained = np.concatenate([row.trained + offset for row, offset in zip(rows, offsets, strict=True)])
    probes = [np.append(row.box_positions, row.probes) + offset for row, offset in zip(rows, offsets, strict=True)]
    flat = ids.reshape(-1)
    temperatures = np.concatenate([np.full(len(row.trained), row.temperature, np.float32) for row in rows])
    return Batch(
        rows=tuple(rows),
        images=tuple(view for row in rows for view in row.images),
        ids=torch.from_numpy(ids),
        positions=torch.from_numpy(positions),
        slots=torch.from_numpy(np.flatnonzero(flat == image_pad)),
        select=torch.from_numpy(trained - 1),
        targets=torch.from_numpy(flat[trained]),
        temperatures=torch.from_numpy(temperatures),
        weights=torch.from_numpy(np.concatenate([row.weights for row in rows])),
        probes=torch.from_numpy(np.concatenate(probes)),
    )


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


def plan(lengths: Sequence[int], *, rank: int, world_size: int, budget: int) -> tuple[list[list[int]], int]:
    """This rank's micro-batches, and how many forward passes every rank makes (those with fewer make empty ones)."""
    shares = share_out(lengths, world_size)
    batches = [micro_batches(lengths, share, budget=budget) for share in shares]
    return batches[rank], max(map(len, batches), default=0)
