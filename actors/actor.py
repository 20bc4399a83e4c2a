"""An actor: acts with a snapshot of the policy, and turns what happened into rollouts, traces, votes and outcomes.

It composes the agent's episodes with facts (only here does a score meet a truth), numbers them so that replay can drop
duplicates, and packs them as Arrow, because that is how they leave the process.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from actors.agent import Agent, Episode, Toolbox, Viewer, count_repeats
from actors.arms import Arm
from actors.chains import is_chained, is_composite
from actors.config import ActorConfig, VotingConfig
from actors.dialects.port import Dialect
from actors.marks import Marks, marks_of
from actors.tasks.plan import Plan
from actors.tools.workspace import Workspace
from actors.traces.config import Emphasis, TraceConfig
from actors.traces.synthesis import count_reasons
from actors.traces.synthesiser import Synthesiser
from actors.voting import vote
from common.chat import Chat, greedy
from common.media import FolderMediaStore, pixels_of
from common.protocols import Embedder, Generator
from common.schema import decode_rollouts, encode_rollouts, encode_traces
from common.scoring import score
from common.types import Consensus, Facts, MediaRef, Neighbour, Provenance, Query, Rollout, Sampling, Task, Weights

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One step of an episode for people: what was said, what was called, what came back.

    said: the turn's text. tool, arguments: "" and "" where no call was read. observation: its text ("" for the last
    turn). source: the picture the call looked at, footprint: where in it, in pixels. picture: what came back. marks:
    what it found, to be drawn.
    """

    said: str
    tool: str = ""
    arguments: str = ""
    observation: str = ""
    error: str | None = None
    source: MediaRef | None = None
    footprint: tuple[int, int, int, int] | None = None
    picture: MediaRef | None = None
    marks: Marks | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one evaluation went.

    score: in [0, 1], under the task's `kind`; truth, accepted: what is right. chain: the planner's shortest.
    valid: every call worked and an answer ended it. parsed: an answer could be read. tools: names in order, "" for a
    turn that held no call; num_errors: how many of them failed. chained: a call worked on what an earlier one
    returned; composite: on what one of another tool did. begins_with_call: nothing was sampled before the first call.
    num_tokens: sampled. generate_s, tools_s: wall seconds; tools_cpu_s: processor seconds. strip: the steps for a
    report, on request.
    """

    task_id: str
    arm: Arm
    family: str
    kind: str
    accepted: tuple[str, ...]
    chain: tuple[str, ...]
    score: float
    answer: str | None
    truth: str
    question: str
    stop_reason: str
    valid: bool
    parsed: bool
    tools: tuple[str, ...]
    num_errors: int
    chained: bool
    composite: bool
    begins_with_call: bool
    num_tokens: int
    version: int
    generate_s: float
    tools_s: float
    tools_cpu_s: float
    pictures: tuple[MediaRef, ...] = ()
    strip: tuple[Shown, ...] = ()


class Actor:
    """Runs tasks. Give it collaborators that share one media store.

    name: the producer of its rollouts; epoch: a number that grows with every restart of this name. traces: variants and
    thoughts of what is synthesised, None for plans as they are; again: a toolbox without a cache that checks them.
    """

    def __init__(
        self,
        *,
        name: str,
        epoch: int,
        generator: Generator,
        toolbox: Toolbox,
        viewer: Viewer,
        embedder: Embedder,
        chat: Chat,
        store: FolderMediaStore,
        config: ActorConfig,
        voting: VotingConfig,
        emphasis: Emphasis,
        dialect: Dialect | None = None,
        traces: TraceConfig | None = None,
        again: Toolbox | None = None,
    ) -> None:
        self._name = name
        self._epoch = epoch
        self._generator = generator
        self._toolbox = toolbox
        self._viewer = viewer
        self._embedder = embedder
        self._chat = chat
        self._store = store
        self._config = config
        self._voting = voting
        self._synthesiser = Synthesiser(
            toolbox=toolbox,
            viewer=viewer,
            chat=chat,
            emphasis=emphasis,
            config=traces,
            max_model_len=config.max_model_len,
            max_num_images=config.max_num_images,
            again=again,
        )
        self._dropped: Counter[str] = Counter()
        self._agent = Agent(
            generator=generator, toolbox=toolbox, chat=chat, viewer=viewer, config=config, dialect=dialect
        )
        self._sequence = itertools.count()

    async def run(
        self,
        task: Task,
        *,
        sampling: Sampling,
        group_id: str,
        group_size: int,
        phase: str,
        arm: Arm = "learned",
        views: str = "",
        scored: bool = True,
    ) -> bytes:
        """Sample one rollout, as Arrow IPC. views: an augmentation's name (actors/views.py).

        With `scored` off the truth is not looked at and the score is None, as in a deployment.
        """
        sampling = self._bounded(sampling)
        episode = await self._agent.roll_out(task.query, sampling, arm=arm, augmentation=views)
        if episode.reason:
            _log.warning("%s: a rollout of %s is quarantined: %s", self._name, task.query.query_id, episode.reason)
        sequence = next(self._sequence)
        rollout = Rollout(
            rollout_id=f"{self._name}-{self._epoch}-{sequence}",
            producer=self._name,
            epoch=self._epoch,
            sequence=sequence,
            group_id=group_id,
            group_size=group_size,
            phase=phase,
            family=task.family,
            query=task.query,
            turns=episode.turns,
            calls=episode.calls,
            answer=episode.answer,
            stop_reason=episode.stop_reason,
            facts=facts_of(episode, task if scored else None),
            temperature=sampling.temperature,
            chain=task.chain,
            generate_s=episode.generate_s,
            tools_s=episode.tools_s,
            views=views,
            provenance=Provenance(source=task.source, consent=task.consent, split=task.split),
        )
        return encode_rollouts([rollout])

    async def evaluate(
        self,
        task: Task,
        *,
        arm: Arm = "learned",
        sampling: Sampling | None = None,
        views: str = "",
        strip: bool = False,
    ) -> Outcome:
        """Answer one task, greedily unless told otherwise, and score it. The arm random_tool makes as many calls as
        the task's chain has, at least one.
        """
        sampling = self._bounded(sampling or greedy(self._config.max_tokens))
        count = max(1, len(task.chain))
        episode = await self._agent.roll_out(task.query, sampling, arm=arm, augmentation=views, random_calls=count)
        facts = facts_of(episode, task)
        spans = [span for turn in episode.turns for span in turn.versions]
        query = task.query
        return Outcome(
            task_id=query.query_id,
            arm=arm,
            family=task.family,
            kind=task.kind,
            accepted=task.accepted,
            chain=task.chain,
            score=facts.score or 0.0,
            answer=episode.answer,
            truth=task.answer,
            question=query.question,
            stop_reason=episode.stop_reason,
            valid=facts.valid,
            parsed=facts.parsed,
            tools=tuple(done.call.name for done in episode.calls),
            num_errors=facts.num_errors,
            chained=is_chained(episode.calls),
            composite=is_composite(episode.calls),
            begins_with_call=self._agent.begins_with_call(episode),
            num_tokens=sum(len(turn.logprobs) for turn in episode.turns),
            version=min((span.version for span in spans), default=self._generator.version),
            generate_s=episode.generate_s,
            tools_s=episode.tools_s,
            tools_cpu_s=sum(done.observation.cpu_s for done in episode.calls),
            pictures=_originals(query),
            strip=self._strip(query, episode) if strip else (),
        )

    async def trace(self, plans: Sequence[Plan]) -> bytes:
        """Execute plans and write them down as traces, Arrow IPC; those without support are left out and counted."""
        made = await self._synthesiser.trace(plans)
        reasons = count_reasons(made)
        self._dropped.update(reasons)
        if reasons:
            listed = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
            _log.info("%s: %d plans gave no trace: %s", self._name, sum(reasons.values()), listed)
        return encode_traces([one.trace for one in made if one.trace is not None])

    async def dropped(self) -> dict[str, int]:
        """How many plans gave no trace so far, by reason."""
        return dict(self._dropped)

    async def vote(self, rollouts: Sequence[bytes], neighbours: Sequence[Neighbour] = ()) -> Consensus:
        """What one group's rollouts agree on."""
        group = [rollout for data in rollouts for rollout in decode_rollouts(data)]
        return vote(group, neighbours, self._voting)

    async def embed(self, query: Query) -> list[float]:
        """The query's place among past ones, a vector of length 1."""
        return await asyncio.to_thread(self._embed, query)

    def _embed(self, query: Query) -> list[float]:
        shown = [pixels_of(self._store, picture) for picture in _shown(query)]
        vector: list[float] = self._embedder.embed(query.question, shown).tolist()
        return vector

    async def load(self, weights: Weights) -> float:
        """Take new weights; see Generator.load."""
        return await self._generator.load(weights)

    async def ping(self) -> int:
        """The policy version held: proof of life, the engine's too. Raises ActorDied when that has ended."""
        await self._generator.ping()
        return self._generator.version

    async def back_ends(self) -> dict[str, str]:
        """What serves each tool."""
        return self._toolbox.back_ends()

    async def close(self) -> None:
        """End the engine and the tool workers."""
        await self._generator.close()
        await self._toolbox.close()

    def _bounded(self, sampling: Sampling) -> Sampling:
        if sampling.max_tokens <= self._config.max_tokens:
            return sampling
        return Sampling(temperature=sampling.temperature, max_tokens=self._config.max_tokens, seed=sampling.seed)

    def _strip(self, query: Query, episode: Episode) -> tuple[Shown, ...]:
        known = {picture.digest: picture for picture in _originals(query)}
        said = [self._chat.decode(turn.token_ids) for turn in episode.turns if turn.role == "assistant"]
        steps: list[Shown] = []
        for text, done in itertools.zip_longest(said, episode.calls):
            if done is None:
                steps.append(Shown(said=text))
                continue
            observation = done.observation
            steps.append(
                Shown(
                    said=text or "",
                    tool=done.call.name,
                    arguments=json.dumps(done.call.arguments, ensure_ascii=False),
                    observation=observation.text,
                    error=observation.error,
                    source=known.get(done.source),
                    footprint=done.footprint,
                    picture=observation.image,
                    marks=marks_of(done, workspace) if isinstance(workspace := episode.workspace, Workspace) else None,
                )
            )
            if observation.image is not None:
                known[observation.image.digest] = observation.image
        return tuple(steps)


def facts_of(episode: Episode, task: Task | None) -> Facts:
    """What can be measured about an episode; without a task there is no score."""
    num_errors = sum(done.observation.error is not None for done in episode.calls)
    answered = episode.stop_reason == "answer" and episode.answer is not None
    return Facts(
        score=None if task is None else score(episode.answer, task),
        parsed=answered,
        valid=answered and num_errors == 0,
        num_calls=len(episode.calls),
        num_errors=num_errors,
        num_repeats=count_repeats(episode.calls),
    )


def _originals(query: Query) -> tuple[MediaRef, ...]:
    return query.clip.frames if query.clip is not None else query.images


def _shown(query: Query) -> tuple[MediaRef, ...]:
    if query.clip is None:
        return query.images
    return tuple(query.clip.frames[index] for index in query.clip.shown)
