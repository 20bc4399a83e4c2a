"""Supervised fine-tuning on traces.

L = −Σ w log π(y) / Σ w + λ·box loss, over a batch drawn with replacement from the traces at hand. The draw is a
function of (seed, step) and of the set of traces, so a step can be repeated exactly. Short chains come first (the
curriculum).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from common.errors import ContractError
from common.seeds import stream
from learner.batch import Row
from learner.config import Curriculum, EngineConfig, SftConfig
from learner.heads import BoxHead
from learner.losses import box_loss, weighted_nll
from learner.schedule import learning_rate
from learner.trainer import Pass, Trainer


def allowed_levels(curriculum: Sequence[Curriculum], progress: float) -> tuple[int, ...] | None:
    """Levels to draw from at `progress` in [0, 1]; None for all."""
    return next((entry.levels for entry in curriculum if progress < entry.until), None)


def choose(levels: Sequence[int], *, step: int, config: SftConfig, seed: int) -> list[int]:
    """`batch_size` indices into `levels` (one a trace), with replacement, from the levels that the curriculum allows.

    Where no trace of an allowed level is at hand yet, all are drawn from.
    """
    if not levels:
        raise ContractError("no traces to imitate: add traces before the first step")
    allowed = allowed_levels(config.curriculum, step / config.schedule.num_steps)
    pool = [i for i, level in enumerate(levels) if allowed is None or level in allowed] or list(range(len(levels)))
    picks = stream(seed, "imitate", step).integers(0, len(pool), config.batch_size)
    return [pool[i] for i in picks.tolist()]


class Imitation:
    """One supervised step at a time, with the auxiliary box head."""

    def __init__(
        self, trainer: Trainer, config: SftConfig, engine: EngineConfig, *, feature_size: int, seed: int
    ) -> None:
        self._trainer = trainer
        self._config = config
        device = engine.device
        self.head = BoxHead(feature_size, seed=seed).to(device)
        self.optimiser = torch.optim.AdamW(self.head.parameters(), betas=engine.betas, eps=engine.eps, weight_decay=0.0)

    def step(self, rows: Sequence[Row], *, step: int) -> dict[str, float]:
        """Learn from `rows`, the batch over all ranks. Collective. Returns the step's metrics."""
        total_weight = float(sum(row.weights.sum() for row in rows))
        num_boxes = sum(len(row.boxes) for row in rows) if self._config.box_weight else 0
        sums: list[Tensor] = []

        def loss(found: Pass) -> Tensor:
            nll = weighted_nll(found.logprobs, found.batch.weights, total_weight=total_weight)
            boxes = self._boxes(found, num_boxes) if num_boxes else nll.new_zeros(())
            right = (found.all_logprobs.argmax(dim=1) == found.batch.targets).sum()
            sums.append(torch.stack([nll.detach(), boxes.detach(), right.to(nll.dtype)]))
            return nll + self._config.box_weight * boxes

        lr = learning_rate(step, self._config.schedule)
        self.optimiser.zero_grad()
        norm = self._trainer.descend(rows, loss, lr=lr)
        if num_boxes:
            self._step_head(lr)
        nll, boxes, right = self._trainer.total(list(torch.stack(sums).sum(dim=0)))
        num_tokens = sum(len(row.trained) for row in rows)
        return {
            "loss": nll + self._config.box_weight * boxes,
            "nll": nll,
            "box_loss": boxes,
            "token_accuracy": right / num_tokens,
            "grad_norm": norm,
            "lr": lr,
            "num_trained_tokens": num_tokens,
            "num_tokens": sum(row.length for row in rows),
        }

    def _boxes(self, found: Pass, num_boxes: int) -> Tensor:
        targets = torch.cat([torch.from_numpy(row.boxes) for row in found.batch.rows]).to(found.hidden.device)
        return box_loss(self.head(found.hidden), targets, num_boxes=num_boxes)

    def _step_head(self, lr: float) -> None:
        for parameter in self.head.parameters():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            self._trainer.engine.total(parameter.grad)
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        self.optimiser.step()
