"""The composition root: what a run consists of, where it lives, and how its parts are kept together.

`open_system` places a task source, the actors, the replay and the learner's ranks; a `System` reaches them. The
loops in cluster/loop.py say what they do.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from actors.actor import Actor
from actors.tasks.source import TaskSource
from cluster.config import RunConfig
from cluster.factories import Site, build_actor, build_learner, build_replay, build_task_source
from cluster.phases import RlPhase
from cluster.placement import worker_env
from cluster.progress import Progress
from cluster.runs import RunFolder, write_atomically
from cluster.runtime import Resources, Runtime
from common.errors import ActorDied
from common.types import Task, Weights
from learner.learner import Learner
from replay.buffer import ReplayBuffer

if TYPE_CHECKING:
    from cluster.runtime import Handle, Ranks

TASKS_AHEAD = 32
"""Tasks are drawn this many at a time."""
PING_S, CLOSE_S = 10.0, 5.0
"""How long an actor may take to answer before it counts as dead, and a process to close in order."""


@dataclass(slots=True, kw_only=True)
class Tally:
    """What the steps of one phase came to, as they are reported."""

    steps: int = 0
    learn_s: float = 0.0
    num_tokens: float = 0.0
    num_sampled: float = 0.0
    token_kl: float | None = None
    began: float = 0.0


async def start_actor(config: RunConfig, runtime: Runtime, site: Site, number: int) -> Handle[Actor]:
    """An actor on the base model's weights, which it calls version -1. Its epoch, the time in microseconds, is one
    that no earlier start in this run folder had."""
    gpus = config.runtime.num_gpus or 0
    return await runtime.spawn(
        f"actor-{number}",
        cast("Callable[..., Actor]", build_actor),
        config,
        site,
        f"actor-{number}",
        time.time_ns() // 1000,
        -1,
        resources=Resources(num_cpus=1, num_gpus=float(config.generation.tensor_parallel_size) if gpus else 0),
        env=environment(config),
    )


class Acting:
    """The acting half: a task source and the actors. All that evaluating a finished policy needs."""

    def __init__(
        self,
        config: RunConfig,
        *,
        runtime: Runtime,
        site: Site,
        source: Handle[TaskSource],
        progress: Progress,
    ) -> None:
        self.config = config
        self.runtime = runtime
        self.site = site
        self.source = source
        self.progress = progress
        self.actors: list[Handle[Actor]] = []
        self.weights: Weights | None = None
        self._turn = itertools.count()
        self._healing = asyncio.Lock()
        self._tasks: dict[str, list[Task]] = {}

    async def start_actors(self) -> None:
        """Bring `num_actors` up; the engines start side by side."""
        starts = (start_actor(self.config, self.runtime, self.site, i) for i in range(self.config.num_actors))
        self.actors = list(await asyncio.gather(*starts))

    def pick_actor(self) -> Handle[Actor]:
        """The actors in turn."""
        return self.actors[next(self._turn) % len(self.actors)]

    async def heal(self) -> None:
        """Start dead actors again, with the newest weights. Whoever finds one calls this; one does the work."""
        async with self._healing:
            for number, actor in enumerate(self.actors):
                try:
                    await asyncio.wait_for(actor.call(Actor.ping), timeout=PING_S)
                except (ActorDied, TimeoutError):
                    self.progress.note(f"actor-{number} is gone; starting another")
                    await self.runtime.kill(actor)
                    self.actors[number] = await start_actor(self.config, self.runtime, self.site, number)
                    if self.weights is not None:
                        await self.actors[number].call(Actor.load, self.weights)

    async def next_task(self, phase: RlPhase, number: int) -> Task:
        """Task `number` of the phase's split."""
        start = number // TASKS_AHEAD * TASKS_AHEAD
        key = f"{phase.name}/{start}"
        if key not in self._tasks:
            drawn = await self.source.call(TaskSource.tasks, phase.split, start, TASKS_AHEAD, phase.shift)
            self._tasks = {key: drawn, **dict(itertools.islice(self._tasks.items(), 3))}
        return self._tasks[key][number - start]

    async def close(self) -> None:
        """End the engines in order; what is already dead needs no closing."""
        await self._end(actor.call(Actor.close) for actor in self.actors)

    async def _end(self, calls: Iterable[Awaitable[object]]) -> None:
        results = await asyncio.gather(*(asyncio.wait_for(call, CLOSE_S) for call in calls), return_exceptions=True)
        for result in results:
            if isinstance(result, Exception) and not isinstance(result, ActorDied | TimeoutError):
                self.progress.note(f"while closing: {type(result).__name__}: {result}")


class System(Acting):
    """One run, placed: the acting half, the replay and the learner's ranks. Made by `open_system`."""

    def __init__(
        self,
        config: RunConfig,
        *,
        runtime: Runtime,
        run: RunFolder,
        site: Site,
        source: Handle[TaskSource],
        replay: Handle[ReplayBuffer],
        learner: Ranks[Learner],
        progress: Progress,
    ) -> None:
        super().__init__(config, runtime=runtime, site=site, source=source, progress=progress)
        self.run = run
        self.replay = replay
        self.learner = learner
        self.tally = Tally()
        self.reached: tuple[str, int] | None = None
        self.pause_s: list[float] = []

    # Weights

    @property
    def version(self) -> int:
        """The version that the actors hold."""
        assert self.weights is not None, "nothing was broadcast yet"
        return self.weights.version

    async def broadcast(self) -> None:
        """Publish the learner's weights into every live engine. A dead actor is started again, with them."""
        published = await self.learner.call_all(Learner.publish)
        (weights,) = (item for item in published if item is not None)
        write_atomically(self.run.path / "version.json", json.dumps({"next_version": weights.version + 1}))
        loads = (actor.call(Actor.load, weights) for actor in self.actors)
        results = await asyncio.gather(*loads, return_exceptions=True)
        self.weights = weights
        for result in results:
            if isinstance(result, float):
                self.pause_s.append(result)
            elif isinstance(result, ActorDied):
                await self.heal()
            elif isinstance(result, BaseException):
                raise result

    # Steps and state

    def begin_stage(self, stage: str, num_steps: int) -> None:
        """Open a stage of `num_steps` learner steps: a new tally, a new line of progress."""
        self.tally = Tally(began=time.monotonic())
        self.progress.start(stage, num_steps)

    async def after_step(self, phase: str, step: int, metrics: dict[str, float], *, checkpoint: bool) -> None:
        """Report a finished step and, where it is due, make it the one to continue from."""
        tally = self.tally
        self.reached = (phase, step)
        tally.steps += 1
        tally.learn_s += metrics["learn_s"]
        tally.num_tokens += metrics.get("num_tokens", 0.0)
        tally.num_sampled += metrics.get("num_trained_tokens", 0.0)
        tally.token_kl = next((metrics[name] for name in KL_NAMES if name in metrics), tally.token_kl)
        self.run.append_metrics({"phase": phase, **metrics, "step": step, "time_s": time.monotonic() - tally.began})
        shown = {name: metrics[name] for name in SHOWN if name in metrics}
        self.progress.update(step, **shown)
        if checkpoint:
            await self.checkpoint(phase, step)

    async def checkpoint(self, phase: str, step: int, **state: Any) -> None:
        """Save the learner and point the run's state at it; the one before goes."""
        folder = self.run.path / "checkpoints" / f"{phase}-{step:06d}"
        shutil.rmtree(folder, ignore_errors=True)
        await self.learner.call_all(Learner.save, folder)
        self.save_state(phase=phase, step=step, checkpoint=folder.name, **state)
        for old in folder.parent.iterdir():
            if old.name != folder.name:
                shutil.rmtree(old, ignore_errors=True)
        await self.replay.call(ReplayBuffer.release, phase, step)

    async def close(self) -> None:
        """Seal the log, and end the engines and the learner's ranks."""
        await asyncio.gather(super().close(), self._end([self.replay.call(ReplayBuffer.close)]), self.learner.end())

    def save_state(self, **changes: Any) -> None:
        """state.json: the phase and step to continue from, and the rows of phases that are done."""
        write_atomically(self.run.path / "state.json", json.dumps(load_state(self.run.path) | changes, indent=2))


KL_NAMES = ("kl_anchor", "kl_anchor_after", "kl")
SHOWN = ("loss", "reward", "answer", "agreement", "vote_share", "kl", "token_accuracy")
"""Metrics that progress shows where a step has them."""


def load_state(run: Path) -> dict[str, Any]:
    file = run / "state.json"
    state: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return state


def next_version(run: Path) -> int:
    """The first policy version that this run folder has never used."""
    file = run / "version.json"
    return int(json.loads(file.read_text())["next_version"]) if file.exists() else 0


def live_folder(run: Path) -> Path:
    """The run's folder in shared memory: the same for the same run folder, so what a killed run left is found and
    removed."""
    memory = Path("/dev/shm")
    base = memory if os.access(memory, os.W_OK) else Path(tempfile.gettempdir())
    name = hashlib.sha256(str(run.resolve()).encode()).hexdigest()[:12]
    return base / f"pixelis-{run.name}-{name}"


@asynccontextmanager
async def open_site(run: Path, model: Path) -> AsyncIterator[Site]:
    """The run's folders, those in shared memory new and removed at the end. Pictures that the replay kept come back
    with the draws that need them.
    """
    live = live_folder(run)
    shutil.rmtree(live, ignore_errors=True)
    site = Site(run=run, live=live, model=model)
    for folder in (site.media, site.weights):
        folder.mkdir(parents=True)
    try:
        yield site
    finally:
        shutil.rmtree(live, ignore_errors=True)


@asynccontextmanager
async def open_acting(config: RunConfig, *, runtime: Runtime, site: Site, progress: Progress) -> AsyncIterator[Acting]:
    """Place a task source and the actors, on the policy in `site.model`."""
    progress.start("starting the engine")
    source = await runtime.spawn("tasks", build_task_source, config, site, env=environment(config))
    acting = Acting(config, runtime=runtime, site=site, source=source, progress=progress)
    try:
        await acting.start_actors()
        progress.finish()
        yield acting
    finally:
        await acting.close()


@asynccontextmanager
async def open_system(
    config: RunConfig, *, runtime: Runtime, run: RunFolder, site: Site, progress: Progress
) -> AsyncIterator[System]:
    """Place everything; what holds files open is closed at the end."""
    progress.start("starting the engines, the learner and the replay")
    env, gpus = environment(config), config.runtime.num_gpus or 0
    resources = Resources(num_cpus=1, num_gpus=1 if gpus else 0)
    # Ranks of one node meet over a file, which opens no port; ranks of several over the address the runtime gave them.
    meeting = f"file://{site.live}/meet-{uuid.uuid4().hex}" if config.runtime.loopback else "env://"
    source, replay, learner, actors = await asyncio.gather(
        runtime.spawn("tasks", build_task_source, config, site, env=env),
        runtime.spawn("replay", cast("Callable[..., ReplayBuffer]", build_replay), config, site, env=env),
        runtime.spawn_ranks(
            "learner", build_learner, config.num_ranks, config, site, meeting, resources=resources, env=env
        ),
        asyncio.gather(*(start_actor(config, runtime, site, number) for number in range(config.num_actors))),
    )
    system = System(
        config,
        runtime=runtime,
        run=run,
        site=site,
        source=source,
        replay=replay,
        learner=learner,
        progress=progress,
    )
    system.actors = actors
    try:
        progress.finish()
        yield system
    finally:
        await system.close()


def environment(config: RunConfig) -> dict[str, str]:
    """Variables of every process of a run."""
    return worker_env(num_threads=config.runtime.num_threads, loopback=config.runtime.loopback)
