"""Published weights on this node: safetensors files, trusted only after the digest of every tensor agreed."""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import WeightsError
from common.types import Tensor, Weights

if TYPE_CHECKING:
    from torch import Tensor as TorchTensor

Shape = tuple[int, ...]


def verify(weights: Weights, held: Mapping[str, Shape]) -> None:
    """Compare every tensor with its blake3, and all of them with the tensors that the engine holds.

    held: name → shape. Where names differ (a checkpoint and a live model name things differently) the shapes must be
    the same ones. Raises WeightsError naming the first tensor that is missing, altered or of another shape.
    """
    _compare({tensor.name: tensor.shape for tensor in weights.tensors}, held, weights.version)
    listed: list[dict[str, Tensor]] = [{} for _ in weights.buckets]
    for tensor in weights.tensors:
        if not 0 <= tensor.bucket < len(listed):
            raise WeightsError(
                f"version {weights.version}: {tensor.name} is in bucket {tensor.bucket}, which is missing"
            )
        listed[tensor.bucket][tensor.name] = tensor
    for bucket, wanted in zip(weights.buckets, listed, strict=True):
        try:
            wrong = _first_difference(Path(bucket), wanted)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise WeightsError(f"version {weights.version}: {bucket} cannot be read ({error})") from error
        if wrong:
            raise WeightsError(f"version {weights.version}: {bucket} does not hold what its list says: {wrong}")


def _compare(given: Mapping[str, Shape], held: Mapping[str, Shape], version: int) -> None:
    if given.keys() == held.keys():
        wrong = next((name for name in given if given[name] != held[name]), "")
        if wrong:
            raise WeightsError(f"version {version}: {wrong} has shape {given[wrong]}, and {held[wrong]} is held")
    elif sorted(given.values()) != sorted(held.values()):
        raise WeightsError(f"version {version}: its {len(given)} tensors are not of the shapes of the {len(held)} held")


def shapes(files: Sequence[str]) -> dict[str, Shape]:
    """The tensors of safetensors files: name → shape, read from their headers."""
    found: dict[str, Shape] = {}
    for path in files:
        with Path(path).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            found |= {name: tuple(entry["shape"]) for name, entry in _header(data)[0].items()}
    return found


def _first_difference(bucket: Path, wanted: dict[str, Tensor]) -> str:
    """The name of a tensor that is missing, unlisted or altered; "" when there is none."""
    from blake3 import blake3

    with bucket.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        header, start = _header(data)
        if wanted.keys() != header.keys():
            return min(wanted.keys() ^ header.keys())
        with memoryview(data) as view:
            for name, tensor in wanted.items():
                first, last = header[name]["data_offsets"]
                with view[start + first : start + last] as body:
                    digest = blake3(body).hexdigest()
                if digest != tensor.digest or tuple(header[name]["shape"]) != tensor.shape:
                    return name
    return ""


def _header(data: mmap.mmap) -> tuple[dict[str, Any], int]:
    """The tensors of a safetensors file, and where their bytes start: 8 bytes of length, JSON, then the tensors."""
    length = int.from_bytes(data[:8], "little")
    if length > len(data) - 8:
        raise ValueError("no safetensors file, or a part of one")
    header: dict[str, Any] = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    return header, 8 + length


def tensors(paths: tuple[str, ...]) -> Iterator[tuple[str, TorchTensor]]:
    """Every tensor of the files, by name, one at a time and without copying the file."""
    from safetensors import safe_open

    for path in paths:
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118  a handle is no mapping
                yield name, file.get_tensor(name)


def model_files(folder: Path) -> tuple[str, ...]:
    """The weight files of a model directory. Raises WeightsError where there are none."""
    found = tuple(str(path) for path in sorted(folder.glob("*.safetensors")))
    if not found:
        raise WeightsError(f"{folder} holds no *.safetensors")
    return found
