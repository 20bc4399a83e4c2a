"""Executes tool calls: one rollout's call in, an observation out, whatever happens.

A call is parsed, its references are resolved in the rollout's workspace, and what remains is a job: a pure function
of pictures by content. Its key is the hash of the tool, its version, its back end and the job, so siblings, arms and
seeds that ask the same share one execution: from memory, from disk, or by waiting for the one that already runs.
"""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from actors.tools.arguments import parse
from actors.tools.cache import ResultCache
from actors.tools.catalogue import describe_back_ends, furnish, tool_named
from actors.tools.chance import draw_call
from actors.tools.config import ToolsConfig
from actors.tools.errors import ToolError
from actors.tools.frames import Reply
from actors.tools.pool import WorkerPool
from actors.tools.ports import Job, Plan, Seen, Tool
from actors.tools.runners import InProcess, Runner
from actors.tools.workspace import Workspace
from common.chat import canonical_json
from common.media import FolderMediaStore, content_digest
from common.types import ErrorCode, ExecutedCall, Observation, Query, ToolCall

_RETURNS = {"ZOOM": ("images",), "SEG": ("masks",), "TRK": ("tracks",)}
"""What a rollout may name one more of after a call."""

_log = logging.getLogger(__name__)


class Toolbox:
    """The six tools behind one call. Used from one event loop; build it with `build_toolbox`.

    Nothing that a policy writes, a picture holds or a worker does raises here: see docs/tools-safety.md.
    """

    def __init__(self, *, config: ToolsConfig, runner: Runner, cache: ResultCache, back_ends: dict[str, str]) -> None:
        self._config = config
        self._runner = runner
        self._cache = cache
        self._back_ends = back_ends
        self._running: dict[str, asyncio.Task[Reply]] = {}

    def back_ends(self) -> dict[str, str]:
        """What serves each tool, with versions and weights."""
        return dict(self._back_ends)

    async def start(self) -> None:
        """Load the back ends. Without it the first calls wait for that."""
        await self._runner.start()

    async def close(self) -> None:
        """End the workers; calls that still run are given up."""
        for task in list(self._running.values()):
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)
        await self._runner.close()
        await asyncio.to_thread(self._cache.close)

    def flush(self) -> None:
        """Waits until every result so far is on disk, where results are kept there."""
        self._cache.flush()

    def uncached(self) -> Toolbox:
        """The same tools and workers without a memory: every call is executed. Only this toolbox closes them."""
        cache = self._cache.forgetful()
        return Toolbox(config=self._config, runner=self._runner, cache=cache, back_ends=self._back_ends)

    def open(self, query: Query) -> Workspace:
        """The workspace that a rollout begins with: the query's pictures by name."""
        return Workspace.of(query)

    def random_call(self, workspace: Workspace, random: np.random.Generator) -> ToolCall | None:
        """A call whose arguments are right, drawn evenly over the tools that have something to work on; None where
        none has.
        """
        served = [name for name, back_end in self._back_ends.items() if back_end != "none"]
        for name in random.permutation(served):
            call = draw_call(str(name), random, workspace)
            try:
                if call is not None:
                    self._plan(tool_named(call.name), call, workspace)
                    return call
            except ToolError:
                continue  # a limit of the rollout, or a picture too large: another tool may still do
        return None

    async def execute(self, call: ToolCall, workspace: Workspace) -> tuple[ExecutedCall, Workspace]:
        """Execute `call`. Waits for the result, at most about the deadline once a worker is free.

        The second value is the workspace with the names of what came back; the same one after an error.
        """
        began = time.perf_counter()
        plan: Plan | None = None
        spent = 0.0
        try:
            tool = tool_named(call.name)
            plan = self._plan(tool, call, workspace)
            reply, cached = await self._reply(tool, plan.job)
            spent = 0.0 if cached else reply.cpu_s
            if reply.result is None:
                raise ToolError(reply.error or "tool_crashed", reply.hint)
            seen = tool.observe(plan, reply.result, workspace, self._config)
            observation = self._observation(tool, seen, reply, cached=cached, began=began)
            workspace = seen.workspace
        except ToolError as error:
            wall_s = time.perf_counter() - began
            observation = refusal(error.code, error.hint, name=str(call.name), cpu_s=spent, wall_s=wall_s)
        except Exception:  # noqa: BLE001  The boundary of the tools: a mistake of ours costs this call only.
            _log.exception("%.40s failed outside its worker", call.name)
            wall_s = time.perf_counter() - began
            observation = refusal("tool_crashed", "try other arguments", name=str(call.name), wall_s=wall_s)
        executed = ExecutedCall(
            call=call,
            observation=observation,
            source=plan.source.digest if plan and plan.source else "",
            footprint=plan.footprint if plan else None,
        )
        return executed, workspace

    def _plan(self, tool: Tool, call: ToolCall, workspace: Workspace) -> Plan:
        """The checked call. Raises ToolError."""
        _check_room(tool.name, workspace, self._config)
        plan = tool.plan(parse(call.arguments, tool.arguments), workspace, self._config)
        _check_sizes(plan.job, self._config)
        return plan

    def _observation(self, tool: Tool, seen: Seen, reply: Reply, *, cached: bool, began: float) -> Observation:
        return Observation(
            text=canonical_json(seen.payload),
            image=seen.image,
            digest=self._digest(tool, msgspec.to_builtins(reply.result)),
            cpu_s=0.0 if cached else reply.cpu_s,
            wall_s=time.perf_counter() - began,
            cached=cached,
        )

    async def _reply(self, tool: Tool, job: Job) -> tuple[Reply, bool]:
        """The job's reply, and whether it came without executing anything."""
        key = self._digest(tool, [[ref.digest for ref in job.pictures], msgspec.to_builtins(job.options)])
        result = self._cache.get(key)
        if result is not None:
            return Reply(result=result), True
        task = self._running.get(key)
        shared = task is not None
        if task is None:
            task = asyncio.create_task(self._execute(key, job))
            self._running[key] = task
            task.add_done_callback(lambda _: self._running.pop(key, None))
        return await asyncio.shield(task), shared  # whoever waits may leave; the others still get their result

    async def _execute(self, key: str, job: Job) -> Reply:
        reply = await self._runner.run(job)
        if reply.result is not None:
            self._cache.put(key, reply.result)
        return reply

    def _digest(self, tool: Tool, content: Any) -> str:
        """blake3 over (tool, version, back end, content)."""
        identity = [tool.name, tool.version, self._back_ends[tool.name], content]
        return content_digest(canonical_json(identity).encode(errors="surrogatepass"))


def refusal(code: ErrorCode, hint: str, *, name: str = "", cpu_s: float = 0.0, wall_s: float = 0.0) -> Observation:
    """The observation that an error is."""
    return Observation(
        text=canonical_json({"error": code, "hint": hint}),
        error=code,
        digest=content_digest(canonical_json([name, code]).encode(errors="replace")),
        cpu_s=cpu_s,
        wall_s=wall_s,
    )


def build_toolbox(config: ToolsConfig, store_root: Path) -> Toolbox:
    """A toolbox over the media store at `store_root`. Raises ModelError, one line, when weights are missing."""
    store = FolderMediaStore(store_root)
    back_ends = describe_back_ends(config)
    runner: Runner
    if config.num_workers == 0:
        runner = InProcess(furnish(config, store))
    else:
        runner = WorkerPool(config, store_root)
    cache = ResultCache(
        store=store,
        num_entries=config.cache_entries,
        memory_bytes=config.cache_memory_mb * 2**20,
        folder=None if config.cache_dir is None else Path(config.cache_dir),
        max_bytes=config.cache_bytes,
    )
    return Toolbox(config=config, runner=runner, cache=cache, back_ends=back_ends)


def _check_room(tool: str, workspace: Workspace, config: ToolsConfig) -> None:
    """Raises ToolError("limit_exceeded") where a rollout has as many pictures, masks or tracks as it may name."""
    for kind in _RETURNS.get(tool, ()):
        most = getattr(config, f"max_{kind}")
        if len(getattr(workspace, kind)) >= most:
            raise ToolError("limit_exceeded", f"at most {most} {kind}; use those you have")


def _check_sizes(job: Job, config: ToolsConfig) -> None:
    """Raises ToolError("limit_exceeded") before a worker sees a picture that is too large."""
    if any(ref.width * ref.height > config.max_pixels for ref in job.pictures):
        raise ToolError("limit_exceeded", f"pictures have at most {config.max_pixels} pixels")
