"""A frozen policy to measure against, and the source of step features.

Log-probabilities and features are computed once a rollout and kept under the anchor's digest. Features come from a
frozen network only, so nothing that the policy learns can move its own targets.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from blake3 import blake3
from torch import Tensor

from learner.batch import Row
from learner.divergence import exact_kl, k3
from learner.policy import Policy
from learner.trainer import Forward, Pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """What a frozen policy says of one row: log-probs of its trained tokens, (n, vocabulary) or (n,), and hidden
    states at its probes."""

    logprobs: Tensor
    hidden: Tensor


def tensor_bytes(tensor: Tensor) -> bytes:
    """A tensor's raw bytes, whatever its type."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()


def weights_digest(weights: Iterable[tuple[str, Tensor]]) -> str:
    """blake3 over names and bytes in order."""
    hasher = blake3()
    for name, tensor in weights:
        hasher.update(name.encode())
        hasher.update(tensor_bytes(tensor))
    return hasher.hexdigest()


@torch.no_grad()
def load_weights(network: Policy, weights: Iterable[tuple[str, Tensor]]) -> None:
    """Copy whole tensors into a network by their published names; every parameter must be given."""
    own = {name.removeprefix("backbone."): parameter for name, parameter in network.named_parameters()}
    for name, tensor in weights:
        own.pop(name).copy_(tensor)
    assert not own, f"no weights for {sorted(own)[:3]}"


class Anchor:
    """A frozen network with outputs kept by row. `forward` runs rows through it."""

    def __init__(self, network: Any, forward: Forward, *, estimator: Literal["exact", "k3"]) -> None:
        self.network = network
        self._forward = forward
        self._estimator = estimator
        self._kept: dict[str, Reference] = {}
        self.digest = ""

    def take(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Become a copy of `weights`; outputs of the old ones are dropped. Collective where gathering `weights` is."""
        load_weights(self.network, weights)
        self.forget()
        self.digest = weights_digest(self.named_weights())

    def forget(self) -> None:
        """Drop kept outputs: the network's weights are not what they were."""
        self._kept.clear()

    def named_weights(self) -> Iterable[tuple[str, Tensor]]:
        for name, parameter in self.network.named_parameters():
            yield name.removeprefix("backbone."), parameter.detach()

    @torch.no_grad()
    def look(self, rows: Sequence[Row]) -> dict[str, Reference]:
        """The outputs of this rank's share of `rows`, by row key; only those not seen before are computed."""
        found: dict[str, Reference] = {}
        if any(row.key not in self._kept for row in rows):
            for run in self._forward.passes(rows):
                found |= self._split(run)
            self._kept = found
        return self._kept

    def _split(self, found: Pass) -> dict[str, Reference]:
        if not found.members:
            return {}
        values = found.all_logprobs if self._estimator == "exact" else found.logprobs
        tokens = values.split([len(row.trained) for row in found.batch.rows])
        probes = found.hidden.split([len(row.probes) for row in found.batch.rows])
        return {
            row.key: Reference(logprobs=token, hidden=probe)
            for row, token, probe in zip(found.batch.rows, tokens, probes, strict=True)
        }


def divergence(found: Pass, references: dict[str, Reference]) -> Tensor:
    """KL(policy ‖ reference) of each trained token of a pass, (n,): exact where the reference kept the vocabulary,
    else k3."""
    if not found.members:
        return found.logprobs
    theirs = torch.cat([references[row.key].logprobs for row in found.batch.rows])
    return exact_kl(found.all_logprobs, theirs) if theirs.dim() == 2 else k3(found.logprobs, theirs)
