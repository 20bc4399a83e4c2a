"""Two ranks under DeepSpeed at every ZeRO stage against one rank of plain torch: the same losses, the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fakes import ranks
from safetensors.torch import load_file

pytestmark = pytest.mark.system
STAGES = [0, 1, 2, 3]


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return ranks.reports(tmp_path_factory.mktemp("ranks"))


def weights_of(report: dict[str, Any]) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for bucket in report["buckets"]:
        found |= load_file(bucket)
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_two_ranks_take_the_steps_of_one(reports: dict[str, dict[str, Any]], stage: int) -> None:
    ranks.check_steps(reports, stage)


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_publishes_the_same_whole_weights(reports: dict[str, dict[str, Any]], stage: int) -> None:
    report = reports["deepspeed-0"][f"deepspeed-{stage}"]
    one, two = weights_of(reports["torch-0"]["torch-0"]), weights_of(report)
    assert set(one) == set(two)
    assert len(report["buckets"]) > 1
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=2e-4, rtol=0, msg=lambda text, name=name: f"{name}: {text}")
    assert report["canary"] == pytest.approx(reports["torch-0"]["torch-0"]["canary"], abs=5e-3)


@pytest.mark.parametrize("stage", STAGES)
def test_a_resumed_rank_takes_the_identical_next_step(reports: dict[str, dict[str, Any]], stage: int) -> None:
    assert reports["deepspeed-0"][f"deepspeed-{stage}"]["resumed"]
    assert reports["deepspeed-1"][f"deepspeed-{stage}"]["resumed"]


def test_ranks_listen_on_loopback_only(reports: dict[str, dict[str, Any]]) -> None:
    heard = [*reports["deepspeed-0"]["listening"], *reports["deepspeed-1"]["listening"]]
    assert heard
    assert set(heard) <= {"127.0.0.1", "::1"}
