"""Adapters on two ranks under DeepSpeed at every ZeRO stage against one rank of plain torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fakes import ranks
from safetensors.torch import load_file

pytestmark = pytest.mark.system
STAGES = [0, 1, 2, 3]
LORA_RANK = 4


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return ranks.reports(tmp_path_factory.mktemp("ranks"), LORA_RANK)


def adapter_of(report: dict[str, Any]) -> dict[str, torch.Tensor]:
    (bucket,) = report["buckets"]
    return load_file(bucket)


@pytest.mark.parametrize("stage", STAGES)
def test_two_ranks_take_the_steps_of_one(reports: dict[str, dict[str, Any]], stage: int) -> None:
    ranks.check_steps(reports, stage)


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
