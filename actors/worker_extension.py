"""What the engine's workers learn from us: to take new weights while requests are in flight."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from actors.weights import tensors


class WorkerExtension:
    """Mixed into every worker by the engine, which reaches its methods by name."""

    if TYPE_CHECKING:

        def reload_weights(self, **arguments: Any) -> None: ...

    def take_weights(self, paths: list[str]) -> None:
        """Load safetensors files into the live model.

        The worker's own layer-wise reload undoes and redoes what kernels did to the weights (packing, fusing,
        sharding), which a plain `load_weights` on a live model does not: linear layers are emptied by packing.
        """
        self.reload_weights(weights_iterator=tensors(tuple(paths)))
