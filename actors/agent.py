"""One rollout: generate, call, observe, until an answer.

The agent knows only ports: a generator that continues ids, a toolbox that executes calls, a viewer that says what the
model sees. Whatever goes wrong in a call comes back as an observation that the policy can repair, so a rollout ends
in an answer, at a limit, or after too many turns that nobody can follow; never in an exception of a tool.

The i-th observation answers the i-th executed call, and is a turn of its own, also where a dialect makes several calls
in one turn. A call that the limits forbid is not executed. Turns are added whole or not at all, so pictures and their
placeholders stay together.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from actors.arms import Arm
from actors.config import ActorConfig
from actors.dialects.hermes import Hermes
from actors.dialects.port import Dialect, Shown, returned
from actors.dialogue import Answer, Calls, Unreadable, malformed
from common.chat import Chat, canonical_json
from common.errors import ContractError
from common.protocols import Generator, Sample
from common.seeds import seed_of, stream
from common.types import ExecutedCall, MediaRef, Observation, Query, Sampling, StopReason, ToolCall, Turn

WORD_TRIES = 50
"""A dialect that has no words for a random call is given another; this many at most."""


class Toolbox(Protocol):
    """Executes calls. A workspace holds the pictures that a rollout may refer to; it is a value, and each call makes
    the next.
    """

    def open(self, query: Query) -> Any:
        """The workspace with the query's pictures."""
        ...

    async def execute(self, call: ToolCall, workspace: Any) -> tuple[ExecutedCall, Any]:
        """Never raises for what a policy wrote or a tool did: that is an observation with an error."""
        ...

    def random_call(self, workspace: Any, random: np.random.Generator) -> ToolCall | None:
        """A call that suits the workspace, or None."""
        ...

    def back_ends(self) -> dict[str, str]:
        """What serves each tool."""
        ...

    async def close(self) -> None: ...


class Viewer(Protocol):
    async def view(self, picture: MediaRef, augmentation: str = "") -> MediaRef:
        """What the model sees of a picture."""
        ...

    async def of_query(self, query: Query, augmentation: str = "") -> list[MediaRef]:
        """The views that a query opens with."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """What happened, before anyone scores it.

    workspace: the toolbox's, as it was in the end: what names such as mask_1 stand for. reason: why the episode is
    quarantined ("" otherwise); only its opening turn is kept then.
    """

    turns: tuple[Turn, ...]
    calls: tuple[ExecutedCall, ...]
    answer: str | None
    stop_reason: StopReason
    generate_s: float
    tools_s: float
    workspace: Any = None
    reason: str = ""


class Agent:
    """Rolls out one query at a time; many may be in flight."""

    def __init__(
        self,
        *,
        generator: Generator,
        toolbox: Toolbox,
        chat: Chat,
        viewer: Viewer,
        config: ActorConfig,
        dialect: Dialect | None = None,
    ) -> None:
        self._generator = generator
        self._toolbox = toolbox
        self._chat = chat
        self._viewer = viewer
        self._config = config
        self._dialect = dialect or Hermes()

    async def roll_out(
        self, query: Query, sampling: Sampling, *, arm: Arm = "learned", augmentation: str = "", random_calls: int = 1
    ) -> Episode:
        """One episode. `sampling.seed` gives every turn a seed of its own, and the random calls theirs.

        random_calls: how many the arm random_tool makes. Raises ContractError when the question alone is too long.
        """
        views = await self._viewer.of_query(query, augmentation)
        opening = self._chat.question(query, views)
        opened = self._chat.encode(self._opens(arm, ()))
        for name, wanted, most in (
            ("max_model_len", len(opening.token_ids) + len(opened) + 1, self._config.max_model_len),
            ("max_num_images", len(views), self._config.max_num_images),
        ):
            if wanted > most:
                raise ContractError(f"query {query.query_id} needs {name} of {wanted} at least; it is {most}")
        shown = _named(query, views)
        run = _Run(self._generator, self._chat, self._dialect, self._config, sampling=sampling)
        run.open(opening, shown)
        run.workspace = self._toolbox.open(query)
        random = stream(sampling.seed or 0, "random_tool", query.query_id)
        if arm == "random_tool" and not await self._guess(run, random, random_calls, augmentation):
            return self._close(run, "max_tokens", None)
        stop, answer = await self._continue(run, arm, augmentation)
        return self._close(run, stop, answer)

    def begins_with_call(self, episode: Episode) -> bool:
        """Whether what was sampled begins with the very ids that open a call, with no thought before it."""
        opened = tuple(self._chat.encode(self._dialect.call_opens))
        said = [turn.token_ids for turn in episode.turns if turn.role == "assistant"]
        return bool(said) and said[0][: len(opened)] == opened

    async def _continue(self, run: _Run, arm: Arm, augmentation: str) -> tuple[StopReason, str | None]:
        repairs = 0
        while True:
            opened = self._opens(arm, run.calls)
            sample = await run.speak() if run.write(self._chat.encode(opened)) else None
            if sample is None or not sample.finished:
                return "max_tokens", None
            action = self._dialect.read(opened + self._chat.decode(sample.token_ids), run.shown).action
            if isinstance(action, Answer):
                if opened != self._dialect.call_opens:
                    return "answer", action.text
                action = malformed("finish the call that was begun")
            if opened == self._dialect.answer_opens:
                return "malformed", None
            if isinstance(action, Unreadable):
                if repairs == self._config.max_repairs:
                    return "malformed", None
                repairs += 1
                done = [_refused(action)]
            else:
                calls = action.calls if isinstance(action, Calls) else (action,)
                if len(run.calls) + len(calls) > self._config.max_calls:
                    return "max_calls", None
                done = [await self._execute(call, run, augmentation, arm) for call in calls]
            if not run.observe(done):
                return "max_tokens", None

    def _opens(self, arm: Arm, calls: Sequence[ExecutedCall]) -> str:
        """What the policy's next turn is opened with, after the calls so far."""
        if arm in ("no_tool", "random_tool"):
            return self._dialect.answer_opens
        if arm == "forced_tool" and not any(done.call.name for done in calls):
            return self._dialect.call_opens
        return ""

    async def _guess(self, run: _Run, random: np.random.Generator, count: int, augmentation: str) -> bool:
        """Make random calls in the policy's place, as many as there are words for; False when no room is left."""
        for _ in range(min(count, self._config.max_calls)):
            drawn = self._random_call(run, random)
            if drawn is None:
                break
            call, text = drawn
            if not run.write(self._chat.written(text)):
                return False
            if not run.observe([await self._execute(call, run, augmentation, "random_tool")]):
                return False
        return True

    def _random_call(self, run: _Run, random: np.random.Generator) -> tuple[ToolCall, str] | None:
        """A random call and how the dialect writes it."""
        for _ in range(WORD_TRIES):
            call = self._toolbox.random_call(run.workspace, random)
            if call is None:
                return None
            try:
                return call, self._dialect.write_call(call, "", run.shown)
            except ContractError:
                continue
        return None

    async def _execute(self, call: ToolCall, run: _Run, augmentation: str, arm: Arm) -> ExecutedCall:
        if arm == f"without_{call.name}":
            return ExecutedCall(call=call, observation=_refused(_SWITCHED_OFF).observation)
        started = time.perf_counter()
        done, run.workspace = await self._toolbox.execute(call, run.workspace)
        done = await self._seen(done, augmentation)
        run.tools_s += time.perf_counter() - started
        return done

    async def _seen(self, done: ExecutedCall, augmentation: str) -> ExecutedCall:
        """Add what the model sees of a picture that came back."""
        if done.observation.image is None:
            return done
        view = await self._viewer.view(done.observation.image, augmentation)
        return replace(done, observation=replace(done.observation, view=view))

    def _close(self, run: _Run, stop: StopReason, answer: str | None) -> Episode:
        turns, calls, reason = tuple(run.turns), tuple(run.calls), ""
        try:
            self._chat.check(turns)
        except ContractError as error:
            turns, calls, stop, answer, reason = turns[:1], (), "quarantined", None, str(error)
        return Episode(
            turns=turns,
            calls=calls,
            answer=answer,
            stop_reason=stop,
            generate_s=run.generate_s,
            tools_s=run.tools_s,
            workspace=run.workspace,
            reason=reason,
        )


_SWITCHED_OFF = Unreadable(code="unavailable", hint="this tool is switched off")


class _Run:
    """An episode under way: turns grow at the end, whole."""

    def __init__(
        self,
        generator: Generator,
        chat: Chat,
        dialect: Dialect,
        config: ActorConfig,
        *,
        sampling: Sampling,
    ) -> None:
        self._generator = generator
        self._chat = chat
        self._dialect = dialect
        self._config = config
        self._sampling = sampling
        self._ids: list[int] = []
        self._images: list[MediaRef] = []
        self.shown: list[Shown] = []
        self.workspace: Any = None
        self.turns: list[Turn] = []
        self.calls: list[ExecutedCall] = []
        self.generate_s = 0.0
        self.tools_s = 0.0

    def open(self, opening: Turn, shown: Sequence[Shown]) -> None:
        """The turn that asks, and the pictures it shows."""
        self._add(opening)
        self.shown += shown

    def write(self, token_ids: Sequence[int]) -> bool:
        """Add what is written for the policy to the turn before its own; False, and nothing is added, when it leaves
        no room to go on.
        """
        if len(self._ids) + len(token_ids) >= self._config.max_model_len:
            return False
        last = self.turns[-1]
        self.turns[-1] = replace(last, token_ids=(*last.token_ids, *token_ids))
        self._ids += token_ids
        return True

    async def speak(self) -> Sample | None:
        """Sample the next assistant's turn; None when not one token of room is left."""
        room = self._config.max_model_len - len(self._ids)
        if room < 1:
            return None
        seed = self._sampling.seed
        sampling = replace(
            self._sampling,
            max_tokens=min(self._sampling.max_tokens, room),
            seed=None if seed is None else seed_of(seed, "turn", len(self.turns)),
        )
        started = time.perf_counter()
        sample = await self._generator.generate(self._ids, self._images, sampling)
        self.generate_s += time.perf_counter() - started
        turn = Turn(
            role="assistant",
            token_ids=sample.token_ids,
            logprobs=sample.logprobs,
            versions=sample.versions,
            shaped=sample.shaped,
        )
        self._add(turn)
        return sample

    def observe(self, done: Sequence[ExecutedCall]) -> bool:
        """Add what came back of a turn's calls; False, and nothing is added, when it leaves no room to go on."""
        turns = self._dialect.observe(self._chat, done, self.shown)
        if len(self._ids) + sum(len(turn.token_ids) for turn in turns) >= self._config.max_model_len:
            return False
        if len(self._images) + sum(len(turn.images) for turn in turns) > self._config.max_num_images:
            return False
        self.calls += done
        self.shown += filter(None, map(returned, done))
        for turn in turns:
            self._add(turn)
        return True

    def _add(self, turn: Turn) -> None:
        self.turns.append(turn)
        self._ids += turn.token_ids
        self._images += turn.images


def _named(query: Query, views: Sequence[MediaRef]) -> list[Shown]:
    """The views that a query opens with, by the names that calls use."""
    if query.clip is None:
        named = [(f"image_{number}", picture) for number, picture in enumerate(query.images, 1)]
    else:
        named = [(f"frame_{index + 1}", query.clip.frames[index]) for index in query.clip.shown]
    return [Shown(name=name, picture=ref, view=view) for (name, ref), view in zip(named, views, strict=True)]


def _refused(action: Unreadable) -> ExecutedCall:
    """A turn that holds no call, answered like a failed call without a name."""
    text = canonical_json({"error": action.code, "hint": action.hint})
    return ExecutedCall(call=ToolCall(name="", arguments={}), observation=Observation(text=text, error=action.code))


def count_repeats(calls: Sequence[ExecutedCall]) -> int:
    """Calls equal to an earlier one; turns that held no call do not count."""
    written = [canonical_json([done.call.name, done.call.arguments]) for done in calls if done.call.name]
    return len(written) - len(set(written))
