"""An exponential moving average of weights, in fp32.

In bf16 an update of one part in a thousand rounds away, so the average is kept in fp32 whatever the policy's type.
An average that follows the policy bounds its speed, not its distance; a fixed anchor stands beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor


class Average:
    """θ̄ ← m·θ̄ + (1 − m)·θ over named fp32 tensors, changed in place (a frozen network's own parameters, say)."""

    def __init__(self, tensors: Mapping[str, Tensor], *, momentum: float) -> None:
        wrong = [name for name, tensor in tensors.items() if tensor.dtype != torch.float32]
        if wrong:
            raise ValueError(f"an average is kept in float32, got {tensors[wrong[0]].dtype} for {wrong[0]}")
        self.momentum = momentum
        self.tensors = dict(tensors)

    @torch.no_grad()
    def update(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """One step towards `weights`; the names are those given at the start."""
        for name, tensor in weights:
            self.tensors[name].lerp_(tensor.detach().to(self.tensors[name]), 1 - self.momentum)
