"""The learner's state on disk: safetensors and one JSON manifest, no pickle.

Each rank writes its own shard of masters and moments; rank 0 writes what all share. The folder appears whole: it is
written aside, then renamed, so a kill at any time leaves the old one or the new one.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from blake3 import blake3
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from common.errors import RunFolderError

FORMAT = 1
MANIFEST = "learner.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """values: plain JSON values. shard: this rank's tensors. shared: tensors equal on every rank."""

    values: dict[str, Any]
    shard: dict[str, Tensor]
    shared: dict[str, Tensor]


def save(folder: Path, checkpoint: Checkpoint, *, rank: int, world_size: int, barrier: Callable[[], None]) -> None:
    """Write `folder`, replacing an older one. Every rank calls it; `barrier` waits for all of them."""
    aside = folder.with_name(f".{folder.name}.partial")
    if rank == 0:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
    barrier()
    _write(aside / f"rank-{rank}.safetensors", checkpoint.shard)
    if rank == 0:
        _write(aside / "shared.safetensors", checkpoint.shared)
    barrier()
    if rank == 0:
        digests = {file.name: blake3(file.read_bytes()).hexdigest() for file in sorted(aside.glob("*.safetensors"))}
        manifest = {"format": FORMAT, "world_size": world_size, "digests": digests, "values": checkpoint.values}
        with (aside / MANIFEST).open("w") as file:
            json.dump(manifest, file, indent=1, sort_keys=True)
            file.flush()
            os.fsync(file.fileno())
        old = folder.with_name(f".{folder.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        aside.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    barrier()


def load(folder: Path, *, rank: int, world_size: int) -> Checkpoint:
    """Read this rank's part. Raises RunFolderError, one line, when it is missing, damaged or of other ranks."""
    file = folder / MANIFEST
    if not file.is_file():
        old = folder.with_name(f".{folder.name}.old")
        if not (old / MANIFEST).is_file():
            raise RunFolderError(f"{folder}: no {MANIFEST}; give the folder of a learner's checkpoint")
        folder, file = old, old / MANIFEST
    manifest = json.loads(file.read_text())
    if manifest["format"] != FORMAT:
        raise RunFolderError(f"{folder}: checkpoint format {manifest['format']}, this version reads {FORMAT}")
    if manifest["world_size"] != world_size:
        raise RunFolderError(f"{folder}: written by {manifest['world_size']} learner ranks, resumed with {world_size}")
    shard = _read(folder, f"rank-{rank}.safetensors", manifest["digests"])
    shared = _read(folder, "shared.safetensors", manifest["digests"])
    return Checkpoint(values=manifest["values"], shard=shard, shared=shared)


def _write(file: Path, tensors: Mapping[str, Tensor]) -> None:
    save_file({name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}, file)
    with file.open("rb") as handle:
        os.fsync(handle.fileno())


def _read(folder: Path, name: str, digests: Mapping[str, str]) -> dict[str, Tensor]:
    file = folder / name
    if not file.is_file() or blake3(file.read_bytes()).hexdigest() != digests.get(name):
        raise RunFolderError(f"{file}: missing or damaged; resume from another checkpoint")
    try:
        return dict(load_file(file))
    except SafetensorError as error:
        raise RunFolderError(f"{file}: not safetensors ({error})") from error


def pack_optimiser(optimiser: torch.optim.Optimizer, prefix: str) -> dict[str, Tensor]:
    """Parameters and Adam moments of a small replicated optimiser, by position."""
    packed: dict[str, Tensor] = {}
    for index, parameter in enumerate(_parameters(optimiser)):
        packed[f"{prefix}.{index}.value"] = parameter.detach()
        for name, value in optimiser.state.get(parameter, {}).items():
            packed[f"{prefix}.{index}.{name}"] = value
    return packed


@torch.no_grad()
def unpack_optimiser(optimiser: torch.optim.Optimizer, packed: Mapping[str, Tensor], prefix: str) -> None:
    """The inverse of `pack_optimiser`."""
    for index, parameter in enumerate(_parameters(optimiser)):
        start = f"{prefix}.{index}."
        found = {name.removeprefix(start): value for name, value in packed.items() if name.startswith(start)}
        parameter.copy_(found.pop("value"))
        optimiser.state.pop(parameter, None)
        if found:
            step = {"step": found.pop("step").clone()}
            moments = {name: value.to(parameter.device, copy=True) for name, value in found.items()}
            optimiser.state[parameter] = step | moments


def _parameters(optimiser: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimiser.param_groups for parameter in group["params"]]
