"""What the engine's workers learn from us: to take new weights while requests are in flight."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from actors.weights import tensors


class WorkerExtension:
    """Mixed into every worker by the engine, which reaches its methods by name."""

    if TYPE_CHECKING:

        def reload_weights(self, **arguments: Any) -> None: ...

        def get_model(self) -> Any: ...

    def take_weights(self, paths: list[str]) -> None:
        """Load safetensors files into the live model.

        The worker's own layer-wise reload undoes and redoes what kernels did to the weights (packing, fusing,
        sharding), which a plain `load_weights` on a live model does not: linear layers are emptied by packing.
        """
        self.reload_weights(weights_iterator=tensors(tuple(paths)))
        _tie_again(self.get_model())


def _tie_again(model: Any) -> None:
    """Give a language head that shares the embedding's weights the new ones.

    The reload works module by module: a tied head is a module of its own into which nothing is loaded, so it keeps what
    its kernel made of the old weights.
    """
    import torch
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding

    if not any(
        getattr(part.config, "tie_word_embeddings", False) for part in model.modules() if hasattr(part, "config")
    ):
        return
    embeddings = [part for part in model.modules() if type(part) is VocabParallelEmbedding]
    for head in [part for part in model.modules() if isinstance(part, ParallelLMHead)]:
        with torch.no_grad():
            if head.weight.data_ptr() != embeddings[0].weight.data_ptr():
                head.weight.copy_(embeddings[0].weight)
            head.quant_method.process_weights_after_loading(head)
