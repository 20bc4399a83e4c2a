"""The learner: turns rollouts into a better policy.

One plain object a rank. All ranks are called together with the same arguments; each takes its share of the tokens,
so their weights stay equal. A phase begins, steps follow, and each step's weights can be published.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from common.chat import Chat
from common.errors import ContractError
from common.media import FolderMediaStore
from common.schema import decode_rollouts, decode_traces
from common.seeds import seed_of
from common.types import Canary, Draw, Trace, Weights
from common.types import Tensor as TensorRecord
from learner import checkpoint
from learner.adaptation import Adaptation
from learner.anchor import Anchor
from learner.arguments import Marginals
from learner.batch import Row, micro_batches, row_of_rollout, row_of_trace, starts
from learner.coherence import Band, adjacent_cosines, fit_band
from learner.config import LearnerConfig
from learner.engine import build_engine, everything
from learner.lora import (
    ADAPTER_FILE,
    ADAPTER_SETTINGS,
    AdapterAnchor,
    Adapters,
    file_name,
    in_adapter,
    merged,
    settings_text,
)
from learner.policy import FeatureInput, PatchInput, Policy, feeds_once, load_backbone
from learner.publishing import BucketWriter, canary_trace, export
from learner.reinforce import Reinforcement
from learner.supervised import KEPT, Imitation
from learner.trainer import Forward, PictureInput, Trainer
from learner.views import Views, pixel_shape

Phase = Literal["sft", "rft", "ttrl"]
KEPT_VERSIONS = 3
"""Published folders kept: one may be loading while the next is written."""
NUM_BAND_TRACES = 64


class Learner:
    """One rank of the learner."""

    def __init__(
        self,
        config: LearnerConfig,
        *,
        rank: int,
        world_size: int,
        model_folder: Path,
        store: FolderMediaStore,
        weights_folder: Path,
        seed: int,
        rendezvous: str | None = None,
    ) -> None:
        """Load the model and join the other ranks at `rendezvous` (torch's init_method URL; not needed with one
        rank)."""
        torch.set_num_threads(config.engine.num_threads)
        torch.use_deterministic_algorithms(True, warn_only=True)
        self._config = config
        self._rank = rank
        self._world_size = world_size
        self._model_folder = Path(model_folder)
        self._store = store
        self._weights_folder = Path(weights_folder)
        self._seed = seed
        self._chat = Chat.from_model(self._model_folder)
        self._traces: dict[str, Trace] = {}
        self._trace_rows: dict[str, Row] = {}
        self._marginals = Marginals()
        self._phase: Phase | None = None
        self._work: Imitation | Reinforcement | Adaptation | None = None
        self._anchor: Anchor | None = None
        self._average: Anchor | None = None
        self._step = 0
        self._version: int | None = None
        self._next_version = 0
        self._held: int | None = None
        self._trainer = self._build(rendezvous)

    def _build(self, rendezvous: str | None) -> Trainer:
        config, engine_config = self._config, self._config.engine
        dtype = getattr(torch, engine_config.dtype)
        backbone = load_backbone(self._model_folder, dtype=dtype).to(engine_config.device)
        views = Views(self._store, self._chat.vision, pixel_shape(self._model_folder, self._chat.vision))
        self._feature_size = int(backbone.config.text_config.hidden_size)
        self._features: FeatureInput | None = None
        pictures: PictureInput = PatchInput(views)
        if config.freeze_vision:
            backbone.model.visual.requires_grad_(False)
            if feeds_once(backbone):
                pictures = self._features = FeatureInput(backbone, views, max_bytes=config.feature_cache_bytes)
        self._adapters = Adapters(backbone, config.lora, seed=seed_of(self._seed, "lora")) if config.lora else None
        policy = Policy(backbone)
        engine = build_engine(
            policy, engine_config, rank=self._rank, world_size=self._world_size, rendezvous=rendezvous
        )
        forward = Forward(
            engine,
            pictures,
            self._chat,
            budget=config.micro_batch_tokens,
            packing=config.packing,
            device=engine_config.device,
            rank=self._rank,
            world_size=self._world_size,
        )
        return Trainer(engine, forward, of_policy=in_adapter if config.lora else everything)

    # Phases

    def begin(self, phase: Phase) -> None:
        """Start `phase` from the weights now held: a fresh optimiser, step 0.

        RFT takes them as its anchor; TTRL keeps an anchor it finds, else takes them.
        """
        self._trainer.engine.forget()
        self._step = 0
        if phase == "rft" or (phase == "ttrl" and self._anchor is None):
            self._anchor = self._frozen("anchor")
            self._anchor.take(self._trainer.held())
        if phase == "ttrl":
            self._average = self._frozen("average")
            self._average.take(self._trainer.held())
        self._assemble(phase)
        if isinstance(self._work, Reinforcement):
            self._work.band = self._fitted_band(self._work.band)

    def _assemble(self, phase: Phase) -> None:
        config, trainer, size = self._config, self._trainer, self._feature_size
        self._phase = phase
        if phase == "sft":
            self._work = Imitation(trainer, config.sft, config.engine, feature_size=size, seed=self._seed)
        elif phase == "rft":
            assert self._anchor is not None
            self._work = Reinforcement(
                trainer,
                self._anchor,
                config.rft,
                feature_size=size,
                pooled=self._features.pooled if self._features else None,
                seed=seed_of(self._seed, "curiosity"),
            )
        else:
            assert self._anchor is not None and self._average is not None
            self._work = Adaptation(trainer, self._anchor, self._average, config.ttrl)

    def _frozen(self, name: Literal["anchor", "average"]) -> Anchor:
        """A frozen policy to be filled: an adapter beside the policy's, or a whole network (an average's in fp32)."""
        trainer, estimator = self._trainer, self._config.kl_estimator
        if self._adapters is not None:
            return AdapterAnchor(name, self._adapters, trainer.engine, trainer.forward.over, estimator=estimator)
        dtype = torch.float32 if name == "average" else getattr(torch, self._config.engine.dtype)
        backbone = load_backbone(self._model_folder, dtype=dtype).to(self._config.engine.device)
        network = Policy(backbone).requires_grad_(False)
        return Anchor(network, trainer.forward.over(network), estimator=estimator)

    @torch.no_grad()
    def _fitted_band(self, fallback: Band) -> Band:
        """The coherence band of the traces at hand under the anchor; every rank computes the same."""
        assert self._anchor is not None
        rows = []
        for key in sorted(self._traces)[:NUM_BAND_TRACES]:
            edges = starts(self._traces[key].turns)
            acted = [
                stop - 1
                for turn, stop in zip(self._traces[key].turns, edges[1:], strict=True)
                if turn.role == "assistant"
            ]
            rows.append(replace(self._trace_rows[key], aims={}, probes=np.array(acted, np.int64)))
        forward = self._trainer.forward.over(self._anchor.network)
        cosines = [np.zeros(0)]
        lengths = [row.length for row in rows]
        for members in micro_batches(lengths, range(len(rows)), budget=self._config.micro_batch_tokens):
            found = forward.once([rows[i] for i in members], tuple(members))
            for steps in found.hidden.float().cpu().split([len(rows[i].probes) for i in members]):
                cosines.append(adjacent_cosines(steps.numpy()))
        return fit_band(np.concatenate(cosines), fallback=fallback)

    # Steps

    def add_traces(self, traces: bytes) -> int:
        """Take traces to imitate (one Arrow IPC stream). Returns how many are at hand."""
        for trace in decode_traces(traces):
            row = row_of_trace(trace, self._chat)
            if trace.trace_id not in self._traces:
                self._marginals.add(row.slots, row.ids[row.trained])
            self._traces[trace.trace_id], self._trace_rows[trace.trace_id] = trace, row
        return len(self._traces)

    def imitate(self, step: int) -> dict[str, float]:
        """One supervised step on traces at hand. Collective."""
        assert isinstance(self._work, Imitation), "begin('sft') comes first"
        started = time.perf_counter()
        keys = sorted(self._traces)
        levels = [self._traces[key].level for key in keys]
        metrics = self._work.learn([self._trace_rows[key] for key in keys], levels, step=step)
        guessed = self._marginals.entropy()
        if guessed is not None:
            metrics["argument_entropy"] = guessed
        return self._done(step, metrics, started)

    def step(self, draw: Draw) -> dict[str, float]:
        """One step on rollouts drawn from the replay. Collective. Raises ContractError for rollouts that break the
        token contract."""
        started = time.perf_counter()
        rollouts = decode_rollouts(draw.rollouts)
        rows = [row_of_rollout(rollout, self._chat) for rollout in rollouts]
        fresh = [{r.oldest_version, r.newest_version} == {self._held} for r in rollouts]
        if isinstance(self._work, Reinforcement):
            metrics = self._work.step(rollouts, rows, fresh=fresh, step=draw.step)
        elif isinstance(self._work, Adaptation):
            metrics = self._work.step(rollouts, rows, draw.consensus, fresh=fresh, step=draw.step)
        else:
            raise ContractError("rollouts are learned from in the phases rft and ttrl only")
        metrics |= {"num_rollouts": len(rollouts), "num_fresh": sum(fresh)}
        return self._done(draw.step, metrics, started)

    def _done(self, step: int, metrics: dict[str, float], started: float) -> dict[str, float]:
        self._step, self._held = step + 1, None
        return {"step": step, **metrics, "learn_s": time.perf_counter() - started}

    # Weights

    def publish(self) -> Weights | None:
        """Write the weights now held as the next version. Collective; rank 0 returns it, the others None."""
        version, parent = self._next_version, self._version
        lora = self._config.lora
        adapter = lora is not None and lora.publish == "adapter"
        write = self._write_adapter if adapter else self._write
        written = write(self._weights_folder / f"v{version:08d}")
        canary = self._canary()
        self._version = self._held = version
        self._next_version = version + 1
        if written is None:
            return None
        buckets, records = written
        for old in sorted(self._weights_folder.glob("v*"))[:-KEPT_VERSIONS]:
            shutil.rmtree(old, ignore_errors=True)
        return Weights(
            version=version,
            parent=parent,
            step=self._step,
            buckets=buckets,
            tensors=tuple(records),
            canary=canary,
            adapter=adapter,
        )

    def export(self, folder: Path) -> None:
        """Write the weights now held as a transformers folder with the model's tokenizer and processor. Collective."""
        aside = self._weights_folder / "export"
        written = self._write(aside)
        if written is not None:
            export(Path(folder), self._model_folder, *written)
            shutil.rmtree(aside)
        self._barrier()

    def _write(self, folder: Path) -> tuple[tuple[str, ...], list[TensorRecord]] | None:
        """Whole weights, an adapter added in."""
        writer = BucketWriter(folder, bucket_bytes=self._config.bucket_bytes) if self._rank == 0 else None
        weights = self._trainer.engine.weights()
        for name, tensor in weights if self._adapters is None else merged(weights, self._adapters.scale):
            if writer is not None:
                writer.add(name, tensor)
        return (writer.close(), writer.records) if writer is not None else None

    def _write_adapter(self, folder: Path) -> tuple[tuple[str, ...], list[TensorRecord]] | None:
        """The policy's adapter alone, as a folder that peft and vLLM load."""
        assert self._config.lora is not None
        writer = BucketWriter(folder, only=ADAPTER_FILE) if self._rank == 0 else None
        for name, tensor in self._trainer.held():
            if writer is not None:
                writer.add(file_name(name), tensor)
        if writer is None:
            return None
        writer.note(ADAPTER_SETTINGS, settings_text(self._config.lora))
        return writer.close(), writer.records

    @torch.no_grad()
    def _canary(self) -> Canary:
        trace = canary_trace(self._chat, self._store)
        found = self._trainer.forward.once([row_of_trace(trace, self._chat)], (0,))
        prompt, answer = trace.turns
        return Canary(
            prompt_ids=prompt.token_ids,
            images=prompt.images,
            token_ids=answer.token_ids,
            logprobs=tuple(found.logprobs.cpu().tolist()),
        )

    # State

    def save(self, folder: Path) -> None:
        """Write all that the next step depends on, except the traces. Collective."""
        assert self._phase is not None, "begin comes first"
        values, shard, shared = self._lasting()
        values |= {
            "phase": self._phase,
            "step": self._step,
            "version": self._version,
            "next_version": self._next_version,
            "held": self._held,
            "zero_stage": self._config.engine.zero_stage,
        }
        state = checkpoint.Checkpoint(values=values, shard=self._trainer.engine.state() | shard, shared=shared)
        checkpoint.save(Path(folder), state, rank=self._rank, world_size=self._world_size, barrier=self._barrier)

    def restore(self, folder: Path, next_version: int = 0) -> int:
        """Continue from `save`, instead of `begin`. Versions go on from `next_version` if that is higher. Returns
        the next step."""
        found = checkpoint.load(Path(folder), rank=self._rank, world_size=self._world_size)
        values = found.values
        self._trainer.engine.load_state({k: v for k, v in found.shard.items() if not k.startswith(KEPT)})
        if values["anchor"]:
            self._anchor = self._frozen("anchor")
            self._anchor.take(_prefixed(found.shared, "anchor."))
        if values["average"]:
            self._average = self._frozen("average")
            self._average.take(_prefixed(found.shared, "average."))
        self._assemble(values["phase"])
        self._resume(values, found.shard, found.shared)
        self._step, self._version, self._held = values["step"], values["version"], values["held"]
        self._next_version = max(values["next_version"], next_version)
        return self._step

    def _lasting(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
        """What a phase keeps between steps: JSON values, this rank's tensors, and those that all share."""
        values: dict[str, Any] = {"anchor": self._anchor is not None, "average": self._average is not None}
        shard: dict[str, Tensor] = {}
        shared: dict[str, Tensor] = {}
        for name, frozen in (("anchor", self._anchor), ("average", self._average)):
            if frozen is not None:
                shared |= {f"{name}.{key}": tensor for key, tensor in frozen.named_weights()}
        work = self._work
        if isinstance(work, Imitation):
            lasting, shard, own = work.state()
            values |= lasting
            shared |= own
        elif isinstance(work, Reinforcement):
            shared |= checkpoint.pack_optimiser(work.curiosity.optimiser, "curiosity")
            values |= {
                "beta": work.beta,
                "baselines": work.curiosity.baselines,
                "band": [work.band.centre, work.band.width],
            }
        elif isinstance(work, Adaptation):
            values |= {"beta": work.beta}
        return values, shard, shared

    def _resume(self, values: dict[str, Any], shard: dict[str, Tensor], shared: dict[str, Tensor]) -> None:
        work = self._work
        if isinstance(work, Imitation):
            work.load_state(values, shard, shared)
        elif isinstance(work, Reinforcement):
            checkpoint.unpack_optimiser(work.curiosity.optimiser, shared, "curiosity")
            work.curiosity.baselines = {tool: tuple(pair) for tool, pair in values["baselines"].items()}
            work.band = replace(work.band, centre=values["band"][0], width=values["band"][1])
            work.beta = values["beta"]
        elif isinstance(work, Adaptation):
            work.beta = values["beta"]

    def _barrier(self) -> None:
        self._trainer.engine.total(torch.zeros(1))

    def close(self) -> None:
        self._trainer.engine.close()


def _prefixed(tensors: dict[str, Tensor], prefix: str) -> list[tuple[str, Tensor]]:
    return [(name.removeprefix(prefix), tensor) for name, tensor in tensors.items() if name.startswith(prefix)]
