"""The base model of a run: a directory that was given, the small one that comes with this project, or one made anew.

warm-up    the vision tower learns to see (learner/warmup.py)
captions   the language side learns what the words mean, how a place is written, and to copy
(actors/tasks/captions.py)
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from actors.tasks.source import PretrainSource
from cluster.config import RunConfig
from cluster.factories import Site, build_captioner, build_pretrain_source, build_warmup
from cluster.loop import Chunk, imitate
from cluster.progress import Progress
from cluster.runs import write_atomically
from cluster.runtime import Ranks, Ref, Runtime
from cluster.system import environment, open_site
from common.errors import ModelError
from common.media import content_digest
from learner.learner import Learner
from learner.warmup import Warmup

if TYPE_CHECKING:
    from cluster.runtime import Handle

SHIPPED = Path(__file__).parents[1] / "actors" / "models" / "small"
SCENES_A_CALL = 250
STEPS_A_CALL = 50


async def base_model(config: RunConfig, runtime: Runtime, progress: Progress) -> Path:
    """The base model's directory, made now if it is to be fresh and is not there yet. Raises ModelError, one line."""
    if config.model.path:
        return checked(Path(config.model.path))
    if config.model.fresh:
        return await small_model(config, runtime, progress)
    return shipped(config)


def model_at_hand(config: RunConfig) -> Path:
    """The base model's directory, where nothing has to be made for it. Raises ModelError, one line."""
    if config.model.path:
        return checked(Path(config.model.path))
    if not config.model.fresh:
        return shipped(config)
    folder = small_model_folder(config)
    if not (folder / "pretrain.json").is_file():
        raise ModelError(f"{folder}: the base model is not made yet; run `pixelis pretrain` with these keys first")
    return folder


def shipped(config: RunConfig) -> Path:
    """The small model that comes with this project. Raises ModelError where it sees or writes otherwise than asked."""
    made = json.loads((checked(SHIPPED) / "pretrain.json").read_text())
    sees, writes = made["view"]["side"], made["world"]["grid_step"]
    if (config.view.kind, config.view.side, config.world.grid_step) != ("fixed", sees, writes):
        raise ModelError(
            f"the small model that comes with pixelis sees views of {sees} px and writes on a grid of {writes}; "
            "set view.kind=fixed, view.side and world.grid_step to that, or model.fresh=true to make another"
        )
    return SHIPPED


async def small_model(config: RunConfig, runtime: Runtime, progress: Progress) -> Path:
    """The small model's directory, made now if it is not there."""
    folder = small_model_folder(config)
    if not (folder / "pretrain.json").is_file():
        await _pretrain(config, runtime, progress, folder)
    return folder


def checked(folder: Path) -> Path:
    """`folder` when it holds a model. Raises ModelError, one line."""
    if not folder.is_dir():
        raise ModelError(f"{folder}: no such directory; set model.path to one that holds a model")
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder}: no config.json; set model.path to a transformers model directory")
    if not any(folder.glob("*.safetensors")):
        raise ModelError(f"{folder}: no weights (*.safetensors); download the model completely")
    return folder


def small_model_folder(config: RunConfig) -> Path:
    """Where the small model of this configuration lies: named by what it is made from."""
    made_from = [asdict(config.phases.pretrain), asdict(config.world), asdict(config.view), config.seed]
    name = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:12]
    return config.folder / f"base-{name}"


async def _pretrain(config: RunConfig, runtime: Runtime, progress: Progress, folder: Path) -> None:
    """Make the small model in `folder`; it appears whole."""
    aside = folder.with_name(f".{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    env = environment(config)
    async with open_site(aside, aside / "model") as site:
        warmup = await runtime.spawn("warmup", build_warmup, config, env=env)
        await warmup.call(Warmup.save, site.model)  # the tokenizer is final; captions need it
        source = await runtime.spawn("pictures", build_pretrain_source, config, site, env=env)
        try:
            curve = await _warm_up(config, warmup, source, progress)
            await warmup.call(Warmup.save, site.model)
        finally:
            await runtime.kill(warmup)
        try:
            curve += await _caption(config, runtime, site, source, progress)
        finally:
            await runtime.kill(source)
        made_from = {
            "phase": asdict(config.phases.pretrain),
            "world": asdict(config.world),
            "view": asdict(config.view),
            "seed": config.seed,
            "digest": content_digest((site.model / "model.safetensors").read_bytes()),
        }
        write_atomically(site.model / "pretrain.json", json.dumps({**made_from, "curve": curve}, indent=2))
        shutil.rmtree(folder, ignore_errors=True)
        site.model.rename(folder)
    shutil.rmtree(aside, ignore_errors=True)


async def _warm_up(
    config: RunConfig, warmup: Handle[Warmup], source: Handle[PretrainSource], progress: Progress
) -> list[dict[str, float]]:
    phase = config.phases.pretrain
    cells = config.view.side // 16
    progress.start("base model: drawing scenes", phase.num_scenes)
    for start in range(0, phase.num_scenes, SCENES_A_CALL):
        count = min(SCENES_A_CALL, phase.num_scenes - start)
        await warmup.call(Warmup.add, source.send(PretrainSource.scenes, start, count, cells))
        progress.update(start + count)
    progress.start("base model: learning to see", phase.num_steps)
    curve: list[dict[str, float]] = []
    for start in range(0, phase.num_steps, STEPS_A_CALL):
        rows = await warmup.call(Warmup.train, STEPS_A_CALL)
        curve += [{"warmup": 1.0, **row} for row in rows]
        progress.update(min(start + STEPS_A_CALL, phase.num_steps), **rows[-1])
    progress.finish()
    return curve


async def _caption(
    config: RunConfig,
    runtime: Runtime,
    site: Site,
    source: Handle[PretrainSource],
    progress: Progress,
) -> list[dict[str, float]]:
    phase = config.phases.pretrain.captions
    learner: Ranks[Learner] = await runtime.spawn_ranks(
        "captioner", build_captioner, 1, config, site, env=environment(config)
    )
    curve: list[dict[str, float]] = []

    def make(chunk: Chunk) -> Ref[bytes]:
        return source.send(
            PretrainSource.captions,
            chunk.start,
            chunk.count,
            num_plates=chunk.num_plates,
            mixed=chunk.mixed,
            level=chunk.level,
        )

    async def after_step(step: int, metrics: dict[str, float]) -> None:
        if step % STEPS_A_CALL == 0 or step == phase.num_steps:
            curve.append({"caption": 1.0, "step": step, "loss": metrics["loss"]})
        progress.update(step, loss=metrics["loss"], token_accuracy=metrics["token_accuracy"])

    try:
        await learner.call_all(Learner.begin, "sft")
        progress.start("base model: learning words and places", phase.num_steps)
        await imitate(phase, learner=learner, make=make, after_step=after_step)
        await learner.call_all(Learner.export, site.model.with_name("export"))
        progress.finish()
    finally:
        await learner.end()
    shutil.rmtree(site.model)
    site.model.with_name("export").rename(site.model)
    return curve
