"""Vision warm-up: the base model's tower learns to see before anyone learns to act.

Each visual token predicts, densely, which colours of plate have their centre in its cell, and the plate's box on the
coordinate grid, with a
class "none" for background. It is a small detector: without the "none" class and without density, localisation stays
on a plateau whose loss
is the marginal entropy of the coordinates. The heads are thrown away; the tower is kept, and frozen in what follows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from learner.base_model import BaseShape, make_model, make_tokenizer, save_model

_PRESENCE_WEIGHT = 4.0
_BOX_WEIGHT = 0.5
_NONE_WEIGHT = 0.15
"""Background tokens outnumber plates by far; their class counts less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmupConfig:
    """num_steps of batch_size views, AdamW with warm-up over `rise` steps and cosine decay to 5 % of lr."""

    num_steps: int = 450
    batch_size: int = 64
    lr: float = 2e-3
    rise: int = 100
    seed: int = 0
    num_threads: int = 1


class Warmup:
    """Makes the base model: collects scenes, trains the tower on them, writes a model folder."""

    def __init__(self, config: WarmupConfig, shape: BaseShape, words: Sequence[str]) -> None:
        """words: the colours' tokens, in the order of `presence`."""
        torch.set_num_threads(config.num_threads)
        self._config, self._shape = config, shape
        self._parts: list[dict[str, np.ndarray]] = []
        self._tokenizer = make_tokenizer(shape)
        self._words = [self._token(word) for word in words]
        self._model = make_model(shape, self._tokenizer, config.seed)

    def _token(self, text: str) -> int:
        (token,) = self._tokenizer.encode(text, add_special_tokens=False)
        return int(token)

    def add(self, scenes: bytes) -> int:
        """Scenes as safetensors: views (n, side, side, 3) uint8, presence (n, tokens, colours), boxes (n, tokens, 4)
        int64 in grid
        steps, where 1000 // grid_step + 1 means none. Returns how many are there now."""
        from safetensors.numpy import load

        self._parts.append(load(scenes))
        return sum(len(part["views"]) for part in self._parts)

    def train(self, num_steps: int) -> list[dict[str, float]]:
        """Run `num_steps` further steps; one row of metrics per 50 steps and at the end."""
        if not hasattr(self, "_steps"):
            self._steps = self._train()
        rows = []
        for _ in range(num_steps):
            row = next(self._steps, None)
            if row is None:
                break
            rows.append(row)
        return rows[49::50] or rows[-1:]

    def save(self, folder: Path) -> Path:
        """Write the model folder and return it."""
        return save_model(self._model, self._tokenizer, self._shape, Path(folder))

    def _train(self) -> Iterator[dict[str, float]]:
        config, none = self._config, 1000 // self._shape.grid_step + 1
        data = {name: np.concatenate([part[name] for part in self._parts]) for name in self._parts[0]}
        views, boxes = data["views"], torch.from_numpy(data["boxes"])
        presence = torch.from_numpy(data["presence"]).float()
        torch.manual_seed(config.seed)
        frames = torch.from_numpy(data["frames"])
        heads = WordHeads(self._model, self._words, self._coordinates(), self._frames(), self._shape.hidden_size)
        parameters = [*self._model.model.visual.parameters(), *heads.parameters()]
        optimizer = torch.optim.AdamW(parameters, lr=config.lr, betas=(0.9, 0.98), weight_decay=0.0)
        weights = torch.ones(none + 1)
        weights[none] = _NONE_WEIGHT
        random = np.random.default_rng(config.seed)
        for step in range(config.num_steps):
            decay = 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / config.num_steps))
            for group in optimizer.param_groups:
                group["lr"] = config.lr * min(1.0, (step + 1) / config.rise) * decay
            rows = random.integers(0, len(views), config.batch_size)
            colours, corners, numbers = heads(self.features(views[rows]))
            seen = F.binary_cross_entropy_with_logits(colours, presence[rows], pos_weight=torch.tensor(8.0))
            corner = [
                F.cross_entropy(corners[:, :, k].flatten(0, 1), boxes[rows][:, :, k].flatten(), weight=weights)
                for k in range(4)
            ]
            placed = presence[rows].sum(-1) > 0
            numbered = F.cross_entropy(numbers[placed], frames[rows][:, None].expand_as(placed)[placed])
            loss = _PRESENCE_WEIGHT * seen + _BOX_WEIGHT * torch.stack(corner).sum() + numbered
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            yield {"step": step + 1, "loss": float(loss), **localisation(corners, boxes[rows], none)}

    def _frames(self) -> list[int]:
        """Tokens of frame_1 to frame_8, then of image_1, which stands for a still picture."""
        return [self._token(f"frame_{i}") for i in range(1, 9)] + [self._token("image_1")]

    def _coordinates(self) -> tuple[list[int], list[int]]:
        """Tokens of the first coordinate of a box, and of the other three, by grid step."""
        steps = range(0, 1001, self._shape.grid_step)
        return [self._token(f"[{value}") for value in steps], [self._token(f",{value}") for value in steps]

    def features(self, views: np.ndarray) -> Tensor:
        """The tower's tokens for views (n, side, side, 3) uint8: shape (n, tokens, hidden)."""
        pixels, grid = patches(views, self._shape)
        out: Any = self._model.model.visual(pixels, grid_thw=grid)
        tokens: Tensor = getattr(out, "pooler_output", out)
        return tokens.view(len(views), -1, self._shape.hidden_size)


class WordHeads(nn.Module):
    """Dense predictions in the language's own terms: a colour is present where a visual token resembles the
    embedding of its word, and a corner is scored with the output rows of the coordinate tokens. So the tower learns
    to speak to the words it will meet.
    """

    def __init__(
        self, model: Any, words: list[int], coordinates: tuple[list[int], list[int]], frames: list[int], size: int
    ) -> None:
        super().__init__()
        self.embeddings = model.model.language_model.embed_tokens.weight
        self.outputs = model.lm_head.weight
        self.words, (self.first, self.other), self.frames = words, coordinates, frames
        self.size = size
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.offset = nn.Parameter(torch.zeros(len(words)))
        self.none = nn.Parameter(torch.zeros(4))
        self.queries = nn.Linear(size, 5 * size)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """tokens (n, t, size) → colours (n, t, words), corners (n, t, 4, steps + 1) whose last class is "none", frames
        (n, t, frames).
        """
        colours = tokens @ self.embeddings[self.words].T * (self.scale / math.sqrt(self.size)) + self.offset
        queries = self.queries(tokens).unflatten(-1, (5, self.size))
        rows = [self.first, self.other, self.other, self.other]
        corners = torch.stack([queries[:, :, k] @ self.outputs[rows[k]].T for k in range(4)], dim=2)
        none = self.none.view(1, 1, 4, 1).expand(*corners.shape[:3], 1)
        return colours, torch.cat([corners, none], dim=-1), queries[:, :, 4] @ self.outputs[self.frames].T


def patches(views: np.ndarray, shape: BaseShape) -> tuple[Tensor, Tensor]:
    """Views as Qwen2-VL's image processor cuts them (mean and deviation 0.5): (n·patches, 3·2·patch²) and grids (n,
    3).
    """
    n, cells, p = len(views), shape.view_side // (shape.patch * shape.merge), shape.patch
    x = torch.from_numpy(np.ascontiguousarray(views)).float().div(127.5).sub(1)
    x = x.view(n, cells, shape.merge, p, cells, shape.merge, p, 3).permute(0, 1, 4, 2, 5, 7, 3, 6)
    x = x.unsqueeze(6).expand(-1, -1, -1, -1, -1, -1, 2, -1, -1).reshape(-1, 3 * 2 * p * p)
    side = shape.view_side // p
    return x, torch.tensor([[1, side, side]] * n)


def localisation(scores: Tensor, boxes: Tensor, none: int) -> dict[str, float]:
    """Share of true corners within one grid step; 1.0 is what acting needs."""
    true = boxes < none
    error = (scores[..., :none].argmax(-1)[true] - boxes[true]).abs()
    return {"corner_within_one_step": float((error <= 1).float().mean())}
