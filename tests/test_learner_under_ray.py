"""A learner of two gloo ranks under Ray: each ZeRO stage learns what one rank learns."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.learning import a_real_trace
from fakes.models import make_tiny_model
from safetensors.numpy import load_file

from cluster.config import RunConfig
from cluster.factories import Site, build_learner
from cluster.placement import worker_env
from cluster.ray_runtime import RayRuntime
from cluster.runtime import RuntimeConfig
from common.chat import Chat
from common.media import FolderMediaStore
from common.schema import encode_traces
from common.types import Weights
from learner.learner import Learner

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

NUM_STEPS = 3


@pytest.fixture
async def runtime() -> AsyncIterator[RayRuntime]:
    runtime = RayRuntime.start(RuntimeConfig(num_cpus=4, object_store_bytes=80 * 2**20))
    yield runtime
    await runtime.close()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    site = Site(run=tmp_path, live=tmp_path / "live", model=make_tiny_model(tmp_path / "model"))
    for folder in (site.media, site.weights):
        folder.mkdir(parents=True)
    return site


async def learned(runtime: RayRuntime, site: Site, *, num_ranks: int, zero_stage: int) -> tuple[list[float], Weights]:
    """Losses of a few supervised steps, and the weights published after them."""
    config = RunConfig(name="ranks", num_ranks=num_ranks)
    engine = replace(config.learner.engine, zero_stage=zero_stage)
    sft = replace(config.learner.sft, batch_size=8)
    config = replace(config, learner=replace(config.learner, engine=engine, sft=sft))
    meeting = f"file://{site.live}/meet-{uuid.uuid4().hex}"
    ranks = await runtime.spawn_ranks(
        f"learner-{zero_stage}-{num_ranks}",
        build_learner,
        num_ranks,
        config,
        site,
        meeting,
        env=worker_env(num_threads=1, loopback=True),
    )
    chat, store = Chat.from_model(site.model), FolderMediaStore(site.media)
    traces = runtime.put(encode_traces([a_real_trace(chat, store, number) for number in range(8)]))
    await ranks.call_all(Learner.begin, "sft")
    await ranks.call_all(Learner.add_traces, traces)
    losses = [(await ranks.call_all(Learner.imitate, step))[0]["loss"] for step in range(NUM_STEPS)]
    published = [item for item in await ranks.call_all(Learner.publish) if item is not None]
    assert len(published) == 1
    await ranks.end()
    return losses, published[0]


async def test_two_ranks_learn_what_one_learns_at_every_zero_stage(runtime: RayRuntime, site: Site) -> None:
    alone, weights = await learned(runtime, site, num_ranks=1, zero_stage=1)
    expected = {name: value for file in weights.buckets for name, value in load_file(file).items()}
    for zero_stage in (1, 2, 3):
        losses, weights = await learned(runtime, site, num_ranks=2, zero_stage=zero_stage)
        assert losses == pytest.approx(alone, rel=1e-4)
        found = await asyncio.to_thread(lambda files: [load_file(file) for file in files], weights.buckets)
        values = {name: value for part in found for name, value in part.items()}
        assert values.keys() == expected.keys()
        assert all(abs(values[name] - expected[name]).max() < 1e-4 for name in expected)
