"""What every phase shares: rows through the network, over ranks and micro-batches, to one optimiser step.

Each rank knows all rows of a step and works out the same division, so denominators are global without a message.
Every rank makes the same number of forward passes (partitioned weights need all of them), empty ones if need be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.chat import Chat
from common.types import MediaRef
from learner.batch import HEAD_NAMES, Batch, HeadName, Row, collate, plan
from learner.engine import Engine, Wanted, everything
from learner.losses import processed_logprobs
from learner.packing import places
from learner.policy import Pictures, run

PictureInput = Callable[[Sequence[MediaRef]], Pictures]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """A micro-batch after its forward pass.

    members: indices of its rows among the step's rows. all_logprobs: (n, vocabulary) over trained tokens, after
    temperature and bans. logprobs: (n,), of the tokens written. hidden: (p, feature), at the rows' probes. aimed: the
    same at the positions of each head's aims.
    """

    members: tuple[int, ...]
    batch: Batch
    all_logprobs: Tensor
    logprobs: Tensor
    hidden: Tensor
    aimed: Mapping[HeadName, Tensor]

    def spread(self, values: Sequence[float]) -> Tensor:
        """One value a row of the step → one a trained token of this micro-batch, (n,)."""
        counts = [len(row.trained) for row in self.batch.rows]
        mine = np.asarray([values[index] for index in self.members] or [0.0], np.float32)
        return torch.from_numpy(np.repeat(mine, counts)).to(self.logprobs.device)


class Forward:
    """Rows through one network."""

    def __init__(
        self,
        network: Any,
        pictures: PictureInput,
        chat: Chat,
        *,
        budget: int,
        device: str,
        rank: int,
        world_size: int,
        packing: bool = False,
    ) -> None:
        self._network = network
        self._pictures = pictures
        self._image_pad = chat.image_pad
        self._banned = torch.tensor(chat.banned, device=device)
        self._budget = budget
        self._device = device
        self._rank = rank
        self._world_size = world_size
        self._packing = packing

    def over(self, network: Any, pictures: PictureInput | None = None) -> Forward:
        """The same way of working with another network."""
        other = object.__new__(Forward)
        other.__dict__ |= self.__dict__ | {"_network": network, "_pictures": pictures or self._pictures}
        return other

    def passes(self, rows: Sequence[Row]) -> Iterator[Pass]:
        """This rank's micro-batches of `rows`, in a fixed order."""
        batches, num_passes = plan(
            [row.length for row in rows],
            rank=self._rank,
            world_size=self._world_size,
            budget=self._budget,
            packing=self._packing,
        )
        for index in range(num_passes):
            members = batches[index] if index < len(batches) else []
            yield self.once([rows[i] for i in members] or [_empty(rows[0])], tuple(members))

    def once(self, rows: Sequence[Row], members: tuple[int, ...]) -> Pass:
        where = places([row.length for row in rows]) if self._packing else None
        batch = collate(rows, image_pad=self._image_pad, places=where).to(self._device)
        logits, hidden = run(self._network, batch, self._pictures(batch.images).to(self._device))
        everything = processed_logprobs(logits, batch.temperatures, self._banned)
        logprobs = everything.gather(1, batch.targets[:, None])[:, 0]
        *aimed, probed = hidden.split(batch.num_probes)
        return Pass(
            members=members,
            batch=batch,
            all_logprobs=everything,
            logprobs=logprobs,
            hidden=probed,
            aimed=dict(zip(HEAD_NAMES, aimed, strict=True)),
        )


def _empty(row: Row) -> Row:
    nothing = row.trained[:0]
    return replace(
        row,
        trained=nothing,
        weights=row.weights[:0],
        behaviour_logprobs=row.behaviour_logprobs[:0],
        slots=row.slots[:0],
        aims={},
        probes=row.probes[:0],
    )


class Trainer:
    """An engine and the forward passes through it."""

    def __init__(self, engine: Engine, forward: Forward, *, of_policy: Wanted = everything) -> None:
        """of_policy: names the parameters that tell the policy from its base; all of them do without an adapter."""
        self.engine = engine
        self.forward = forward
        self._of_policy = of_policy

    def held(self) -> Iterator[tuple[str, Tensor]]:
        """Names and whole tensors of all that tells the policy now held from its base. Collective."""
        return self.engine.weights(self._of_policy)

    def descend(self, rows: Sequence[Row], loss: Callable[[Pass], Tensor], *, lr: float) -> float:
        """One optimiser step on Σ over micro-batches and ranks of `loss`. Collective. Returns the gradient's norm."""
        for found in self.forward.passes(rows):
            self.engine.backward(loss(found))
        return self.engine.step(lr)

    def total(self, values: Sequence[float | Tensor]) -> list[float]:
        """Sums over ranks. Collective."""
        flat = torch.stack([torch.as_tensor(value, dtype=torch.float64).detach().cpu() for value in values])
        return [float(value) for value in self.engine.total(flat)]

    def largest(self, value: float) -> float:
        """The maximum over ranks. Collective."""
        values = torch.zeros(self.engine.world_size, dtype=torch.float64)
        values[self.engine.rank] = value
        return float(self.engine.total(values).max())
