"""What runs inside each process: builders that the runtime calls there.

A `Site` says where things lie on this node; everything else comes from the run's configuration. Collaborators
arrive built, so only this file and cluster/system.py choose implementations.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.config import RunConfig
from cluster.phases import ImitationPhase
from common.layers import LayeredMediaStore
from common.media import FolderMediaStore

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from actors.actor import Actor
    from actors.config import GenerationConfig
    from actors.tasks.source import PretrainSource, TaskSource
    from common.chat import Chat
    from learner.config import Curriculum, LearnerConfig
    from learner.learner import Learner
    from learner.warmup import Warmup
    from replay.buffer import ReplayBuffer


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Folders of one run on this node. live: in shared memory, gone with the run. model: the base model's directory."""

    run: Path
    live: Path
    model: Path

    @property
    def media(self) -> Path:
        return self.live / "media"

    @property
    def weights(self) -> Path:
        return self.live / "weights"


def build_task_source(config: RunConfig, site: Site) -> TaskSource:
    from actors.tasks.source import TaskSource

    store = FolderMediaStore(site.media)
    return TaskSource(config.world, store, files=config.traces.files, seed=config.seed)


def build_pretrain_source(config: RunConfig, site: Site) -> PretrainSource:
    """Needs only the tokenizer of `site.model`, which the warm-up writes first."""
    from actors.tasks.source import PretrainSource
    from actors.views import see
    from common.chat import Chat

    chat = Chat.from_model(site.model)

    def seen(pixels: NDArray[np.uint8], frame: int | None) -> NDArray[np.uint8]:
        return see(pixels, config.view, chat.vision, frame=frame)

    return PretrainSource(config.world, chat, FolderMediaStore(site.media), seen)


def build_chat(config: RunConfig, model: Path) -> Chat:
    """The tokens of the model in a folder, under the system prompt of its dialect. Raises ModelError, one line."""
    from actors.dialects.choose import dialect_of
    from common.chat import Chat

    system = config.model.system
    if config.model.dialect.tool_list:
        system = dialect_of(config.model.dialect).system(system)
    return Chat.from_model(model, system=system)


async def build_actor(config: RunConfig, site: Site, name: str, epoch: int, version: int) -> Actor:
    """An actor with its engine, its tool workers and its encoder; waits until all of them are ready."""
    from actors.actor import Actor
    from actors.dialects.choose import dialect_of
    from actors.embedding import ClassicalEmbedder
    from actors.generation import VllmGenerator
    from actors.grammar import turn_grammar
    from actors.tools.toolbox import build_toolbox
    from actors.views import Viewer

    store = FolderMediaStore(site.media)
    dialect, chat = dialect_of(config.model.dialect), build_chat(config, site.model)
    toolbox = build_toolbox(config.tools, site.media)
    grammar = turn_grammar(dialect.tools()) if config.generation.grammar else None
    generation = generation_config(config)
    generator = await VllmGenerator.start(site.model, chat, store, generation, version=version, grammar=grammar)
    await toolbox.start()
    return Actor(
        name=name,
        epoch=epoch,
        generator=generator,
        toolbox=toolbox,
        viewer=Viewer(store, chat.vision, config.view),
        embedder=ClassicalEmbedder(),
        chat=chat,
        store=store,
        config=config.actor,
        voting=config.voting,
        emphasis=config.emphasis,
        dialect=dialect,
        traces=replace(config.traces, seed=config.seed),
        again=toolbox.uncached() if config.traces.reenact else None,
    )


async def build_replay(config: RunConfig, site: Site) -> ReplayBuffer:
    from actors.embedding import ClassicalEmbedder
    from replay.config import Drawing, IndexConfig, ReplayConfig
    from replay.opening import open_replay

    encoder = ClassicalEmbedder()
    settings = ReplayConfig(
        folder=site.run / "replay",
        live_media=site.media,
        durability=config.durability,
        drawing=Drawing(selector="in_order" if config.phases.deterministic else "fifo", seed=config.seed),
        drop_zero_variance=config.phases.drop_zero_variance,
        inspectors=config.inspectors,
        index=IndexConfig(encoder=encoder.digest, dimension=encoder.dimension),
    )
    return open_replay(settings)


def build_learner(config: RunConfig, site: Site, meeting: str, *, rank: int, world_size: int) -> Learner:
    """One rank. meeting: where the ranks of this start find each other, a URL that no other start uses."""
    from learner.learner import Learner

    kept = [folder / "media" for folder in config.traces.files]
    return Learner(
        learner_config(config),
        rank=rank,
        world_size=world_size,
        model_folder=site.model,
        store=LayeredMediaStore(site.media, [FolderMediaStore(folder) for folder in kept if folder.is_dir()]),
        weights_folder=site.weights,
        seed=config.seed,
        rendezvous=meeting if world_size > 1 else None,
    )


def build_captioner(config: RunConfig, site: Site, *, rank: int, world_size: int) -> Learner:
    """The learner that finishes the base model: one rank, on captions."""
    from learner.config import RollbackConfig
    from learner.learner import Learner

    pretrain = config.phases.pretrain
    steps = pretrain.captions.num_steps
    schedule = replace(config.learner.sft.schedule, lr=pretrain.caption_lr, num_steps=steps, warmup_steps=20)
    sft = replace(
        config.learner.sft,
        schedule=schedule,
        batch_size=pretrain.caption_batch,
        weighting=True,
        box_weight=0.0,
        point_weight=0.0,
        span_weight=0.0,
        rollback=RollbackConfig(),
        curriculum=curriculum(pretrain.captions),
    )
    return Learner(
        replace(config.learner, sft=sft, lora=None),
        rank=rank,
        world_size=world_size,
        model_folder=site.model,
        store=FolderMediaStore(site.media),
        weights_folder=site.weights,
        seed=config.seed,
    )


def build_warmup(config: RunConfig) -> Warmup:
    from actors.tasks.detection import WORDS
    from learner.base_model import BaseShape
    from learner.warmup import Warmup, WarmupConfig

    pretrain = config.phases.pretrain
    settings = WarmupConfig(
        num_steps=pretrain.num_steps,
        batch_size=pretrain.batch_size,
        lr=pretrain.lr,
        seed=config.seed,
        num_threads=config.runtime.num_threads,
    )
    shape = BaseShape(grid_step=config.world.grid_step, view_side=config.view.side)
    return Warmup(settings, shape, [f" {name}" for name in WORDS])


def generation_config(config: RunConfig) -> GenerationConfig:
    """The engine's settings, with room for the adapters that the learner publishes."""
    lora = config.learner.lora
    rank = lora.rank if lora is not None and lora.publish == "adapter" else 0
    return replace(config.generation, lora_rank=max(rank, config.generation.lora_rank))


def learner_config(config: RunConfig) -> LearnerConfig:
    """The learner's settings with the lengths of the phases filled in, so that no length is written twice."""
    learner, phases = config.learner, config.phases
    sft = replace(
        learner.sft,
        schedule=replace(learner.sft.schedule, num_steps=max(1, phases.sft.num_steps)),
        curriculum=curriculum(phases.sft),
    )
    rft = replace(learner.rft, schedule=replace(learner.rft.schedule, num_steps=max(1, phases.rft.num_steps)))
    ttrl = replace(learner.ttrl, schedule=replace(learner.ttrl.schedule, num_steps=max(1, phases.ttrl.num_steps)))
    return replace(learner, sft=sft, rft=rft, ttrl=ttrl)


def curriculum(phase: ImitationPhase) -> tuple[Curriculum, ...]:
    """Each level alone while it lasts."""
    from learner.config import Curriculum

    entries, done = [], 0
    for number, level in enumerate(phase.levels, 1):
        done += level.num_steps
        entries.append(Curriculum(levels=(number,), until=done / phase.num_steps))
    return tuple(entries)
