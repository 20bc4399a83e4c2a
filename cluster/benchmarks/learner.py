"""`learner_vs_deepspeed`: tokens a second of our supervised step, against a bare DeepSpeed step on the same batch.

The peer is the stock model under `deepspeed.initialize`, its vision tower frozen as ours is, given ready tensors:
forward with labels, backward, step. Ours begins earlier (it draws traces, pads, looks up features, weighs tokens)
and keeps the features of a frozen tower, so a ratio above 1 is possible and a ratio below it is what our step costs.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.benchmarks.harness import Figure, compared, interleaved
from cluster.benchmarks.models import bench_model
from cluster.benchmarks.recorded import TURNS
from common.chat import Chat, canonical_json
from common.media import FolderMediaStore, pixels_of, put_view
from common.types import Query, Trace, Turn

if TYPE_CHECKING:
    from cluster.config import RunConfig
    from cluster.progress import Progress

BATCH, STEPS_A_ROUND = 48, 4
TARGET = 0.85


def measure(config: RunConfig, progress: Progress, rounds: int) -> Sequence[Figure]:
    from learner.config import ScheduleConfig
    from learner.learner import Learner

    with tempfile.TemporaryDirectory(prefix="pixelis-bench-") as folder:
        root = Path(folder)
        model = bench_model(config, root)
        store = FolderMediaStore(root / "media")
        chat = Chat.from_model(model)
        traces = [recorded_trace(chat, store, number) for number in range(BATCH)]
        engine = replace(config.learner.engine, backend="deepspeed")
        schedule = ScheduleConfig(lr=1e-4, num_steps=10_000)
        sft = replace(config.learner.sft, batch_size=BATCH, box_weight=0.0, schedule=schedule, curriculum=())
        learner = Learner(
            replace(config.learner, engine=engine, sft=sft),
            rank=0,
            world_size=1,
            model_folder=model,
            store=store,
            weights_folder=root / "weights",
            seed=config.seed,
        )
        learner.begin("sft")
        learner.add_traces(encoded(traces))
        bare = BareDeepSpeed(model, chat, store, traces)
        tokens = sum(len(turn.token_ids) for trace in traces for turn in trace.turns)
        steps = iter(range(10_000))

        async def ours() -> float:
            began = time.perf_counter()
            counted = sum(learner.imitate(next(steps))["num_tokens"] for _ in range(STEPS_A_ROUND))
            return counted / (time.perf_counter() - began)

        async def peer() -> float:
            began = time.perf_counter()
            for _ in range(STEPS_A_ROUND):
                bare.step()
            return STEPS_A_ROUND * tokens / (time.perf_counter() - began)

        mine, theirs = asyncio.run(interleaved(ours, peer, rounds=rounds))
        learner.close()
    figure = compared(
        "learner_vs_deepspeed", mine, theirs, unit="tokens/s", against="bare DeepSpeed step", target=TARGET
    )
    return [figure]


def encoded(traces: Sequence[Trace]) -> bytes:
    from common.schema import encode_traces

    return encode_traces(traces)


def recorded_trace(chat: Chat, store: FolderMediaStore, number: int) -> Trace:
    """The recording as a trace, with a picture and a crop of its own."""
    random = np.random.default_rng(number)
    side = 64
    view, crop = (put_view(store, random.integers(0, 255, (side, side, 3), dtype=np.uint8)) for _ in range(2))
    turns = (
        chat.question(Query(query_id=str(number), question="code on the red plate?"), [view]),
        Turn(role="assistant", token_ids=chat.written(TURNS[0])),
        chat.observation(canonical_json({"image": "image_2"}), crop),
        Turn(role="assistant", token_ids=chat.written(TURNS[1])),
        chat.observation(canonical_json({"text": "493"}), None),
        Turn(role="assistant", token_ids=chat.written(TURNS[2])),
    )
    weights = tuple(float(turn.role == "assistant") for turn in turns for _ in turn.token_ids)
    query = Query(query_id=str(number), question="code on the red plate?")
    return Trace(
        trace_id=f"recorded-{number:03d}",
        family="recorded",
        level=1,
        kind="golden",
        query=query,
        turns=turns,
        weights=weights,
    )


class BareDeepSpeed:
    """The stock model under DeepSpeed, and one batch as tensors. All traces have the same length, so nothing is
    padded."""

    def __init__(self, model: Path, chat: Chat, store: FolderMediaStore, traces: Sequence[Trace]) -> None:
        import deepspeed
        import torch
        from PIL import Image
        from transformers import AutoImageProcessor, AutoModelForImageTextToText

        network = AutoModelForImageTextToText.from_pretrained(model, dtype=torch.float32)
        network.model.visual.requires_grad_(False)
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        size = sum(parameter.numel() for parameter in trained)
        settings = {
            "train_micro_batch_size_per_gpu": len(traces),
            "gradient_clipping": 1.0,
            "zero_optimization": {"stage": 1, "reduce_bucket_size": size, "allgather_bucket_size": size},
            "zero_allow_untested_optimizer": True,
            "steps_per_print": 10**9,
        }
        optimizer = torch.optim.AdamW(trained, lr=1e-4)
        self._engine, *_ = deepspeed.initialize(
            model=network, optimizer=optimizer, config=settings, dist_init_required=False
        )
        ids = torch.tensor([[token for turn in trace.turns for token in turn.token_ids] for trace in traces])
        weights = torch.tensor([trace.weights for trace in traces])
        views = [Image.fromarray(pixels_of(store, view)) for t in traces for turn in t.turns for view in turn.images]
        pictures = AutoImageProcessor.from_pretrained(model)(images=views, return_tensors="pt")
        self._batch: dict[str, Any] = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "mm_token_type_ids": (ids == chat.image_pad).int(),
            "labels": ids.masked_fill(weights == 0, -100),
            **pictures,
        }

    def step(self) -> None:
        loss = self._engine(**self._batch).loss
        self._engine.backward(loss)
        self._engine.step()
