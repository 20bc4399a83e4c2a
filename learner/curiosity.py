"""Curiosity: how much a call taught beyond what could be foretold.

A small ensemble predicts the features of what comes back, φ(s_{t+1}), from φ(s_t) and the call; φ is frozen (the
anchor's), so the target never drifts, and errors are scale-free, e = 1 − cos. Only the part of an error that the
members disagree about counts: noise is never predicted, but all members come to agree on its mean, so it stops
paying (arXiv:1906.04161). A call earns what lies above the tool's own running baseline (else tools with rich
outputs always win), and only on a first, valid visit.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common.chat import canonical_json
from common.geometry import GRID, iou
from common.types import ExecutedCall, ToolCall
from learner.config import CuriosityConfig

TOOLS = ("ZOOM", "SEG", "TRK", "OCR", "TEMP", "PROP")
NUM_NUMBERS = 8
NUM_WORDS = 8
ACTION_SIZE = len(TOOLS) + 1 + NUM_NUMBERS + NUM_WORDS
SMALLEST_DEVIATION = 0.02
"""Of surprise, in units of 1 − cos: below it nothing is left to be curious about, and rewards fade."""
PRIOR = 3.0
"""Size of a member's random prior beside the feature it corrects (length 1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """One call: features before and after, shape (feature,), the call's features, shape (ACTION_SIZE,), and whether
    it may earn."""

    before: NDArray[np.float32]
    after: NDArray[np.float32]
    action: NDArray[np.float32]
    tool: str
    gate: bool


def action_features(call: ToolCall) -> NDArray[np.float32]:
    """The tool, the first numbers of its arguments (by sorted key, the grid scaled to [0, 1]) and its words, hashed."""
    features = np.zeros(ACTION_SIZE, np.float32)
    features[TOOLS.index(call.name) if call.name in TOOLS else len(TOOLS)] = 1.0
    numbers: list[float] = []
    for key in sorted(call.arguments):
        for value in _leaves(call.arguments[key]):
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                numbers.append(float(np.clip(value / GRID, -1, 1)))
            elif isinstance(value, str):
                digest = hashlib.blake2b(f"{key}={value}".encode(), digest_size=2).digest()
                features[len(TOOLS) + 1 + NUM_NUMBERS + digest[0] % NUM_WORDS] += 1.0 if digest[1] % 2 else -1.0
    start = len(TOOLS) + 1
    features[start : start + len(numbers[:NUM_NUMBERS])] = numbers[:NUM_NUMBERS]
    return features


def _leaves(value: object) -> list[object]:
    return [leaf for item in value for leaf in _leaves(item)] if isinstance(value, (list, tuple)) else [value]


def repeats(calls: Sequence[ExecutedCall]) -> list[bool]:
    """Which calls are identical to an earlier one, one a call."""
    seen: set[str] = set()
    found = []
    for executed in calls:
        key = executed.call.name + canonical_json(executed.call.arguments)
        found.append(key in seen)
        seen.add(key)
    return found


def gates(calls: Sequence[ExecutedCall], *, overlap: float) -> list[bool]:
    """Which calls may earn: no error, not identical to an earlier one, and no footprint seen before by the same
    tool on the same picture."""
    again = repeats(calls)
    found = []
    for index, executed in enumerate(calls):
        seen = any(
            executed.footprint is not None
            and earlier.footprint is not None
            and (earlier.call.name, earlier.source) == (executed.call.name, executed.source)
            and iou(earlier.footprint, executed.footprint) >= overlap
            for earlier in calls[:index]
        )
        found.append(executed.observation.error is None and not again[index] and not seen)
    return found


class Ensemble(nn.Module):
    """K two-layer heads, each predicting the residual φ(s_{t+1}) − φ(s_t), run in one batched product.

    Each has a frozen random prior of its own (arXiv:1806.03335): members disagree until data made them agree.
    """

    prior: Tensor
    prior_first: Tensor

    def __init__(self, feature_size: int, *, num_heads: int, hidden_size: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        width = feature_size + ACTION_SIZE

        def weights(rows: int, columns: int, size: float) -> Tensor:
            return torch.randn(num_heads, rows, columns, generator=generator) * size

        outward = 1 / math.sqrt(hidden_size * feature_size)
        self.first = nn.Parameter(weights(width, hidden_size, 2 / math.sqrt(width)))
        self.second = nn.Parameter(weights(hidden_size, feature_size, outward))
        self.register_buffer("prior_first", weights(width, hidden_size, 2 / math.sqrt(width)))
        self.register_buffer("prior", weights(hidden_size, feature_size, PRIOR * outward))

    def forward(self, before: Tensor, action: Tensor) -> Tensor:
        """(call, feature) and (call, ACTION_SIZE) → (head, call, feature), of length 1."""
        inputs = torch.cat([before, action], dim=1)
        hidden = torch.tanh(torch.einsum("cw,kwh->kch", inputs, self.first))
        fixed = torch.tanh(torch.einsum("cw,kwh->kch", inputs, self.prior_first))
        residual = torch.einsum("kch,khf->kcf", hidden, self.second) + torch.einsum("kch,khf->kcf", fixed, self.prior)
        return nn.functional.normalize(before + residual, dim=-1)


class Curiosity:
    """The ensemble, its optimiser and the running baseline of each tool.

    Every rank holds the same copy and sees the same transitions, so the copies stay equal without talking.
    """

    def __init__(self, config: CuriosityConfig, *, feature_size: int, seed: int) -> None:
        self._config = config
        self.ensemble = Ensemble(feature_size, num_heads=config.num_heads, hidden_size=config.hidden_size, seed=seed)
        self.optimiser = torch.optim.Adam(self.ensemble.parameters(), lr=config.lr)
        self.baselines: dict[str, tuple[float, float]] = {}

    def rewards(self, transitions: Sequence[Transition]) -> NDArray[np.float64]:
        """One number in [0, 1] a call: gate · clip((u − mean_tool)/std_tool, 0, c)/c with u from `_surprise`.
        Changes nothing."""
        if not transitions:
            return np.zeros(0)
        _, surprise = self._surprise(transitions)
        standard = np.zeros(len(transitions))
        for tool in {item.tool for item in transitions}:
            mine = np.array([item.tool == tool for item in transitions])
            mean, second = self.baselines.get(tool, (surprise[mine].mean(), float((surprise[mine] ** 2).mean())))
            deviation = max(math.sqrt(max(0.0, second - mean**2)), SMALLEST_DEVIATION)
            standard[mine] = np.clip((surprise[mine] - mean) / deviation, 0, self._config.clip) / self._config.clip
        return np.where([item.gate for item in transitions], standard, 0.0)

    def learn(self, transitions: Sequence[Transition]) -> float:
        """Fit the ensemble and move the baselines. Returns the mean error, in [0, 2]."""
        if not transitions:
            return 0.0
        errors, surprise = self._surprise(transitions)
        for tool in sorted({item.tool for item in transitions}):
            mine = surprise[[item.tool == tool for item in transitions]]
            fresh = (float(mine.mean()), float((mine**2).mean()))
            old, keep = self.baselines.get(tool, fresh), self._config.momentum ** len(mine)
            self.baselines[tool] = (keep * old[0] + (1 - keep) * fresh[0], keep * old[1] + (1 - keep) * fresh[1])
        before, after, action = _stack(transitions)
        self.optimiser.zero_grad()
        loss = (1 - (self.ensemble(before, action) * after).sum(dim=-1)).mean()
        torch.autograd.backward(loss)
        self.optimiser.step()
        return float(errors.mean())

    @torch.no_grad()
    def _surprise(self, transitions: Sequence[Transition]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """e = mean over members of 1 − cos, and u = min(e, epistemic · disagreement) (e itself where epistemic is
        0); both (call,).

        disagreement = mean over members of 1 − cos to their common mean.
        """
        before, after, action = _stack(transitions)
        predicted = self.ensemble(before, action)
        errors = (1 - (predicted * after).sum(dim=-1)).mean(dim=0)
        centre = nn.functional.normalize(predicted.mean(dim=0), dim=-1)
        disagreement = (1 - (predicted * centre).sum(dim=-1)).mean(dim=0)
        surprise = torch.minimum(errors, self._config.epistemic * disagreement) if self._config.epistemic else errors
        return errors.double().numpy(), surprise.double().numpy()


def _stack(transitions: Sequence[Transition]) -> tuple[Tensor, Tensor, Tensor]:
    before = torch.from_numpy(np.stack([unit(item.before) for item in transitions]))
    after = torch.from_numpy(np.stack([unit(item.after) for item in transitions]))
    return before, after, torch.from_numpy(np.stack([item.action for item in transitions]))


def unit(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Layer norm without scale, then length 1: features·a scores as features does. Zero stays zero."""
    centred = features - features.mean()
    length = float(np.linalg.norm(centred))
    return np.asarray(centred / length if length > 1e-12 else np.zeros_like(centred), np.float32)


def episode(rewards: Sequence[float]) -> float:
    """Mean over the episode's calls (0 without any): a dull call more never makes an episode richer."""
    return float(np.mean(rewards)) if len(rewards) else 0.0
