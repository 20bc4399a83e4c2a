"""What `pixelis run`, `sft`, `rft`, `adapt`, `eval`, `ask` and `pretrain` do, from a configuration to a summary.

`run`, `sft`, `rft` and `adapt` share a run's folder: each does the phases up to its own that are not done yet. The
last policy stands in `runs/<name>/policy` as a model directory, which `eval` and `ask` load.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path

from actors.actor import Actor, Outcome
from actors.tasks.source import TaskSource
from cluster.benchmarks.machine import describe, versions
from cluster.config import RunConfig, as_values, digest
from cluster.evaluation.arms import Measured, answer, held_out, mean, measure, outside, place_of
from cluster.evaluation.results import Evaluation, compare, item_lines, to_be_read
from cluster.kept_traces import check_sets
from cluster.memory import watched
from cluster.pretraining import base_model, checked, small_model, small_model_folder
from cluster.progress import Progress
from cluster.reporting import Reporter
from cluster.runs import RunFolder, open_run, write_atomically
from cluster.runtime import Runtime
from cluster.summary import Answer, AnsweredCall, Summary
from cluster.system import Acting, System, live_folder, open_acting, open_site, open_system
from cluster.training import ORDER, PhaseName, Trained, train
from common.errors import RunFolderError
from common.types import Clip, Query, Task
from learner.learner import Learner
from replay.buffer import ReplayBuffer
from replay.stats import ReplayStats

REAL_SECTION, WORLD_SECTION = "Real pictures", "Held-out tasks of the world"


async def run(config: RunConfig, *, progress: Progress, resume: bool) -> Summary:
    """All phases, the real pictures, and the report."""
    return await _train(config, "run", ORDER, progress=progress, resume=resume)


async def sft(config: RunConfig, *, progress: Progress, resume: bool) -> Summary:
    """Up to phase 1."""
    return await _train(config, "sft", ORDER[:2], progress=progress, resume=resume)


async def rft(config: RunConfig, *, progress: Progress, resume: bool) -> Summary:
    """Up to phase 2."""
    return await _train(config, "rft", ORDER[:3], progress=progress, resume=resume)


async def adapt(config: RunConfig, *, progress: Progress, resume: bool) -> Summary:
    """Up to phase 3."""
    return await _train(config, "adapt", ORDER, progress=progress, resume=resume)


async def pretrain(config: RunConfig, *, progress: Progress, resume: bool) -> Summary:
    """Make the small base model, again unless `resume`, and say where its training ended."""
    began = time.monotonic()
    async with _placed(config) as runtime:
        folder = small_model_folder(config)
        if not resume:
            shutil.rmtree(folder, ignore_errors=True)
        await small_model(config, runtime, progress)
    progress.note(f"the base model is in {folder}")
    return _summary(config, "pretrain", Trained(), began)


async def eval(config: RunConfig, *, progress: Progress) -> Evaluation:
    """Measure the policy of the run's folder on held-out tasks, or on an outside set: eval.json, eval.html and
    eval.jsonl (a line an outcome) beside summary.json, named eval-<set> for an outside set. Raises DataError, one line.
    """
    began = time.monotonic()
    settings = config.evaluation
    is_outside = bool(settings.qa or settings.data)
    if is_outside:
        from actors.tasks.datasets.readers import open_source

        qa, media = place_of(settings)
        open_source(qa, media, reader=settings.reader)  # a missing set is refused before an engine is started
    async with _acting(config, progress) as acting:
        tasks = await (outside if is_outside else held_out)(acting, settings)
        planned = not is_outside or any(task.chain for task in tasks)
        measured = await measure(acting, tasks, settings.arms, planned=planned)
        back_ends = await acting.pick_actor().call(Actor.back_ends)
    name = f"eval-{Path(settings.qa or settings.data).stem}" if is_outside else "eval"
    page = config.folder / config.name / f"{name}.html"
    return await asyncio.to_thread(_evaluated, config, measured, began, back_ends=back_ends, page=page)


def _evaluated(
    config: RunConfig, measured: Measured, began: float, *, back_ends: dict[str, str], page: Path
) -> Evaluation:
    """What was measured, its files written."""
    from cluster.evaluation.page import render

    settings = config.evaluation
    world = f"{settings.split} split of the world" + (f" under {settings.shift}" if settings.shift else "")
    evaluation = Evaluation(
        name=config.name,
        command="eval",
        tasks=(settings.qa or settings.data) or world,
        num_tasks=len(measured.learned),
        seed=config.seed,
        version=measured.learned[0].version,
        comparison=compare(measured, seed=config.seed),
        shown=to_be_read(measured),
        versions=versions(),
        config=as_values(config),
        back_ends=back_ends,
        machine=str(describe()),
        measuring_s=measured.wall_s,
        wall_s=time.monotonic() - began,
        num_tokens=measured.num_tokens,
        tool_cpu_ms_per_rollout=_tool_cpu_ms(measured.learned),
        page=str(page),
    )
    write_atomically(page.with_suffix(".json"), json.dumps(evaluation.to_json(), indent=2, default=str))
    write_atomically(page.with_suffix(".jsonl"), "".join(f"{json.dumps(line)}\n" for line in item_lines(measured)))
    write_atomically(page, render(evaluation))
    return evaluation


async def ask(config: RunConfig, *, picture: Path, question: str, progress: Progress) -> Answer:
    """Put a question about a picture or a video to the policy of the run's folder."""
    began = time.monotonic()
    async with _acting(config, progress) as acting:
        media = await acting.source.call(TaskSource.media, picture, config.tools.media_limits)
        if isinstance(media, Clip):
            query = Query(query_id="asked", question=question, clip=media)
        else:
            query = Query(query_id="asked", question=question, images=media)
        task = Task(query=query, answer="", kind="exact", family="asked", split="asked")
        outcome = await acting.pick_actor().call(Actor.evaluate, task, strip=True)
    answered = _answer(outcome, name=str(picture), wall_s=time.monotonic() - began)
    return replace(answered, truth=None, right=None)


async def _train(
    config: RunConfig, command: str, wanted: Sequence[PhaseName], *, progress: Progress, resume: bool
) -> Summary:
    began = time.monotonic()
    folder = config.folder / config.name
    opened = open_run(folder, config_digest=digest(config), resume=resume, config=as_values(config))
    with opened as run_folder, swept(live_folder(folder)):
        async with watched() as peak, _placed(config) as runtime:
            model = await base_model(config, runtime, progress)
            await asyncio.to_thread(check_sets, config, model, folder)
            async with (
                open_site(folder, model) as site,
                open_system(config, runtime=runtime, run=run_folder, site=site, progress=progress) as system,
            ):
                trained = await train(system, wanted)
                await _keep_policy(system, folder / "policy")
                real = await _real_pictures(system)
                summary = _summary(
                    config,
                    command,
                    trained,
                    began,
                    back_ends=await system.pick_actor().call(Actor.back_ends),
                    stats=await system.replay.call(ReplayBuffer.stats),
                    tool_cpu_ms=_tool_cpu_ms(trained.outcomes),
                    answers=tuple(_answer(outcome, name=outcome.task_id) for outcome in real),
                    peak_memory_gib=peak.peak_gib,
                )
                await _report(system, run_folder, summary, {WORLD_SECTION: trained.outcomes, REAL_SECTION: real})
    return summary


async def _keep_policy(system: System, folder: Path) -> None:
    """The learner's weights as a model directory; it appears whole."""
    aside = folder.with_name(".policy")
    shutil.rmtree(aside, ignore_errors=True)
    await system.learner.call_all(Learner.export, aside)
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)


async def _real_pictures(system: System) -> tuple[Outcome, ...]:
    tasks = await system.source.call(TaskSource.real)
    system.progress.start("real pictures", len(tasks))
    return await answer(system, tasks, strips=len(tasks))


async def _report(
    system: System, run_folder: RunFolder, summary: Summary, sections: dict[str, tuple[Outcome, ...]]
) -> None:
    """summary.json, then report.html, written by a process that may hold pictures."""
    system.progress.start("writing the report")
    run_folder.write_json("summary.json", json.loads(json.dumps(summary.to_json(), default=str)))
    reporter = await system.runtime.spawn("report", Reporter, run_folder.path, system.site.media)
    page = await reporter.call(Reporter.write, summary.to_json(), sections)
    system.progress.finish()
    system.progress.note(f"report: {page}")


@contextmanager
def swept(live: Path) -> Iterator[None]:
    """Remove a folder in shared memory after the processes that write there are gone."""
    try:
        yield
    finally:
        shutil.rmtree(live, ignore_errors=True)


@asynccontextmanager
async def _placed(config: RunConfig) -> AsyncIterator[Runtime]:
    """The runtime that the configuration asks for; its processes are gone at the end."""
    runtime = make_runtime(config)
    try:
        yield runtime
    finally:
        await runtime.close()


def make_runtime(config: RunConfig) -> Runtime:
    if config.runtime.kind == "local":
        from cluster.local_runtime import LocalRuntime

        return LocalRuntime()
    from cluster.ray_runtime import RayRuntime

    return RayRuntime.start(config.runtime)


@asynccontextmanager
async def _acting(config: RunConfig, progress: Progress) -> AsyncIterator[Acting]:
    """Actors on the policy of the run's folder, or on model.path where that is given. Raises UserError, one line."""
    folder = config.folder / config.name
    policy = Path(config.model.path) if config.model.path else folder / "policy"
    if not config.model.path and not (policy / "config.json").is_file():
        raise RunFolderError(
            f"{folder} holds no policy yet; run `pixelis run name={config.name}` first, or set model.path"
        )
    site_folder = folder / f".acting-{os.getpid()}"
    with swept(live_folder(site_folder)):
        async with (
            _placed(config) as runtime,
            open_site(site_folder, checked(policy)) as site,
            open_acting(config, runtime=runtime, site=site, progress=progress) as acting,
        ):
            yield acting


def _answer(outcome: Outcome, *, name: str, wall_s: float = 0.0) -> Answer:
    calls = tuple(
        AnsweredCall(
            name=shown.tool,
            arguments=json.loads(shown.arguments),
            text=shown.observation,
            error=shown.error,
        )
        for shown in outcome.strip
        if shown.tool
    )
    return Answer(
        picture=name,
        question=outcome.question,
        answer=outcome.answer,
        calls=calls,
        truth=outcome.truth,
        right=outcome.score >= 0.5,
        wall_s=wall_s or outcome.generate_s + outcome.tools_s,
    )


def _tool_cpu_ms(outcomes: Sequence[Outcome]) -> float | None:
    return 1000 * mean([outcome.tools_cpu_s for outcome in outcomes]) if outcomes else None


def _summary(
    config: RunConfig,
    command: str,
    trained: Trained,
    began: float,
    *,
    back_ends: dict[str, str] | None = None,
    stats: ReplayStats | None = None,
    tool_cpu_ms: float | None = None,
    answers: tuple[Answer, ...] = (),
    peak_memory_gib: float | None = None,
) -> Summary:
    trained_rows = [row for row in trained.rows if row.name in ("rft", "ttrl")]
    return Summary(
        name=config.name,
        command=command,
        phases=tuple(trained.rows),
        versions=versions(),
        config=as_values(config),
        back_ends=back_ends or {},
        machine=str(describe()),
        wall_s=time.monotonic() - began,
        rollout_tokens_per_s=_mean_rate([row.rollout_tokens_per_s for row in trained_rows]),
        learner_tokens_per_s=_mean_rate([row.learner_tokens_per_s for row in trained_rows]),
        max_policy_lag_seen=None if stats is None else stats.max_policy_lag_seen,
        tool_cpu_ms_per_rollout=tool_cpu_ms,
        peak_memory_gib=peak_memory_gib,
        answers=answers,
    )


def _mean_rate(rates: Sequence[float | None]) -> float | None:
    known = [rate for rate in rates if rate is not None]
    return mean(known) if known else None
