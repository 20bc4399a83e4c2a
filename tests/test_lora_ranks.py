"""Adapters on two ranks under DeepSpeed at every ZeRO stage against one rank of plain torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes.models import make_tiny_model
from fakes.ranks import run
from safetensors.torch import load_file

pytestmark = pytest.mark.system
ROOT = Path(__file__).parent
STAGES = [0, 1, 2, 3]
LORA_RANK = 4


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    make_tiny_model(folder / "model")
    environment = os.environ | {"PYTHONPATH": f"{ROOT.parent}:{ROOT}", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "fakes.ranks", rank, "2", "deepspeed", str(folder), str(LORA_RANK)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in ("0", "1")
    ]
    run(0, 1, "torch", folder, LORA_RANK)
    for process in started:
        output, _ = process.communicate(timeout=900)
        assert process.returncode == 0, output[-4000:]
    names = ("torch-0", "deepspeed-0", "deepspeed-1")
    return {name: json.loads((folder / f"report-{name}.json").read_text()) for name in names}


def adapter_of(report: dict[str, Any]) -> dict[str, torch.Tensor]:
    (bucket,) = report["buckets"]
    return load_file(bucket)


@pytest.mark.parametrize("stage", STAGES)
def test_two_ranks_take_the_steps_of_one(reports: dict[str, dict[str, Any]], stage: int) -> None:
    one = reports["torch-0"]["torch-0"]["metrics"]
    for rank in (0, 1):
        two = reports[f"deepspeed-{rank}"][f"deepspeed-{stage}"]["metrics"]
        assert len(two) == len(one) > 0
        for mine, theirs in zip(one, two, strict=True):
            for name in mine:
                if name not in ("learn_s", "grad_norm"):
                    assert theirs[name] == pytest.approx(mine[name], rel=2e-3, abs=2e-4), (stage, rank, name)
            if stage:  # stage 0 in fp32 keeps no norm
                assert theirs["grad_norm"] == pytest.approx(mine["grad_norm"], rel=1e-3)


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_publishes_the_same_whole_adapter(reports: dict[str, dict[str, Any]], stage: int) -> None:
    report = reports["deepspeed-0"][f"deepspeed-{stage}"]
    one, two = adapter_of(reports["torch-0"]["torch-0"]), adapter_of(report)
    assert set(one) == set(two)
    for name, tensor in one.items():
        assert (two[name] - tensor).abs().max() <= 2e-4, name
    assert any(tensor.any() for name, tensor in two.items() if "lora_B" in name)
    assert report["canary"] == pytest.approx(reports["torch-0"]["torch-0"]["canary"], abs=5e-3)


@pytest.mark.parametrize("stage", STAGES)
def test_a_resumed_rank_takes_the_identical_next_step(reports: dict[str, dict[str, Any]], stage: int) -> None:
    assert reports["deepspeed-0"][f"deepspeed-{stage}"]["resumed"]
    assert reports["deepspeed-1"][f"deepspeed-{stage}"]["resumed"]
