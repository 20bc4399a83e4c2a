"""One rank of a learner in a process of its own, for tests: runs a short job at each ZeRO stage and writes what it saw.

usage: python -m fakes.ranks RANK WORLD_SIZE BACKEND FOLDER [LORA_RANK] (BACKEND: torch, or deepspeed for stages 0 to 3)
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from fakes.learning import a_real_rollout, a_real_trace, a_vote
from fakes.models import make_tiny_model
from safetensors.torch import load_file

from common.chat import Chat
from common.media import FolderMediaStore
from common.schema import encode_rollouts, encode_traces
from common.types import Draw
from learner.config import EngineConfig, LearnerConfig, LoraConfig, ScheduleConfig, SftConfig
from learner.learner import Learner

ROOT = Path(__file__).parents[1]
CONFIG = LearnerConfig(
    sft=SftConfig(schedule=ScheduleConfig(lr=1e-3, num_steps=20, warmup_steps=2), batch_size=7),
    micro_batch_tokens=300,
    bucket_bytes=300_000,
)


def job(learner: Learner, chat: Chat, store: FolderMediaStore) -> list[dict[str, float]]:
    """Three supervised steps, one reinforced, one adapted; uneven shares, so some ranks make empty passes."""
    learner.begin("sft")
    learner.add_traces(nine_traces(chat, store))
    found = [learner.imitate(step) for step in range(3)]
    rollouts = [
        a_real_rollout(chat, store, i, group_size=3, score=float(i == 0), num_calls=1 + i, answer="4" if i < 2 else "7")
        for i in range(3)
    ]
    draw = Draw(step=0, watermark=0, rollout_ids=(), rollouts=encode_rollouts(rollouts), consensus=(a_vote(rollouts),))
    learner.begin("rft")
    found.append(learner.step(draw))
    learner.begin("ttrl")
    found.append(learner.step(draw))
    return found


def nine_traces(chat: Chat, store: FolderMediaStore) -> bytes:
    return encode_traces([a_real_trace(chat, store, i) for i in range(9)])


def resumed(make: Any, learner: Learner, folder: Path, traces: bytes) -> bool:
    """Whether a learner restored from a checkpoint and given the same traces takes the same next supervised step."""
    learner.begin("sft")
    learner.imitate(3)
    learner.save(folder)
    other = make()
    other.restore(folder)
    other.add_traces(traces)
    mine, theirs = learner.imitate(4), other.imitate(4)
    return {**mine, "learn_s": 0} == {**theirs, "learn_s": 0}


def addresses() -> list[str]:
    """Addresses this process listens on."""
    return [c.laddr.ip for c in psutil.Process().net_connections("inet") if c.status == "LISTEN"]


def run(rank: int, world_size: int, backend: str, folder: Path, lora_rank: int = 0) -> None:
    """Write report-BACKEND-RANK.json into `folder`, which holds the model."""
    store = FolderMediaStore(folder / "media")
    chat = Chat.from_model(folder / "model")
    report: dict[str, Any] = {}
    lora = LoraConfig(rank=lora_rank, alpha=2 * lora_rank) if lora_rank else None
    for stage in (0,) if backend == "torch" else (0, 1, 2, 3):
        engine = EngineConfig(backend=backend, zero_stage=stage)  # type: ignore[arg-type]
        name = f"{backend}-{stage}"

        def make(engine: EngineConfig = engine, name: str = name) -> Learner:
            return Learner(
                replace(CONFIG, engine=engine, lora=lora),
                rank=rank,
                world_size=world_size,
                model_folder=folder / "model",
                store=store,
                weights_folder=folder / f"weights-{name}",
                seed=3,
                rendezvous=f"file://{folder}/meet",
            )

        learner = make()
        metrics = job(learner, chat, store)
        weights = learner.publish()
        assert (weights is None) == (rank != 0)
        report[name] = {
            "metrics": metrics,
            "buckets": list(weights.buckets) if weights else [],
            "names": sorted(n for b in weights.buckets for n in load_file(b)) if weights else [],
            "canary": list(weights.canary.logprobs) if weights and weights.canary else [],
            "resumed": resumed(make, learner, folder / f"state-{name}", nine_traces(chat, store)),
        }
    report["listening"] = addresses()
    (folder / f"report-{backend}-{rank}.json").write_text(json.dumps(report))


def reports(folder: Path, lora_rank: int = 0) -> dict[str, dict[str, Any]]:
    """What one rank of plain torch and two under DeepSpeed report, by BACKEND-RANK."""
    make_tiny_model(folder / "model")
    environment = os.environ | {"PYTHONPATH": f"{ROOT.parent}:{ROOT}", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "fakes.ranks", rank, "2", "deepspeed", str(folder), str(lora_rank)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in ("0", "1")
    ]
    run(0, 1, "torch", folder, lora_rank)
    for process in started:
        output, _ = process.communicate(timeout=900)
        assert process.returncode == 0, output[-4000:]
    names = ("torch-0", "deepspeed-0", "deepspeed-1")
    return {name: json.loads((folder / f"report-{name}.json").read_text()) for name in names}


def check_steps(reports: dict[str, dict[str, Any]], stage: int) -> None:
    """Two ranks measure in every step what one does."""
    one = reports["torch-0"]["torch-0"]["metrics"]
    for rank in (0, 1):
        two = reports[f"deepspeed-{rank}"][f"deepspeed-{stage}"]["metrics"]
        assert len(two) == len(one) == 5
        for mine, theirs in zip(one, two, strict=True):
            assert set(mine) == set(theirs)
            for name in mine:
                if name not in ("learn_s", "grad_norm"):
                    assert theirs[name] == pytest.approx(mine[name], rel=2e-3, abs=2e-4), (stage, rank, name)
            if stage:  # stage 0 in fp32 keeps no norm
                assert theirs["grad_norm"] == pytest.approx(mine["grad_norm"], rel=1e-3)


if __name__ == "__main__":
    run(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]), *map(int, sys.argv[5:]))
