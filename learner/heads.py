"""The auxiliary heads: where a box, a point or a time span is about to be written, they say it as numbers.

Each reads the hidden state just before the argument's first digit, which keeps coordinates grounded in pixels and
seconds. They are checkpointed and never published. Each has an optimiser of its own, so one that a batch says nothing
to does not move, and one that weighs nothing does not exist.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from common.seeds import seed_of
from learner import checkpoint
from learner.batch import HeadName, Row
from learner.config import EngineConfig
from learner.engine import Engine
from learner.losses import box_loss, point_loss, span_loss
from learner.trainer import Pass


class Head(nn.Module):
    """A linear map of hidden states, (position, feature) → (position, size of `bias`), squashed to [0, 1]."""

    def __init__(self, feature_size: int, *, bias: Iterable[float], seed: int) -> None:
        super().__init__()
        start = torch.tensor([*bias])
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(len(start), feature_size, generator=generator) * 0.02)
        self.bias = nn.Parameter(start)

    def forward(self, hidden: Tensor) -> Tensor:
        return torch.sigmoid(nn.functional.linear(hidden.float(), self.weight, self.bias))


class BoxHead(Head):
    """(position, feature) → boxes (x0, y0, x1, y1) with x0 ≤ x1 and y0 ≤ y1, by centre and size; it begins with boxes
    of a fifth of the side."""

    def __init__(self, feature_size: int, *, seed: int) -> None:
        super().__init__(feature_size, bias=(0.0, 0.0, -1.5, -1.5), seed=seed)

    def forward(self, hidden: Tensor) -> Tensor:
        return _about(super().forward(hidden))


class PointHead(Head):
    """(position, feature) → points (x, y)."""

    def __init__(self, feature_size: int, *, seed: int) -> None:
        super().__init__(feature_size, bias=(0.0, 0.0), seed=seed)


class SpanHead(Head):
    """(position, feature) → spans (start, stop) with start ≤ stop, by centre and length."""

    def __init__(self, feature_size: int, *, seed: int) -> None:
        super().__init__(feature_size, bias=(0.0, -1.5), seed=seed)

    def forward(self, hidden: Tensor) -> Tensor:
        return _about(super().forward(hidden))


def _about(values: Tensor) -> Tensor:
    """Centres and sizes, (n, 2k), to ends."""
    centre, half = values.tensor_split(2, dim=1)
    return torch.cat([centre - half / 2, centre + half / 2], dim=1)


_KINDS: dict[HeadName, tuple[Callable[..., Head], Callable[..., Tensor]]] = {
    "box": (BoxHead, box_loss),
    "point": (PointHead, point_loss),
    "span": (SpanHead, span_loss),
}


class Heads:
    """The heads that weigh something, by name."""

    def __init__(
        self, weights: Mapping[HeadName, float], engine: EngineConfig, *, feature_size: int, seed: int
    ) -> None:
        """weights: λ of each head. seed: the run's; each head takes a stream of its own."""
        self.weights = {name: weight for name, weight in weights.items() if weight}
        self._heads = {
            name: _KINDS[name][0](feature_size, seed=seed_of(seed, f"{name} head")).to(engine.device)
            for name in self.weights
        }
        self._optimisers = {
            name: torch.optim.AdamW(head.parameters(), betas=engine.betas, eps=engine.eps, weight_decay=0.0)
            for name, head in self._heads.items()
        }

    def counts(self, rows: Iterable[Row]) -> dict[HeadName, int]:
        """Targets of `rows` for each head, those without left out."""
        found = dict.fromkeys(self.weights, 0)
        for row in rows:
            for name in self.weights:
                found[name] += len(row.aims[name].positions) if name in row.aims else 0
        return {name: count for name, count in found.items() if count}

    def losses(self, found: Pass, counts: Mapping[HeadName, int]) -> dict[HeadName, Tensor]:
        """The loss of each head in `counts` on a micro-batch; `counts` are those of the whole step."""
        losses: dict[HeadName, Tensor] = {}
        for name, count in counts.items():
            values = [row.aims[name].values for row in found.batch.rows if name in row.aims]
            hidden = found.aimed[name]
            target = torch.cat([torch.from_numpy(value) for value in values]) if values else torch.zeros(0)
            predicted = self._heads[name](hidden)
            losses[name] = _KINDS[name][1](predicted, target.to(predicted).view_as(predicted), num_targets=count)
        return losses

    def zero_grad(self) -> None:
        for optimiser in self._optimisers.values():
            optimiser.zero_grad()

    def step(self, engine: Engine, names: Iterable[HeadName], *, lr: float) -> None:
        """Update the heads called `names` with the gradients of all ranks. Collective."""
        for name in names:
            for parameter in self._heads[name].parameters():
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                engine.total(parameter.grad)
                parameter.grad /= engine.world_size  # backward takes the loss that many times (see engine.py)
            for group in self._optimisers[name].param_groups:
                group["lr"] = lr
            self._optimisers[name].step()

    def state(self) -> dict[str, Tensor]:
        """A copy of parameters and moments."""
        packed: dict[str, Tensor] = {}
        for name, optimiser in self._optimisers.items():
            packed |= {key: value.clone() for key, value in checkpoint.pack_optimiser(optimiser, name).items()}
        return packed

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue exactly from `state`."""
        for name, optimiser in self._optimisers.items():
            checkpoint.unpack_optimiser(optimiser, state, name)
