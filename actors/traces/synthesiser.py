"""Golden plans in, traces out: each plan gets its variant and its thoughts, is executed, filtered and written down."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from actors.agent import Toolbox, Viewer
from actors.tasks.plan import Plan
from actors.traces.config import Emphasis, TraceConfig
from actors.traces.synthesis import Synthesised, synthesise
from actors.traces.thoughts import with_thoughts
from actors.traces.variants import vary
from common.chat import Chat


class Synthesiser:
    """Give it collaborators that share one media store.

    config: variants and thoughts; None: plans are written as they are. max_model_len, max_num_images: tokens and
    pictures of a trace at most. again: a toolbox without a cache, needed where the config says `reenact`.
    """

    def __init__(
        self,
        *,
        toolbox: Toolbox,
        viewer: Viewer,
        chat: Chat,
        emphasis: Emphasis,
        config: TraceConfig | None,
        max_model_len: int,
        max_num_images: int | None = None,
        again: Toolbox | None = None,
    ) -> None:
        if config is not None and config.reenact and again is None:
            raise ValueError("reenact needs a toolbox without a cache")
        self._toolbox = toolbox
        self._viewer = viewer
        self._chat = chat
        self._emphasis = emphasis
        self._config = config
        self._max_model_len = max_model_len
        self._max_num_images = max_num_images
        self._again = again if config is not None and config.reenact else None

    async def trace(self, plans: Sequence[Plan]) -> list[Synthesised]:
        """What became of each plan, in their order. Waits for all calls; the toolbox bounds how many run at once."""
        return list(await asyncio.gather(*map(self._trace, plans)))

    async def _trace(self, plan: Plan) -> Synthesised:
        if self._config is not None:
            varied = vary(plan, self._config.mix, seed=self._config.seed) if plan.kind == "golden" else plan
            if varied is None:
                return Synthesised(reason="left_out")
            plan = with_thoughts(varied, self._config.thoughts, seed=self._config.seed)
        return await synthesise(
            plan,
            toolbox=self._toolbox,
            viewer=self._viewer,
            chat=self._chat,
            emphasis=self._emphasis,
            max_model_len=self._max_model_len,
            max_num_images=self._max_num_images,
            again=self._again,
        )
