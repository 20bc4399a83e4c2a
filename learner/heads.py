"""The auxiliary box head.

It reads the hidden state just before a box is written and says where the box is, which keeps coordinates grounded
in pixels. It is checkpointed and never published.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class BoxHead(nn.Module):
    """(position, feature) → boxes (x0, y0, x1, y1) in [0, 1] with x0 ≤ x1 and y0 ≤ y1, by centre and size."""

    def __init__(self, feature_size: int, *, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(4, feature_size, generator=generator) * 0.02)
        self.bias = nn.Parameter(torch.tensor([0.0, 0.0, -1.5, -1.5]))

    def forward(self, hidden: Tensor) -> Tensor:
        values = torch.sigmoid(nn.functional.linear(hidden.float(), self.weight, self.bias))
        centre, half = values[:, :2], values[:, 2:] / 2
        return torch.cat([centre - half, centre + half], dim=1)
