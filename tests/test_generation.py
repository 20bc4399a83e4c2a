"""The live engine against plain transformers: log-probs, versions, new weights, refusals, and what a kill leaves."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import pytest_asyncio
from fakes.models import make_tiny_model
from fakes.reference import Reference, weights_of

from actors.config import GenerationConfig
from actors.generation import VllmGenerator
from common.chat import Chat
from common.errors import ActorDied, WeightsError
from common.media import FolderMediaStore, put_view
from common.protocols import Sample
from common.types import Canary, Clip, MediaRef, Query, Sampling, Turn

pytestmark = [pytest.mark.system, pytest.mark.asyncio(loop_scope="module")]

TOLERANCE = 1e-3
LONG = 200


class Live:
    """One engine for the whole module, with two sets of weights to switch between."""

    def __init__(
        self, generator: VllmGenerator, folders: tuple[Path, Path], chat: Chat, store: FolderMediaStore
    ) -> None:
        self.generator = generator
        self.folders = folders
        self.chat = chat
        self.store = store
        self.references = tuple(Reference(folder, chat, store) for folder in folders)
        self._versions = itertools.count(1)

    def views(self, count: int, *, seed: int = 0) -> list[MediaRef]:
        random = np.random.default_rng(seed)
        return [put_view(self.store, random.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(count)]

    def opening(self, view: MediaRef) -> Turn:
        return self.chat.question(Query(query_id="q", question="code on the red plate?", images=(view,)), [view])

    async def use(self, which: int, *, canary: Canary | None = None) -> float:
        version = next(self._versions)
        return await self.generator.load(weights_of(self.folders[which], version, canary=canary))

    async def rollout(self, opening: Turn, crops: Sequence[MediaRef], sampling: Sampling) -> list[Turn]:
        """Turns of the policy, each but the last followed by an observation with a picture."""
        turns = [opening]
        for crop in [*crops, None]:
            ids = [token for turn in turns for token in turn.token_ids]
            images = [view for turn in turns for view in turn.images]
            sample = await self.generator.generate(ids, images, sampling)
            turns.append(spoken(sample))
            if crop is not None:
                turns.append(self.chat.observation('{"image":"image_2"}', crop))
        self.chat.check(turns)
        return turns

    def differences(self, turns: Sequence[Turn], temperature: float, *, of: dict[int, int]) -> list[float]:
        """Behaviour log-prob less the reference's, for every sampled token; `of` says which reference a version is."""
        ids = [token for turn in turns for token in turn.token_ids]
        images = [view for turn in turns for view in turn.images]
        tables = {
            which: self.references[which].logprobs(ids, images, temperature=temperature, banned=self.chat.banned)
            for which in set(of.values())
        }
        found: list[float] = []
        at = 0
        for turn in turns:
            for span in turn.versions:
                wanted = tables[of[span.version]][at + span.start : at + span.stop]
                found += (np.array(turn.logprobs[span.start : span.stop]) - wanted).tolist()
            at += len(turn.token_ids)
        return found


def spoken(sample: Sample) -> Turn:
    return Turn(role="assistant", token_ids=sample.token_ids, logprobs=sample.logprobs, versions=sample.versions)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def live(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Live]:
    folder = tmp_path_factory.mktemp("generation")
    folders = (make_tiny_model(folder / "a", seed=0), make_tiny_model(folder / "b", seed=1))
    chat = Chat.from_model(folders[0])
    store = FolderMediaStore(folder / "media")
    generator = await VllmGenerator.start(folders[0], chat, store, GenerationConfig())
    yield Live(generator, folders, chat, store)
    await generator.close()


async def test_behaviour_log_probs_are_transformers_own_over_turns_with_pictures_at_temperature_07(live: Live) -> None:
    await live.use(0)
    views = live.views(3)
    sampling = Sampling(temperature=0.7, max_tokens=24, seed=3)
    turns = await live.rollout(live.opening(views[0]), views[1:], sampling)
    found = live.differences(turns, 0.7, of={live.generator.version: 0})
    assert len(found) == sum(len(turn.logprobs) for turn in turns) >= 30
    assert max(map(abs, found)) <= TOLERANCE


async def test_behaviour_log_probs_agree_on_a_clips_frames(live: Live) -> None:
    await live.use(0)
    views = live.views(4, seed=1)
    clip = Clip(frames=tuple(views[:3]), times_s=(0.0, 0.5, 1.0), shown=(0, 1, 2))
    opening = live.chat.question(Query(query_id="q", question="when?", clip=clip), views[:3])
    turns = await live.rollout(opening, views[3:], Sampling(temperature=0.7, max_tokens=24, seed=4))
    assert max(map(abs, live.differences(turns, 0.7, of={live.generator.version: 0}))) <= TOLERANCE


async def test_eight_at_once_agree_too_while_prefixes_are_shared(live: Live) -> None:
    await live.use(0)
    views = live.views(2, seed=2)
    sampling = Sampling(temperature=1.3, max_tokens=32)
    rollouts = [live.rollout(live.opening(views[0]), views[1:], replace(sampling, seed=seed)) for seed in range(8)]
    for turns in await asyncio.gather(*rollouts):
        assert max(map(abs, live.differences(turns, 1.3, of={live.generator.version: 0}))) <= TOLERANCE


async def test_the_same_seed_gives_the_same_tokens_one_at_a_time(live: Live) -> None:
    await live.use(0)
    turn = live.opening(live.views(1)[0])
    sampling = Sampling(temperature=1.0, max_tokens=48, seed=9)
    first = await live.generator.generate(turn.token_ids, turn.images, sampling)
    again = await live.generator.generate(turn.token_ids, turn.images, sampling)
    other = await live.generator.generate(turn.token_ids, turn.images, replace(sampling, seed=10))
    assert again.token_ids == first.token_ids != other.token_ids


async def test_prompts_read_in_parts_leave_a_seed_its_tokens(live: Live) -> None:
    """Eight long prompts exceed what one step reads, so most are read in parts; each must draw as if it were alone."""
    await live.use(0)
    random = np.random.default_rng(0)
    ordinary = [token for token in range(300) if token not in live.chat.banned]
    prompts = [random.choice(ordinary, 900).tolist() for _ in range(8)]

    async def sampled(index: int) -> Sample:
        sampling = Sampling(temperature=1.0, max_tokens=16, seed=index)
        return await live.generator.generate(prompts[index], (), sampling)

    together = await asyncio.gather(*map(sampled, range(8)))
    assert [sample.token_ids for sample in together] == [(await sampled(index)).token_ids for index in range(8)]


async def test_new_weights_go_live_under_requests_in_flight_and_every_token_knows_its_weights(live: Live) -> None:
    await live.use(0)
    old = live.generator.version
    sampling = Sampling(temperature=0.7, max_tokens=LONG)
    openings = [live.opening(view) for view in live.views(4, seed=3)]
    flying = [
        asyncio.create_task(live.generator.generate(turn.token_ids, turn.images, replace(sampling, seed=seed)))
        for seed, turn in enumerate(openings)
    ]
    await asyncio.sleep(0.1)
    pause_s = await live.use(1)
    new = live.generator.version
    assert 0 < pause_s < 30
    straddled = 0
    for opening, sample in zip(openings, await asyncio.gather(*flying), strict=True):
        assert [span.version for span in sample.versions] in ([old], [old, new], [new])
        straddled += len(sample.versions) == 2
        # also after the switch: what the old weights had computed of the context was computed anew
        assert max(map(abs, live.differences([opening, spoken(sample)], 0.7, of={old: 0, new: 1}))) <= TOLERANCE
    assert straddled


async def test_siblings_whose_pictures_a_cached_prefix_covered_survive_new_weights(live: Live) -> None:
    """Gone over again after the switch, they need the pixels that the cached prefix had spared them (engine_plugin)."""
    await live.use(0)
    views = live.views(2, seed=11)
    first = live.opening(views[0])
    crop = live.chat.observation('{"image":"image_2"}', views[1])
    ids = (*first.token_ids, *live.chat.encode("look at the plate."), *crop.token_ids)
    await live.generator.generate(ids, views, Sampling(temperature=1.0, max_tokens=2, seed=0))  # fills the cache
    sampling = Sampling(temperature=1.0, max_tokens=LONG)
    flights = [
        asyncio.create_task(live.generator.generate(ids, views, replace(sampling, seed=seed))) for seed in range(4)
    ]
    await asyncio.sleep(0.2)
    await live.use(1)
    samples = await asyncio.gather(*flights)
    assert all(sample.token_ids for sample in samples)
    assert await live.generator.generate(ids, views, Sampling(temperature=1.0, max_tokens=2, seed=1))


async def test_greedy_tokens_after_a_switch_are_those_of_a_fresh_model_with_the_new_weights(live: Live) -> None:
    turn = live.opening(live.views(1, seed=5)[0])
    for which in (0, 1, 0):
        await live.use(which)
        sample = await live.generator.generate(turn.token_ids, turn.images, Sampling(temperature=0.0, max_tokens=10))
        wanted = live.references[which].greedy(turn.token_ids, turn.images, 10, banned=live.chat.banned)
        end = live.chat.end_of_turn
        cut = wanted.index(end) + 1 if end in wanted else len(wanted)
        assert list(sample.token_ids) == wanted[:cut]


async def test_a_wrong_digest_is_refused_before_anything_stops_and_the_old_weights_stay(live: Live) -> None:
    await live.use(0)
    version = live.generator.version
    good = weights_of(live.folders[1], 10_000)
    bad = replace(good, tensors=(replace(good.tensors[0], digest="00" * 32), *good.tensors[1:]))
    with pytest.raises(WeightsError, match=good.tensors[0].name):
        await live.generator.load(bad)
    with pytest.raises(WeightsError, match="cannot be read"):
        await live.generator.load(replace(good, buckets=(str(live.folders[1] / "nowhere"),)))
    head = next(tensor for tensor in good.tensors if tensor.name == "lm_head.weight")
    others = tuple(tensor for tensor in good.tensors if tensor is not head)
    with pytest.raises(WeightsError, match=r"lm_head\.weight has shape"):
        await live.generator.load(replace(good, tensors=(*others, replace(head, shape=head.shape[::-1]))))
    assert live.generator.version == version
    turns = await live.rollout(live.opening(live.views(1)[0]), [], Sampling(temperature=1.0, max_tokens=8, seed=1))
    assert max(map(abs, live.differences(turns, 1.0, of={version: 0}))) <= TOLERANCE


async def test_a_canary_that_agrees_is_taken_and_one_that_does_not_leaves_no_trace(live: Live) -> None:
    await live.use(0)
    old = live.generator.version
    view = live.views(1, seed=6)[0]
    turn = live.opening(view)
    canary = live.references[1].canary(turn.token_ids, turn.images, live.chat.encode("<answer>493</answer>"))
    sampling = Sampling(temperature=1.0, max_tokens=LONG)
    flying = [
        asyncio.create_task(live.generator.generate(turn.token_ids, turn.images, replace(sampling, seed=seed)))
        for seed in range(12)
    ]
    await asyncio.sleep(0.1)
    wrong = replace(canary, logprobs=(canary.logprobs[0] - 0.5, *canary.logprobs[1:]))
    with pytest.raises(WeightsError, match=r"canary differs by 0\.5"):
        await live.use(1, canary=wrong)
    assert live.generator.version == old
    for sample in await asyncio.gather(*flying):
        assert {span.version for span in sample.versions} == {old}
        assert max(map(abs, live.differences([turn, spoken(sample)], 1.0, of={old: 0}))) <= TOLERANCE
    await live.use(1, canary=canary)
    assert live.generator.version > old


async def test_a_placeholder_is_never_sampled_even_by_weights_that_want_nothing_else(
    live: Live, tmp_path: Path
) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(live.folders[0] / "model.safetensors")
    head = tensors["lm_head.weight"].copy()
    for token in live.chat.banned:
        head[token] = 3 * head[(token + 100) % len(head)]
    save_file(tensors | {"lm_head.weight": head}, tmp_path / "model.safetensors")
    await live.generator.load(weights_of(tmp_path, 20_000))
    turn = live.opening(live.views(1, seed=7)[0])
    sampling = Sampling(temperature=2.0, max_tokens=LONG)
    requests = [live.generator.generate(turn.token_ids, turn.images, replace(sampling, seed=seed)) for seed in range(8)]
    said = [token for sample in await asyncio.gather(*requests) for token in sample.token_ids]
    assert not set(said) & set(live.chat.banned)
    # without the ban they would have been: their logits are three times those of the rows they copy
    logits = live.references[0].logits([*turn.token_ids, *said[:64]], turn.images)
    copied = [(token + 100) % len(head) for token in live.chat.banned]
    assert (3 * logits[:, copied].max(axis=1) > logits.max(axis=1)).mean() > 0.1


async def test_everything_listens_on_loopback_only(live: Live) -> None:
    mine = psutil.Process()
    listening = [
        connection.laddr.ip
        for process in [mine, *mine.children(recursive=True)]
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert set(listening) <= {"127.0.0.1", "::1"}


CHILD = """
import asyncio, sys
from pathlib import Path
from actors.config import GenerationConfig
from actors.generation import VllmGenerator
from common.chat import Chat
from common.media import FolderMediaStore

async def main(folder, media):
    config = GenerationConfig(kv_cache_memory_bytes=64 * 2**20, max_num_seqs=2)
    generator = await VllmGenerator.start(folder, Chat.from_model(folder), FolderMediaStore(media), config)
    print("ready", flush=True)
    await asyncio.sleep(600)

if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2])))
"""


async def test_a_kill_leaves_no_process_behind(live: Live, tmp_path: Path) -> None:
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    root = str(Path(__file__).parent.parent)
    environment = os.environ | {"PYTHONPATH": root}
    command = [sys.executable, str(script), str(live.folders[0]), str(tmp_path / "media")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as parent:
        assert parent.stdout is not None
        line = await asyncio.to_thread(parent.stdout.readline)
        assert line.strip() == "ready"
        children = psutil.Process(parent.pid).children(recursive=True)
        assert children
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    deadline = time.monotonic() + 5
    while any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children):
        assert time.monotonic() < deadline, [child for child in children if child.is_running()]
        await asyncio.sleep(0.05)


async def test_an_engine_whose_worker_failed_half_way_ends_with_an_error_for_everyone(
    live: Live, tmp_path: Path
) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(live.folders[1] / "model.safetensors")
    tensors["nobody.knows.this"] = tensors.pop("lm_head.weight")
    save_file(tensors, tmp_path / "model.safetensors")
    turn = live.opening(live.views(1)[0])
    sampling = Sampling(temperature=1.0, max_tokens=LONG, seed=1)
    flying = asyncio.create_task(live.generator.generate(turn.token_ids, turn.images, sampling))
    await asyncio.sleep(0.02)
    with pytest.raises(WeightsError, match="the engine has ended"):
        await live.generator.load(weights_of(tmp_path, 40_000))
    with pytest.raises(ActorDied, match="has ended"):
        await flying
    with pytest.raises(WeightsError, match="must start again"):
        await live.generator.generate(turn.token_ids, turn.images, sampling)
