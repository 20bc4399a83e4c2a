"""Adapters served live: an engine on the base takes one version after another while requests are in flight."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
from fakes.large_models import make_large_model
from fakes.learning import a_real_trace, a_view
from fakes.reference import Reference, weights_of

from actors.adapters import MAX_SERVED
from actors.config import GenerationConfig
from actors.generation import VllmGenerator
from common.chat import Chat
from common.errors import WeightsError
from common.media import FolderMediaStore
from common.protocols import Sample
from common.schema import encode_traces
from common.types import MediaRef, Query, Sampling, Turn, Weights
from learner.config import EngineConfig, LearnerConfig, LoraConfig, ScheduleConfig, SftConfig
from learner.learner import Learner

pytestmark = [pytest.mark.system, pytest.mark.asyncio(loop_scope="module")]

ARCHITECTURE = "qwen3_vl_8b"
SIDE = 256
TOLERANCE = 1e-3
LONG = 200
NUM_VERSIONS = 3
CONFIG = LearnerConfig(
    engine=EngineConfig(backend="torch"),
    sft=SftConfig(schedule=ScheduleConfig(lr=3e-2, num_steps=40, warmup_steps=0), batch_size=4),
    micro_batch_tokens=600,
    lora=LoraConfig(rank=4, alpha=8),
)


@dataclass(slots=True, kw_only=True)
class Live:
    """One engine for the module, the versions a learner published, and transformers' word on each and on the base."""

    generator: VllmGenerator
    chat: Chat
    store: FolderMediaStore
    base: Path
    published: list[Weights]
    references: list[Reference]
    version: int = 99

    async def use(self, which: int, **changes: object) -> int:
        """Load one of the published adapters under a number of its own. Returns the number."""
        self.version += 1
        await self.generator.load(replace(self.published[which], version=self.version, **changes))  # type: ignore[arg-type]
        return self.version

    def opening(self, seed: int = 0) -> Turn:
        view = a_view(self.store, seed, SIDE)
        return self.chat.question(Query(query_id="q", question="What is the number?", images=(view,)), [view])

    async def sampled(self, turn: Turn, *, seed: int, max_tokens: int = 32) -> Turn:
        sampling = Sampling(temperature=0.7, max_tokens=max_tokens, seed=seed)
        return spoken(await self.generator.generate(turn.token_ids, turn.images, sampling))

    def gap(self, turns: Sequence[Turn], reference: Reference) -> float:
        """Largest difference of behaviour log-probs from the reference's, in nats."""
        ids = [token for turn in turns for token in turn.token_ids]
        images: list[MediaRef] = [view for turn in turns for view in turn.images]
        table = reference.logprobs(ids, images, temperature=0.7, banned=self.chat.banned)
        worst, at = 0.0, 0
        for turn in turns:
            if turn.logprobs:
                found = np.array(turn.logprobs) - table[at : at + len(turn.token_ids)]
                worst = max(worst, float(np.abs(found).max()))
            at += len(turn.token_ids)
        return worst

    async def held(self) -> int:
        return len(await self.generator.bare.list_loras())


def spoken(sample: Sample) -> Turn:
    return Turn(role="assistant", token_ids=sample.token_ids, logprobs=sample.logprobs, versions=sample.versions)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def live(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Live]:
    folder = tmp_path_factory.mktemp("lora")
    base = make_large_model(folder / "base", ARCHITECTURE, max_pixels=SIDE * SIDE)
    chat = Chat.from_model(base)
    store = FolderMediaStore(folder / "media")
    learner = Learner(
        CONFIG, rank=0, world_size=1, model_folder=base, store=store, weights_folder=folder / "weights", seed=1
    )
    learner.begin("sft")
    learner.add_traces(encode_traces([a_real_trace(chat, store, i, side=SIDE) for i in range(4)]))
    published: list[Weights] = []
    references = []
    for number in range(NUM_VERSIONS):
        learner.imitate(2 * number)
        learner.imitate(2 * number + 1)
        weights = learner.publish()
        assert weights is not None
        published.append(weights)
        learner.export(folder / f"merged-{number}")
        references.append(Reference(folder / f"merged-{number}", chat, store))
    references.append(Reference(base, chat, store))
    generator = await VllmGenerator.start(base, chat, store, GenerationConfig(lora_rank=4, max_num_images=4))
    yield Live(generator=generator, chat=chat, store=store, base=base, published=published, references=references)
    await generator.close()


async def test_before_any_adapter_the_engine_is_the_base(live: Live) -> None:
    turn = live.opening()
    said = await live.sampled(turn, seed=0)
    assert {span.version for span in said.versions} == {0}
    assert live.gap([turn, said], live.references[-1]) <= TOLERANCE


async def test_each_version_speaks_as_its_learner_over_two_turns_with_a_crop(live: Live) -> None:
    for which in range(NUM_VERSIONS):
        version = await live.use(which)
        assert live.generator.version == version
        turns = [live.opening(which)]
        turns.append(await live.sampled(turns[0], seed=which))
        crop = live.chat.observation('{"image":"image_2"}', a_view(live.store, 50 + which, SIDE))
        turns.append(crop)
        whole = Turn(
            role="user",
            token_ids=tuple(token for turn in turns for token in turn.token_ids),
            images=tuple(view for turn in turns for view in turn.images),
        )
        turns.append(await live.sampled(whole, seed=which))
        assert {span.version for turn in turns for span in turn.versions} == {version}
        assert live.gap(turns, live.references[which]) <= TOLERANCE
        # another version's word is another one, so the agreement says something
        assert live.gap(turns, live.references[which - 1]) > 10 * TOLERANCE
        assert await live.held() == 1  # nobody uses the earlier ones, so they are gone


async def test_a_request_in_flight_keeps_its_adapter_and_the_next_one_takes_the_new(live: Live) -> None:
    old = await live.use(0)
    openings = [live.opening(10 + i) for i in range(4)]
    flying = [asyncio.create_task(live.sampled(turn, seed=i, max_tokens=LONG)) for i, turn in enumerate(openings)]
    await asyncio.sleep(0.1)
    new = await live.use(1)
    assert await live.held() == 2
    said = await live.sampled(openings[0], seed=9)
    assert {span.version for span in said.versions} == {new}
    assert live.gap([openings[0], said], live.references[1]) <= TOLERANCE
    for turn, earlier in zip(openings, await asyncio.gather(*flying), strict=True):
        assert {span.version for span in earlier.versions} == {old}
        assert live.gap([turn, earlier], live.references[0]) <= TOLERANCE
    assert await live.held() == 1


async def test_versions_faster_than_turns_wait_for_a_place(live: Live) -> None:
    flying = []
    for number in range(2 * MAX_SERVED):
        version = await live.use(number % NUM_VERSIONS)
        assert await live.held() <= MAX_SERVED
        flying.append((version, asyncio.create_task(live.sampled(live.opening(20), seed=number, max_tokens=LONG))))
        await asyncio.sleep(0.05)
    for number, (version, task) in enumerate(flying):
        said = await task
        assert {span.version for span in said.versions} == {version}
        assert live.gap([live.opening(20), said], live.references[number % NUM_VERSIONS]) <= TOLERANCE
    assert await live.held() == 1


async def test_a_canary_that_disagrees_leaves_the_old_adapter_and_no_trace(live: Live) -> None:
    old = await live.use(0)
    canary = live.published[1].canary
    assert canary is not None
    wrong = replace(canary, logprobs=(canary.logprobs[0] - 0.5, *canary.logprobs[1:]))
    with pytest.raises(WeightsError, match=r"canary differs by 0\.5"):
        await live.use(1, canary=wrong)
    assert live.generator.version == old
    assert await live.held() == 1
    said = await live.sampled(live.opening(), seed=3)
    assert {span.version for span in said.versions} == {old}
    assert live.gap([live.opening(), said], live.references[0]) <= TOLERANCE


async def test_what_is_damaged_too_large_or_no_adapter_is_refused_and_the_engine_lives(
    live: Live, tmp_path: Path
) -> None:
    old = await live.use(0)
    good = live.published[1]
    bad = replace(good, tensors=(replace(good.tensors[0], digest="00" * 32), *good.tensors[1:]), version=90)
    with pytest.raises(WeightsError, match="does not hold what its list says"):
        await live.generator.load(bad)
    with pytest.raises(WeightsError, match="is whole weights where the engine takes an adapter"):
        await live.generator.load(weights_of(live.base, 91))
    wide = Learner(
        replace(CONFIG, lora=LoraConfig(rank=16, alpha=8)),
        rank=0,
        world_size=1,
        model_folder=live.base,
        store=live.store,
        weights_folder=tmp_path,
        seed=1,
    ).publish()
    assert wide is not None
    with pytest.raises(WeightsError, match="the engine refuses the adapter"):
        await live.generator.load(replace(wide, version=92))
    assert live.generator.version == old
    assert await live.held() == 1
    said = await live.sampled(live.opening(), seed=4)
    assert live.gap([live.opening(), said], live.references[0]) <= TOLERANCE
