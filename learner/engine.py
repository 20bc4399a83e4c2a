"""Who owns the optimiser: DeepSpeed over one or many ranks, or plain torch on one.

Both take losses whose denominators are global, add gradients over micro-batches and ranks, clip, and step fp32
masters with AdamW.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from common.errors import RunFolderError
from learner.config import EngineConfig

Wanted = Callable[[str], bool]
"""Chooses parameters by name."""


def everything(_: str) -> bool:
    """Every parameter is wanted."""
    return True


MOMENTS = ("exp_avg", "exp_avg_sq")
MAX_BUCKET = 500_000_000
"""Elements that DeepSpeed reduces or gathers at once (its own default)."""


class Engine(Protocol):
    """A network under training."""

    rank: int
    world_size: int

    def __call__(self, **inputs: Tensor | None) -> tuple[Tensor, Tensor]:
        """The network's forward pass."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of this rank's part of the loss; the sum over ranks and calls is the gradient."""
        ...

    def step(self, lr: float) -> float:
        """Clip and update; collective. Returns the gradient's norm before clipping."""
        ...

    def total(self, values: Tensor) -> Tensor:
        """`values` summed over ranks, in place; collective."""
        ...

    def weights(self, wanted: Wanted = everything) -> Iterator[tuple[str, Tensor]]:
        """Names and whole tensors of the parameters whose name is wanted (all of them), one at a time; collective, so
        every rank runs it to the end."""
        ...

    def put(self, tensors: Mapping[str, Tensor]) -> None:
        """Write whole tensors, equal on every rank, over parameters that are not trained; collective."""
        ...

    def state(self) -> dict[str, Tensor]:
        """A copy of this rank's shard: fp32 masters and moments."""
        ...

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continue exactly from `state`; collective."""
        ...

    def forget(self) -> None:
        """Drop the moments, as at the start of a phase."""
        ...

    def close(self) -> None: ...


def _named(network: nn.Module, wanted: Wanted) -> Iterator[tuple[str, nn.Parameter]]:
    """Parameters under their published names."""
    for name, parameter in network.named_parameters():
        published = name.removeprefix("backbone.")
        if wanted(published):
            yield published, parameter


def _adamw(parameters: list[nn.Parameter], config: EngineConfig) -> torch.optim.AdamW:
    return torch.optim.AdamW(parameters, lr=1e-3, betas=config.betas, eps=config.eps, weight_decay=config.weight_decay)


def _pack(optimiser: torch.optim.Optimizer, masters: list[Tensor]) -> dict[str, Tensor]:
    packed: dict[str, Tensor] = {}
    for index, master in enumerate(masters):
        packed[f"{index}.master"] = master.detach().clone()
        moments = optimiser.state.get(master)
        if moments:
            packed |= {f"{index}.{name}": moments[name].clone() for name in (*MOMENTS, "step")}
    return packed


def _unpack(optimiser: torch.optim.Optimizer, masters: list[Tensor], packed: dict[str, Tensor]) -> None:
    if sum(name.endswith(".master") for name in packed) != len(masters):
        raise RunFolderError(
            "the checkpoint's optimiser has other parts; resume with the same model, ranks and zero_stage"
        )
    optimiser.state.clear()
    for index, master in enumerate(masters):
        if packed[f"{index}.master"].shape != master.shape:
            raise RunFolderError(
                "the checkpoint's optimiser has other shapes; resume with the same model, ranks and zero_stage"
            )
        master.data.copy_(packed[f"{index}.master"])
        if f"{index}.step" in packed:
            optimiser.state[master] = {name: packed[f"{index}.{name}"].clone() for name in (*MOMENTS, "step")}


class TorchEngine:
    """One rank, fp32, no DeepSpeed: for tests, and the yardstick of the other engine's overhead."""

    rank = 0
    world_size = 1

    def __init__(self, network: nn.Module, config: EngineConfig) -> None:
        self._network = network
        self._config = config
        self._parameters = [p for p in network.parameters() if p.requires_grad]
        self._optimiser = _adamw(self._parameters, config)

    def __call__(self, **inputs: Tensor | None) -> tuple[Tensor, Tensor]:
        logits, hidden = self._network(**inputs)
        return logits, hidden

    def backward(self, loss: Tensor) -> None:
        torch.autograd.backward(loss)

    def step(self, lr: float) -> float:
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._config.max_grad_norm)
        for group in self._optimiser.param_groups:
            group["lr"] = lr
        self._optimiser.step()
        self._optimiser.zero_grad()
        return float(norm)

    def total(self, values: Tensor) -> Tensor:
        return values

    def weights(self, wanted: Wanted = everything) -> Iterator[tuple[str, Tensor]]:
        for name, parameter in _named(self._network, wanted):
            yield name, parameter.detach()

    @torch.no_grad()
    def put(self, tensors: Mapping[str, Tensor]) -> None:
        for name, parameter in _named(self._network, tensors.__contains__):
            parameter.copy_(tensors[name])

    def state(self) -> dict[str, Tensor]:
        return _pack(self._optimiser, list(self._parameters))

    def load_state(self, state: dict[str, Tensor]) -> None:
        _unpack(self._optimiser, list(self._parameters), state)

    def forget(self) -> None:
        self._optimiser.state.clear()

    def close(self) -> None:
        return None


class DeepSpeedEngine:
    """DeepSpeed ZeRO over gloo or NCCL.

    `rendezvous` is torch's init_method: a file URL on one node (nothing listens for it), tcp://host:port across
    nodes. Give the same to every rank. DS_ACCELERATOR=cpu must be in the environment before deepspeed is first
    imported on a machine without a GPU; it is set here.
    """

    def __init__(
        self, network: nn.Module, config: EngineConfig, *, rank: int, world_size: int, rendezvous: str | None
    ) -> None:
        self.rank = rank
        self.world_size = world_size
        self._config = config
        deepspeed = start_deepspeed(config, rank=rank, world_size=world_size, rendezvous=rendezvous)
        self._gathered = deepspeed.zero.GatheredParameters
        trained = [p for p in network.parameters() if p.requires_grad]
        self._engine, self._zero, _, _ = deepspeed.initialize(
            model=network,
            optimizer=_adamw(trained, config),
            config=self._settings(sum(p.numel() for p in trained)),
            dist_init_required=False,
        )
        self._network = network

    def _settings(self, num_trained: int) -> dict[str, Any]:
        bucket = max(1, min(MAX_BUCKET, num_trained))
        return {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            "managed_gradient_accumulation": False,
            "gradient_clipping": self._config.max_grad_norm,
            "bf16": {"enabled": self._config.dtype == "bfloat16"},
            "zero_optimization": {
                "stage": self._config.zero_stage,
                "overlap_comm": False,
                "stage3_param_persistence_threshold": 0,
                # The default buffer of 500 M elements is filled anew every step, which takes seconds on a CPU.
                "reduce_bucket_size": bucket,
                "allgather_bucket_size": bucket,
            },
            "zero_allow_untested_optimizer": True,
            "steps_per_print": 10**9,
        }

    def __call__(self, **inputs: Tensor | None) -> tuple[Tensor, Tensor]:
        logits, hidden = self._engine(**inputs)
        return logits, hidden

    def backward(self, loss: Tensor) -> None:
        # DeepSpeed averages over ranks; the loss is this rank's part of a sum.
        self._engine.backward(loss * self.world_size)

    def step(self, lr: float) -> float:
        for group in self._zero.param_groups:
            group["lr"] = lr
        self._engine.step()
        norm = self._engine.get_global_grad_norm()
        return float(norm) if norm is not None else 0.0

    def total(self, values: Tensor) -> Tensor:
        if self.world_size > 1:
            torch.distributed.all_reduce(values)
        return values

    def weights(self, wanted: Wanted = everything) -> Iterator[tuple[str, Tensor]]:
        for name, parameter in _named(self._network, wanted):
            with self._gathered([parameter], enabled=self._config.zero_stage == 3):
                whole = parameter.detach()
                yield name, whole.clone() if self._config.zero_stage == 3 else whole

    @torch.no_grad()
    def put(self, tensors: Mapping[str, Tensor]) -> None:
        for name, parameter in _named(self._network, tensors.__contains__):
            # Rank 0's values, which are everybody's, go back to the shards.
            with self._gathered([parameter], modifier_rank=0, enabled=self._config.zero_stage == 3):
                parameter.copy_(tensors[name])

    @property
    def _optimiser(self) -> Any:
        return self._zero if self._config.zero_stage == 0 else self._zero.optimizer

    def _masters(self) -> list[Tensor]:
        if self._config.zero_stage == 3:
            return list(self._zero.fp32_partitioned_groups_flat)
        if self._config.zero_stage:
            return list(self._zero.single_partition_of_fp32_groups)
        return [p for group in self._zero.param_groups for p in group["params"]]

    def state(self) -> dict[str, Tensor]:
        return _pack(self._optimiser, self._masters())

    def load_state(self, state: dict[str, Tensor]) -> None:
        _unpack(self._optimiser, self._masters(), state)
        with torch.no_grad():
            if self._config.zero_stage == 3:
                for index, master in enumerate(self._zero.fp32_partitioned_groups_flat):
                    self._zero.fp16_partitioned_groups_flat[index].copy_(master)
                    self._zero._unflatten_partitioned_parameters(index)
            elif self._config.zero_stage:
                self._zero.update_lp_params()

    def forget(self) -> None:
        self._optimiser.state.clear()

    def close(self) -> None:
        self._engine.destroy()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def start_deepspeed(config: EngineConfig, *, rank: int, world_size: int, rendezvous: str | None) -> Any:
    """Import deepspeed for the CPU or CUDA and join the ranks. Gloo's connections stay on loopback where the
    rendezvous is local."""
    if config.device == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ.setdefault("DS_SKIP_CUDA_CHECK", "1")
    os.environ.setdefault("LOCAL_RANK", "0")  # a rank is a process that sees its own device only
    url = rendezvous or f"file://{tempfile.mkdtemp(prefix='pixelis-ranks-')}/meet"
    if url.startswith("file://") or "//127.0.0.1" in url:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    if not torch.distributed.is_initialized():
        backend = "gloo" if config.device == "cpu" else "nccl"
        torch.distributed.init_process_group(backend, init_method=url, rank=rank, world_size=world_size)
    import deepspeed

    # DeepSpeed calls collectives by their old names.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    deepspeed.logger.setLevel("WARNING")
    # Its shared-memory operator would be compiled for minutes; gloo gives the same sums.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend="gloo" if config.device == "cpu" else "nccl", verbose=False)
    return deepspeed


def build_engine(
    network: nn.Module, config: EngineConfig, *, rank: int, world_size: int, rendezvous: str | None
) -> Engine:
    """The engine that `config` names. Raises ValueError for several ranks of plain torch."""
    if config.backend == "deepspeed":
        return DeepSpeedEngine(network, config, rank=rank, world_size=world_size, rendezvous=rendezvous)
    if world_size != 1:
        raise ValueError(f"backend torch has one rank, got {world_size}; use backend deepspeed")
    return TorchEngine(network, config)
