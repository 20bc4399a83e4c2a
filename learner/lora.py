"""Low-rank adapters on the language layers (LoRA, arXiv:2106.09685): y = W x + (alpha / rank) · B A x, W frozen.

One base carries three adapters: the policy's, which is trained; the anchor's and the average's, which hold what
those frozen policies are. So all three share the base's memory, and a policy whose adapter is still empty (B = 0) is
the base itself. Only the policy's adapter is trained, checkpointed and published: beside the base that an engine
already holds, or added into it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from common.errors import ModelError
from learner.anchor import Anchor, weights_digest
from learner.config import LoraConfig
from learner.engine import Engine
from learner.trainer import Forward

POLICY = "policy"
FROZEN: tuple[Literal["anchor"], Literal["average"]] = ("anchor", "average")
ADAPTER_FILE, ADAPTER_SETTINGS = "adapter_model.safetensors", "adapter_config.json"
"""Names that peft and vLLM look for in an adapter's folder."""
_LAYERS = r"model\.language_model\.layers\.\d+\.(?:self_attn|mlp)\."


class Adapters:
    """The adapters of one backbone, made in place."""

    def __init__(self, backbone: Any, config: LoraConfig, *, seed: int) -> None:
        """Freeze `backbone` and give it adapters: A uniform as a fresh linear layer's, a function of `seed`, B nought.

        Raises ModelError when the language layers lack one of `config.targets`.
        """
        import peft
        from peft.tuners.lora import LoraLayer

        names = [name for name, _ in backbone.named_modules()]
        for target in config.targets:
            if not any(re.fullmatch(f"{_LAYERS}{re.escape(target)}", name) for name in names):
                raise ModelError(f"learner.lora.targets: the model's language layers have no {target}")
        wanted = f"{_LAYERS}(?:{'|'.join(map(re.escape, config.targets))})"
        settings = peft.LoraConfig(
            r=config.rank, lora_alpha=config.alpha, lora_dropout=0.0, target_modules=wanted, bias="none"
        )
        for name in (POLICY, *FROZEN):
            peft.inject_adapter_in_model(settings, backbone, name)
        self._layers = [module for module in backbone.modules() if isinstance(module, LoraLayer)]
        self.scale = config.alpha / config.rank
        self._fill(seed)
        self._use(POLICY)

    @torch.no_grad()
    def _fill(self, seed: int) -> None:
        random = torch.Generator().manual_seed(seed)
        for layer in self._layers:
            for name in (POLICY, *FROZEN):
                layer.lora_B[name].weight.zero_()
            down = layer.lora_A[POLICY].weight
            bound = 1 / math.sqrt(down.shape[1])
            down.copy_(torch.empty(down.shape).uniform_(-bound, bound, generator=random))

    @contextmanager
    def using(self, name: str | None) -> Iterator[None]:
        """Within, the backbone is the base with the adapter `name`, or the base alone. Nothing is trained there."""
        self._use(name)
        try:
            yield
        finally:
            self._use(POLICY)

    def _use(self, name: str | None) -> None:
        for layer in self._layers:
            layer.set_adapter([] if name is None else [name], inference_mode=name != POLICY)


def in_adapter(name: str) -> bool:
    """Whether a parameter is of the policy's adapter."""
    return f".lora_A.{POLICY}." in name or f".lora_B.{POLICY}." in name


def file_name(name: str) -> str:
    """A parameter of the policy's adapter as peft's files call it."""
    return "base_model.model." + name.replace(f".{POLICY}.", ".")


def settings_text(config: LoraConfig) -> str:
    """What peft and vLLM must know of an adapter beside its tensors."""
    values = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": 0.0,
        "target_modules": list(config.targets),
        "bias": "none",
    }
    return json.dumps(values, indent=1)


def merged(weights: Iterable[tuple[str, Tensor]], scale: float) -> Iterator[tuple[str, Tensor]]:
    """The parameters of an adapted model → those of a plain one, under its own names: W + scale · B A, summed in fp32.

    One layer at a time: a layer's own weight comes before its adapters.
    """
    base: dict[str, Tensor] = {}
    down: dict[str, Tensor] = {}
    for name, tensor in weights:
        layer, _, rest = name.rpartition(".base_layer.")
        if layer and rest == "weight":
            base[layer] = tensor
        elif layer:
            yield f"{layer}.{rest}", tensor
        elif name.endswith(f".lora_A.{POLICY}.weight"):
            down[name.rpartition(".lora_A.")[0]] = tensor
        elif name.endswith(f".lora_B.{POLICY}.weight"):
            layer = name.rpartition(".lora_B.")[0]
            whole = base.pop(layer)
            change = scale * (tensor.float() @ down.pop(layer).float())
            yield f"{layer}.weight", (whole.float() + change).to(whole.dtype)
        elif ".lora_A." not in name and ".lora_B." not in name:
            yield name, tensor
    assert not base and not down, "a layer without its adapter"


class AdapterAnchor(Anchor):
    """A frozen policy that is an adapter on the policy's own base; kept in fp32, whatever the base's type.

    empty: every B is nought, so that the network is the base with its adapters off.
    """

    def __init__(
        self,
        name: Literal["anchor", "average"],
        adapters: Adapters,
        engine: Engine,
        over: Callable[[Any], Forward],
        *,
        estimator: Literal["exact", "k3"],
    ) -> None:
        def network(**inputs: Tensor | None) -> tuple[Tensor, Tensor]:
            with adapters.using(None if self.empty else name):
                return engine(**inputs)

        self.empty = True
        self._name = name
        self._engine = engine
        self._tensors: dict[str, Tensor] = {}
        super().__init__(network, over(network), estimator=estimator)

    def take(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Become a copy of the policy's adapter. Collective."""
        self._tensors = {name: tensor.detach().float().clone() for name, tensor in weights}
        self.forget()
        self.digest = weights_digest(self.named_weights())

    def forget(self) -> None:
        """Drop kept outputs and take the tensors, which changed, to the network. Collective."""
        super().forget()
        self.empty = not any(tensor.any() for name, tensor in self._tensors.items() if ".lora_B." in name)
        mine = {name.replace(f".{POLICY}.", f".{self._name}."): tensor for name, tensor in self._tensors.items()}
        self._engine.put(mine)

    def named_weights(self) -> Iterable[tuple[str, Tensor]]:
        return self._tensors.items()
