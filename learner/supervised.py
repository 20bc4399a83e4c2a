"""Supervised fine-tuning on traces.

L = −Σ w log π(y) / Σ w + Σ_h λ_h L_h, over a batch drawn with replacement from the traces at hand; h runs over the
auxiliary heads. The draw is a function of (seed, step), of the set of traces and of the curriculum's state, so a step
can be repeated exactly.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from learner.batch import HEAD_NAMES, Row
from learner.config import EngineConfig, SftConfig
from learner.curriculum import Ratchet, choose, is_held_out
from learner.heads import Heads
from learner.losses import weighted_nll
from learner.schedule import learning_rate
from learner.trainer import Pass, Trainer

KEPT = "kept."
"""Prefix of the tensors of the state that a rollback returns to."""


class Imitation:
    """One supervised step at a time, with the auxiliary heads and the curriculum's way back."""

    def __init__(
        self, trainer: Trainer, config: SftConfig, engine: EngineConfig, *, feature_size: int, seed: int
    ) -> None:
        self._trainer = trainer
        self._config = config
        self._seed = seed
        weights = (config.box_weight, config.point_weight, config.span_weight)
        self.heads = Heads(dict(zip(HEAD_NAMES, weights, strict=True)), engine, feature_size=feature_size, seed=seed)
        self.ratchet = Ratchet(config.rollback, config.curriculum, num_steps=config.schedule.num_steps)
        self._held_out: dict[int, list[Row]] = {}
        self._kept: tuple[dict[str, Tensor], dict[str, Tensor]] | None = None

    def learn(self, rows: Sequence[Row], levels: Sequence[int], *, step: int) -> dict[str, float]:
        """Draw a batch from `rows`, the traces at hand with their curriculum `levels`, and learn from it. Collective.
        Returns the step's metrics."""
        if self.ratchet.on:
            rows, levels = self._hold_out(rows, levels)
        self.ratchet.before(step, self)
        picks = choose(levels, step=step, config=self._config, seed=self._seed, share=self.ratchet.share)
        metrics = self.step([rows[i] for i in picks], step=step)
        return metrics | self.ratchet.after(step, self)

    def step(self, rows: Sequence[Row], *, step: int) -> dict[str, float]:
        """Learn from `rows`, the batch over all ranks. Collective. Returns the step's metrics."""
        num_tokens = sum(len(row.trained) for row in rows)
        num_arguments = sum(np.count_nonzero(row.slots) for row in rows)
        total_weight = float(sum(row.weights.sum() for row in rows)) if self._config.weighting else float(num_tokens)
        counts, lambdas = self.heads.counts(rows), self.heads.weights
        sums: list[Tensor] = []

        def loss(found: Pass) -> Tensor:
            weights = found.batch.weights if self._config.weighting else torch.ones_like(found.batch.weights)
            nll = weighted_nll(found.logprobs, weights, total_weight=total_weight)
            losses = self.heads.losses(found, counts)
            sums.append(torch.stack([value.detach() for value in (nll, *_seen(found), *losses.values())]))
            return nll + sum(lambdas[name] * value for name, value in losses.items())

        lr = learning_rate(step, self._config.schedule)
        self.heads.zero_grad()
        norm = self._trainer.descend(rows, loss, lr=lr)
        self.heads.step(self._trainer.engine, counts, lr=lr)
        nll, right, arguments, *losses = self._trainer.total(list(torch.stack(sums).sum(dim=0)))
        by_head = dict(zip(counts, losses, strict=True))
        metrics = {
            "loss": nll + sum(lambdas[name] * value for name, value in by_head.items()),
            "nll": nll,
            **{f"{name}_loss": value for name, value in by_head.items()},
            "token_accuracy": right / num_tokens,
            "grad_norm": norm,
            "lr": lr,
            "num_trained_tokens": num_tokens,
            "num_tokens": sum(row.length for row in rows),
        }
        return metrics | ({"argument_nll": arguments / num_arguments} if num_arguments else {})

    # The curriculum's pupil

    def _hold_out(self, rows: Sequence[Row], levels: Sequence[int]) -> tuple[list[Row], list[int]]:
        """Put aside what is measured on, and return the rest."""
        learned: list[tuple[Row, int]] = []
        self._held_out = {}
        for row, level in zip(rows, levels, strict=True):
            if is_held_out(row.key, self._config.rollback.held_out, self._seed):
                self._held_out.setdefault(level, []).append(row)
            else:
                learned.append((row, level))
        return [row for row, _ in learned], [level for _, level in learned]

    @torch.no_grad()
    def measure(self, levels: Collection[int]) -> dict[int, float]:
        """Token accuracy with the weights now held, on held-out traces of each of `levels` that has any. Collective."""
        found: dict[int, float] = {}
        for level in levels:
            rows = self._held_out.get(level, [])[: self._config.rollback.num_measured]
            num_tokens = sum(len(row.trained) for row in rows)
            if num_tokens:
                right = torch.stack([_right(result) for result in self._trainer.forward.passes(rows)]).sum()
                found[level] = self._trainer.total([right])[0] / num_tokens
        return found

    def keep(self) -> None:
        """Remember weights, moments and heads."""
        self._kept = (self._trainer.engine.state(), self.heads.state())

    def go_back(self) -> None:
        """Be as at the last `keep`. Collective."""
        assert self._kept is not None, "keep comes first"
        self._trainer.engine.load_state(self._kept[0])
        self.heads.load_state(self._kept[1])

    def let_go(self) -> None:
        """Forget what was kept."""
        self._kept = None

    # State

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
        """JSON values, this rank's own tensors, and those that are equal on every rank."""
        shard, shared = self._kept or ({}, {})
        return (
            {"ratchet": self.ratchet.state()},
            {f"{KEPT}{name}": value for name, value in shard.items()},
            self.heads.state() | {f"{KEPT}{name}": value for name, value in shared.items()},
        )

    def load_state(self, values: Mapping[str, Any], shard: Mapping[str, Tensor], shared: Mapping[str, Tensor]) -> None:
        """Continue exactly from `state`."""
        self.ratchet.load_state(values["ratchet"])
        self.heads.load_state(shared)
        mine, common = _kept(shard), _kept(shared)
        self._kept = (mine, common) if mine else None


def _kept(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(KEPT): value for name, value in tensors.items() if name.startswith(KEPT)}


def _right(found: Pass) -> Tensor:
    """How many tokens of a micro-batch the policy would have written itself."""
    return (found.all_logprobs.argmax(dim=1) == found.batch.targets).sum().to(found.logprobs.dtype)


def _seen(found: Pass) -> tuple[Tensor, Tensor]:
    """Tokens that are right, and −Σ log π over those that hold an argument's value."""
    slots = np.concatenate([row.slots for row in found.batch.rows])
    arguments = torch.from_numpy(slots != 0).to(found.logprobs.device)
    return _right(found), -(found.logprobs * arguments).sum()
