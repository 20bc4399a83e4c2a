"""The policy's network, called directly.

It wraps a transformers image-text model and computes logits only where a trained token is predicted. While the
vision tower is frozen and feeds the language model once (no DeepStack), its output is a function of the picture and
is computed once a picture.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import ModelError
from common.types import MediaRef
from learner.batch import Batch
from learner.views import Views


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """What a batch's pictures enter the network as: `features` (token, feature), or patches and grids for the tower."""

    features: Tensor | None = None
    patches: Tensor | None = None
    grids: Tensor | None = None

    def to(self, device: str) -> Pictures:
        """The same pictures on `device`."""
        if device == "cpu":
            return self
        return Pictures(
            features=None if self.features is None else self.features.to(device),
            patches=None if self.patches is None else self.patches.to(device),
            grids=None if self.grids is None else self.grids.to(device),
        )


def load_backbone(folder: Path, *, dtype: torch.dtype = torch.float32) -> Any:
    """A transformers image-text model from a folder. Raises ModelError, one line."""
    from transformers import AutoModelForImageTextToText
    from transformers.utils import logging

    if not any(Path(folder).glob("*.safetensors")):
        raise ModelError(f"{folder}: no *.safetensors weights; give a folder that holds a model")
    logging.disable_progress_bar()
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa")
    return model.eval()


def feeds_once(backbone: Any) -> bool:
    """Whether the tower's output enters the language model at its embeddings only, so that it can be kept by
    picture."""
    deep = getattr(backbone.config.vision_config, "deepstack_visual_indexes", ())
    return not deep and hasattr(backbone.model, "language_model") and hasattr(backbone.model, "visual")


class Policy(nn.Module):
    """The network: token ids and pictures to logits and hidden states at chosen positions."""

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(
        self,
        *,
        ids: Tensor,
        positions: Tensor,
        slots: Tensor,
        select: Tensor,
        probes: Tensor,
        features: Tensor | None = None,
        patches: Tensor | None = None,
        grids: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Logits at `select`, (n, vocabulary), and hidden states at `probes`, (p, feature); both flat indices (see
        Batch)."""
        model = self.backbone.model
        if features is None:
            output = model(
                input_ids=ids, pixel_values=patches, image_grid_thw=grids, position_ids=positions, use_cache=False
            )
        else:
            embeddings = self.backbone.get_input_embeddings()(ids)
            flat = embeddings.reshape(-1, embeddings.shape[-1]).index_copy(0, slots, features.to(embeddings.dtype))
            output = model.language_model(
                inputs_embeds=flat.view_as(embeddings), position_ids=positions, use_cache=False
            )
        hidden = output.last_hidden_state.reshape(-1, output.last_hidden_state.shape[-1])
        logits = self.backbone.get_output_embeddings()(hidden.index_select(0, select))
        return logits, hidden.index_select(0, probes)


def run(network: Any, batch: Batch, pictures: Pictures) -> tuple[Tensor, Tensor]:
    """Call a policy, or an engine around one, on a batch."""
    logits, hidden = network(
        ids=batch.ids,
        positions=batch.positions,
        slots=batch.slots,
        select=batch.select,
        probes=batch.probes,
        features=pictures.features,
        patches=pictures.patches,
        grids=pictures.grids,
    )
    return logits, hidden


class PatchInput:
    """Pictures as patches, for a tower that is trained or feeds several layers."""

    def __init__(self, views: Views) -> None:
        self._views = views

    def __call__(self, refs: Sequence[MediaRef]) -> Pictures:
        if not refs:
            return Pictures()
        patches, grids = self._views.patches(refs)
        return Pictures(patches=torch.from_numpy(patches), grids=torch.from_numpy(grids))


class FeatureInput:
    """Pictures as features of a frozen tower, kept by digest, the oldest dropped beyond `max_bytes`.

    The tower is a copy of its own, so a partitioned or frozen policy never needs to run it.
    """

    def __init__(self, backbone: Any, views: Views, *, max_bytes: int) -> None:
        self._tower = copy.deepcopy(backbone.model.visual).requires_grad_(False).eval()
        self._size = int(backbone.config.text_config.hidden_size)
        self._views = views
        self._max_bytes = max_bytes
        self._kept: OrderedDict[str, Tensor] = OrderedDict()
        self._num_bytes = 0

    def __call__(self, refs: Sequence[MediaRef]) -> Pictures:
        wanted = {ref.digest: ref for ref in refs}
        found = {digest: self._kept[digest] for digest in wanted if digest in self._kept}
        for digest in found:
            self._kept.move_to_end(digest)
        missing = [ref for digest, ref in wanted.items() if digest not in found]
        if missing:
            found |= self._compute(missing)
        if not refs:
            return Pictures(features=torch.zeros(0, self._size, device=self._tower.device))
        return Pictures(features=torch.cat([found[ref.digest] for ref in refs]))

    def pooled(self, ref: MediaRef) -> Tensor:
        """The mean of a picture's visual tokens, (feature,)."""
        features = self([ref]).features
        assert features is not None
        return features.mean(dim=0)

    @torch.no_grad()
    def _compute(self, refs: Sequence[MediaRef]) -> dict[str, Tensor]:
        patches, grids = self._views.patches(refs)
        device = self._tower.device
        output = self._tower(
            torch.from_numpy(patches).to(device, self._tower.dtype), grid_thw=torch.from_numpy(grids).to(device)
        ).pooler_output
        merge = self._tower.spatial_merge_size**2
        pieces = output.split([int(rows * columns) // merge for _, rows, columns in grids.tolist()])
        found = {ref.digest: piece.clone() for ref, piece in zip(refs, pieces, strict=True)}
        for digest, piece in found.items():
            self._kept[digest] = piece
            self._num_bytes += piece.numel() * piece.element_size()
        while self._num_bytes > self._max_bytes and len(self._kept) > 1:
            _, dropped = self._kept.popitem(last=False)
            self._num_bytes -= dropped.numel() * dropped.element_size()
        return found
