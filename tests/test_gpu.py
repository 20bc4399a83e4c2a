"""What needs a GPU: the engine, the learner and the index on it, with the configuration of `hardware=gpu`."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes.learning import a_real_trace
from fakes.models import make_tiny_model

from cluster.config import load
from common.chat import Chat
from common.media import FolderMediaStore
from common.schema import encode_traces
from common.types import Query, Sampling
from learner.learner import Learner

pytestmark = [pytest.mark.gpu, pytest.mark.system, pytest.mark.timeout(900)]


async def test_published_weights_go_live_on_a_gpu_and_pass_their_canary(tmp_path: Path) -> None:
    from actors.generation import VllmGenerator

    config = load(["experiment=smoke", "hardware=gpu", "generation.canary_tolerance=0.3"])
    model = make_tiny_model(tmp_path / "model")
    store, chat = FolderMediaStore(tmp_path / "media"), Chat.from_model(model)
    learner = Learner(
        config.learner,
        rank=0,
        world_size=1,
        model_folder=model,
        store=store,
        weights_folder=tmp_path / "weights",
        seed=0,
    )
    learner.begin("sft")
    learner.add_traces(encode_traces([a_real_trace(chat, store, number) for number in range(8)]))
    first = learner.imitate(0)["loss"]
    assert [learner.imitate(step)["loss"] for step in range(1, 20)][-1] < first
    weights = learner.publish()
    assert weights is not None
    generator = await VllmGenerator.start(model, chat, store, config.generation)
    try:
        assert 0 < await generator.load(weights) < 5
        turn = chat.question(Query(query_id="q", question="code on the red plate?"), [])
        sample = await generator.generate(turn.token_ids, (), Sampling(temperature=1.0, max_tokens=8, seed=0))
        assert {span.version for span in sample.versions} == {weights.version}
    finally:
        await generator.close()


def test_the_index_on_a_gpu_agrees_with_the_exact_search() -> None:
    import faiss
    import numpy as np

    random = np.random.default_rng(0)
    vectors = random.normal(size=(1000, 64)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, faiss.IndexFlatIP(64))
    index.add(vectors)
    _, found = index.search(vectors[:10], 5)
    exact = np.argsort(-vectors[:10] @ vectors.T, axis=1)[:, :5]
    assert (found == exact).all()
