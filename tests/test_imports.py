"""What is imported when: help and configuration stay light, and no room reaches into another."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = (
    "torch",
    "ray",
    "vllm",
    "deepspeed",
    "faiss",
    "cv2",
    "easyocr",
    "sam2",
    "transformers",
    "tokenizers",
    "skimage",
    "matplotlib",
)


def loaded_by(code: str) -> set[str]:
    """Heavy libraries that are loaded after `code` has run in a new interpreter."""
    script = f"import sys\n{code}\nprint('LOADED', *[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    return set(done.stdout.splitlines()[-1].split()[1:])


def test_help_loads_no_heavy_library_and_no_hydra() -> None:
    light = "assert 'hydra' not in sys.modules and 'msgspec' not in sys.modules"
    assert loaded_by(f"from cluster.launch import main\nmain(['--help'])\n{light}") == set()


def test_rooms_and_their_configurations_load_no_heavy_library() -> None:
    configs = sorted(
        str(file.relative_to(ROOT).with_suffix("")).replace("/", ".") for file in ROOT.glob("[a-z]*/**/config.py")
    )
    assert {"actors.config", "learner.config", "replay.config", "cluster.config"} <= set(configs)
    rooms = ["common", "actors", "actors.tools", "learner", "replay", "cluster", *configs]
    assert loaded_by("\n".join(f"import {room}" for room in rooms)) == set()


def test_a_configuration_is_read_without_a_heavy_library() -> None:
    assert loaded_by("from cluster.config import load\nload([])") == set()


@pytest.mark.parametrize(
    "module", ["cluster.runtime", "cluster.local_runtime", "cluster.runs", "cluster.summary", "cluster.progress"]
)
def test_the_light_parts_of_the_cluster_are_light(module: str) -> None:
    assert loaded_by(f"import {module}") == set()


def test_no_file_of_this_project_reads_or_writes_pickles_on_disk() -> None:
    for room in ("common", "actors", "learner", "replay", "cluster"):
        for file in (ROOT / room).rglob("*.py"):
            text = file.read_text()
            assert "torch.save(" not in text and "pickle.dump(" not in text and "pickle.load(" not in text, file
            assert "torch.load(" not in text or "weights_only=True" in text, file
