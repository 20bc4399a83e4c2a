"""Whole runs of shrunk relatives of the large models: the four phases, all weights trained, or adapters served live."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from fakes.large_models import make_large_model

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

PIXELIS = str(Path(sys.executable).with_name("pixelis"))
MAX_PIXELS = {"qwen2_5_vl_7b": 112 * 112, "qwen3_vl_8b": 2 * 256 * 256, "qwen3_vl_2b": 2 * 256 * 256}
"""Few, but twice the lower bound, so that a picture that was enlarged to the bound is not shrunk again."""
SMALL = [
    "experiment=smoke", "runtime.kind=local", "actor.max_tokens=8", "actor.max_calls=2", "evaluation.num_tasks=2",
    "phases.sft.chunk=4", "learner.sft.batch_size=2", "phases.rft.num_steps=2", "phases.ttrl.num_steps=1",
    "world.mix={text: 0.7, clip: 0, when: 0}",
    "phases.sft.levels=[{num_plates:[1,2],num_traces:4,num_steps:2}]",
]  # fmt: skip


def run(name: str, folder: Path, *words: str) -> Path:
    """`pixelis run` on the model in `folder`. Returns the run's folder."""
    model = make_large_model(folder / "model", name, max_pixels=MAX_PIXELS[name])
    command = [PIXELIS, "run", f"model={name}", f"model.path={model}", f"folder={folder}", *SMALL, *words, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=850, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    summary = json.loads(done.stdout)
    assert [phase["name"] for phase in summary["phases"]] == ["base", "sft", "rft", "ttrl"]
    return folder / "smoke"


@pytest.mark.parametrize("name", sorted(MAX_PIXELS))
def test_all_weights_go_through_every_phase(name: str, tmp_path: Path) -> None:
    folder = run(name, tmp_path)
    assert (folder / "policy" / "config.json").is_file()


@pytest.mark.parametrize("name", ["qwen2_5_vl_7b", "qwen3_vl_8b"])
def test_an_adapter_goes_through_every_phase_and_is_served_live(name: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    folder = run(name, tmp_path, "learner.lora={rank: 4, alpha: 8}")
    (checkpoint,) = (folder / "checkpoints").iterdir()
    whole = sum(tensor.numel() for tensor in load_file(tmp_path / "model" / "model.safetensors").values())
    masters = [
        tensor.numel()
        for file in checkpoint.glob("rank-*.safetensors")
        for key, tensor in load_file(file).items()
        if key.endswith(".master")
    ]
    assert 0 < sum(masters) < whole / 5
    # what is left is a plain model, the adapter added in
    assert not list((folder / "policy").glob("adapter*"))
