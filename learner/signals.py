"""Step features of rollouts, and what they say: curiosity and coherence.

A state is the pooled visual tokens of the picture that came back, or the anchor's hidden state at the turn's last
token where none did; a step is the anchor's hidden state at the end of an assistant's turn. Each rank computes its
share; the sum over ranks gives all to all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.types import MediaRef, Rollout
from learner.anchor import Reference
from learner.coherence import Band, coherence
from learner.config import CuriosityConfig
from learner.curiosity import Curiosity, Transition, action_features, episode, gates, repeats
from learner.rewards import Signals

Pooled = Callable[[MediaRef], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """One rollout's features: `states` one a user or tool turn, `steps` one an assistant turn, each (·, feature)."""

    states: NDArray[np.float32]
    steps: NDArray[np.float32]


def step_features(
    rollouts: Sequence[Rollout],
    references: dict[str, Reference],
    *,
    feature_size: int,
    pooled: Pooled | None,
    total: Callable[[Tensor], Tensor],
) -> list[Steps]:
    """Features of all rollouts on every rank. `references` holds this rank's share. Collective through `total`."""
    counts = [len(rollout.turns) for rollout in rollouts]
    table = torch.zeros(sum(counts), feature_size)
    offsets = np.cumsum([0, *counts]).tolist()
    for rollout, offset in zip(rollouts, offsets, strict=False):
        if rollout.rollout_id not in references:
            continue
        hidden = references[rollout.rollout_id].hidden.float().cpu()
        for index, turn in enumerate(rollout.turns):
            seen = pooled is not None and turn.role != "assistant" and turn.images
            table[offset + index] = pooled(turn.images[-1]).float().cpu() if seen and pooled else hidden[index]
    values = total(table).numpy()
    found = []
    for rollout, offset in zip(rollouts, offsets, strict=False):
        mine = values[offset : offset + len(rollout.turns)]
        acted = np.array([turn.role == "assistant" for turn in rollout.turns])
        found.append(Steps(states=mine[~acted], steps=mine[acted]))
    return found


def transitions_of(rollout: Rollout, steps: Steps, config: CuriosityConfig) -> list[Transition]:
    """One a call whose observation the model saw: state t, the call, state t+1."""
    open_gates = gates(rollout.calls, overlap=config.overlap)
    pairs = zip(rollout.calls, open_gates, steps.states[:-1], steps.states[1:], strict=False)
    return [
        Transition(before=before, after=after, action=action_features(done.call), tool=done.call.name, gate=gate)
        for done, gate, before, after in pairs
    ]


def signals_of(
    rollouts: Sequence[Rollout], features: Sequence[Steps], *, curiosity: Curiosity, band: Band, config: CuriosityConfig
) -> tuple[list[Signals], float]:
    """Signals of every rollout, from what was known before this batch; then the ensemble learns from it. Returns
    its mean error too."""
    calls = [transitions_of(rollout, steps, config) for rollout, steps in zip(rollouts, features, strict=True)]
    everything = [item for items in calls for item in items]
    earned = curiosity.rewards(everything)
    error = curiosity.learn(everything)
    edges = np.cumsum([0, *map(len, calls)]).tolist()
    found = []
    for index, (rollout, steps) in enumerate(zip(rollouts, features, strict=True)):
        again = repeats(rollout.calls)
        repeated = [position < len(again) and again[position] for position in range(len(steps.steps))]
        found.append(
            Signals(
                curiosity=episode(earned[edges[index] : edges[index + 1]].tolist()),
                coherence=coherence(steps.steps, repeated, band),
            )
        )
    return found, error
