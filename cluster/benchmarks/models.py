"""The model that figures are measured on: the one configured, else the small one as it is made, with weights of a
seed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cluster.config import RunConfig


def bench_model(config: RunConfig, folder: Path) -> Path:
    """A model directory; what speed depends on is its shape, not what it has learned."""
    from cluster.pretraining import checked

    if config.model.path:
        return checked(Path(config.model.path))
    from learner.base_model import BaseShape, make_model, make_tokenizer, save_model

    shape = BaseShape(grid_step=config.world.grid_step, view_side=config.view.side)
    tokenizer = make_tokenizer(shape)
    return save_model(make_model(shape, tokenizer, config.seed), tokenizer, shape, folder / "model")
