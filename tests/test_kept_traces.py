"""SFT on traces from files: their share and order, where their media are, resuming to the bit, and what is refused."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fakes.learning
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from actors.config import ViewConfig
from actors.tasks.source import TaskSource
from cluster.config import RunConfig, load
from cluster.factories import Site, build_learner, build_task_source
from cluster.kept_traces import check_sets, share_of_files
from cluster.local_runtime import LocalRuntime
from cluster.loop import Chunk, chunks, imitate, num_kept
from cluster.phases import ImitationLevel, ImitationPhase
from cluster.pretraining import SHIPPED
from cluster.runtime import Ranks, Ref
from common.chat import Chat
from common.errors import MediaError, UserError
from common.layers import LayeredMediaStore
from common.media import FolderMediaStore, put_view
from common.schema import decode_traces
from learner.learner import Learner

LEVELS = (
    ImitationLevel(num_plates=(1, 2), num_traces=5, num_steps=3),
    ImitationLevel(num_plates=(2, 4), num_traces=6, num_steps=3),
)
NUM_KEPT = 12


def a_set(folder: Path, chat: Chat, *, count: int = NUM_KEPT, **form: Any) -> Path:
    return fakes.learning.a_set(folder, chat, count=count, **form)


def a_config(files: Path, **traces: Any) -> RunConfig:
    config = load(["phases.sft.chunk=2", "learner.sft.batch_size=4", "learner.engine.backend=torch"])
    phases = replace(config.phases, sft=replace(config.phases.sft, levels=LEVELS))
    return replace(config, phases=phases, traces=replace(config.traces, files=(files,), **({"share": 1.0} | traces)))


# Which traces, when

phases = st.builds(
    ImitationPhase,
    levels=st.lists(
        st.builds(
            ImitationLevel,
            num_plates=st.just((1, 2)),
            num_traces=st.integers(1, 60),
            num_steps=st.integers(1, 40),
        ),
        max_size=4,
    ).map(tuple),
    chunk=st.integers(1, 30),
)


@given(phases, st.floats(0, 1))
def test_everywhere_a_share_is_kept_and_nothing_comes_twice_or_not_at_all(phase: ImitationPhase, share: float) -> None:
    total, kept, made = 0, 0, dict.fromkeys(range(1, len(phase.levels) + 1), 0)
    due = -1
    for chunk in chunks(phase, share=share):
        assert chunk.count > 0 and chunk.due >= due
        due = chunk.due
        if chunk.kept:
            assert chunk.start == kept  # one after the other through all levels
            kept += chunk.count
        else:
            assert chunk.start == made[chunk.level]  # and the others from the first of their level
            made[chunk.level] += chunk.count
        total += chunk.count
        if total == sum(level.num_traces for level in phase.levels[: chunk.level]):
            assert abs(kept - total * share) <= 1
    assert total == sum(level.num_traces for level in phase.levels)
    assert kept == num_kept(total, share)


def test_without_files_the_traces_of_a_phase_are_as_they_were() -> None:
    phase = ImitationPhase(levels=LEVELS, chunk=4)
    found = [(chunk.level, chunk.start, chunk.count, chunk.due, chunk.kept) for chunk in chunks(phase)]
    assert found == [(1, 0, 4, 0, False), (1, 4, 1, 2, False), (2, 0, 4, 3, False), (2, 4, 2, 5, False)]
    half = [(chunk.level, chunk.start, chunk.count, chunk.kept) for chunk in chunks(phase, share=0.5)]
    assert half == [
        (1, 0, 2, False), (1, 0, 2, True), (1, 2, 1, False),
        (2, 0, 2, False), (2, 2, 2, True), (2, 2, 1, False), (2, 4, 1, True),
    ]  # fmt: skip
    assert num_kept(100, 0.29) == 29


# From the files into the weights


class Run:
    """Phase 1 alone: the run's own task source, learner and loop, without actors, since every trace is kept."""

    def __init__(self, runtime: LocalRuntime, folder: Path, model: Path) -> None:
        self._runtime = runtime
        self.site = Site(run=folder / "run", live=folder / "live", model=model)
        for each in (self.site.media, self.site.weights):
            each.mkdir(parents=True)
        self.steps: list[dict[str, float]] = []
        self.chunks: list[Chunk] = []

    async def train(
        self, config: RunConfig, *, restore: Path | None = None, save_at: tuple[int, Path] | None = None
    ) -> dict[str, np.ndarray]:
        source = await self._runtime.spawn(f"tasks {self.site.run}", build_task_source, config, self.site)
        learner: Ranks[Learner] = await self._runtime.spawn_ranks(
            f"learner {self.site.run}", build_learner, 1, config, self.site, ""
        )
        first_step = 0
        if restore is None:
            await learner.call_all(Learner.begin, "sft")
        else:
            (first_step,) = await learner.call_all(Learner.restore, restore)

        def make(chunk: Chunk) -> Ref[bytes]:
            assert chunk.kept
            self.chunks.append(chunk)
            return source.send(TaskSource.kept, chunk.start, chunk.count, level=chunk.level)

        async def after_step(step: int, metrics: dict[str, float]) -> None:
            self.steps.append({name: value for name, value in metrics.items() if name != "learn_s"})
            if save_at is not None and step == save_at[0]:
                await learner.call_all(Learner.save, save_at[1])

        phase, share = config.phases.sft, share_of_files(config)
        await imitate(phase, learner=learner, make=make, after_step=after_step, first_step=first_step, share=share)
        (weights,) = await learner.call_all(Learner.publish)
        return {name: value for file in weights.buckets for name, value in load_file(file).items()}


@pytest.fixture
async def runtime() -> AsyncIterator[LocalRuntime]:
    runtime = LocalRuntime()
    yield runtime
    await runtime.close()


def same(one: dict[str, np.ndarray], two: dict[str, np.ndarray]) -> bool:
    return one.keys() == two.keys() and all(np.array_equal(one[name], two[name]) for name in one)


async def test_a_run_learns_from_files_by_its_seed_and_resumes_to_the_bit(
    runtime: LocalRuntime, folder: Path, chat: Chat, tmp_path: Path
) -> None:
    config = a_config(a_set(tmp_path / "set", chat))
    whole = Run(runtime, tmp_path / "whole", folder)
    weights = await whole.train(config, save_at=(4, tmp_path / "state"))
    assert len(whole.steps) == 6 and all(np.isfinite(step["loss"]) for step in whole.steps)
    assert sum(chunk.count for chunk in whole.chunks) == 11
    # The learner found the views in the set, not in the run's own store.
    views = {file.name for file in (tmp_path / "set" / "media").glob("??/*")}
    assert views and not views & {file.name for file in whole.site.media.glob("??/*")}

    resumed = Run(runtime, tmp_path / "resumed", folder)
    assert same(await resumed.train(config, restore=tmp_path / "state"), weights)
    assert resumed.steps == whole.steps[4:]

    other = Run(runtime, tmp_path / "other", folder)
    await other.train(replace(config, seed=config.seed + 1))
    assert other.steps[0]["loss"] != whole.steps[0]["loss"]


async def test_kept_traces_come_as_of_the_level_that_wants_them(folder: Path, chat: Chat, tmp_path: Path) -> None:
    config = a_config(a_set(tmp_path / "set", chat))
    site = Site(run=tmp_path, live=tmp_path / "live", model=folder)
    source = build_task_source(config, site)
    early, late = (decode_traces(source.kept(start, 6, level=level)) for start, level in ((0, 1), (6, 2)))
    assert {trace.level for trace in early} == {1} and {trace.level for trace in late} == {2}
    names = [trace.trace_id for trace in (*early, *late)]
    assert len(set(names)) == NUM_KEPT
    assert {name.rpartition("/")[2] for name in names} == {f"t{number:04d}" for number in range(NUM_KEPT)}


def test_a_store_finds_in_others_what_it_lacks_and_writes_to_itself(tmp_path: Path) -> None:
    behind = FolderMediaStore(tmp_path / "behind")
    ref = put_view(behind, np.full((4, 4, 3), 7, np.uint8))
    store = LayeredMediaStore(tmp_path / "own", [FolderMediaStore(tmp_path / "empty"), behind])
    assert ref.digest in store and store.get(ref.digest) == behind.get(ref.digest)
    assert bytes(store.mapped(ref.digest)) == behind.get(ref.digest)
    assert ref.digest not in FolderMediaStore(store.root)
    put_view(store, np.full((4, 4, 3), 7, np.uint8))
    assert ref.digest in FolderMediaStore(store.root)
    with pytest.raises(MediaError, match="own"):
        store.get("00" * 32)


# What is refused


def test_a_set_that_a_run_cannot_learn_from_is_one_line(chat: Chat, folder: Path, tmp_path: Path) -> None:
    run, small = tmp_path / "run", Chat.from_model(SHIPPED)
    check_sets(a_config(a_set(tmp_path / "good", small)), SHIPPED, run)

    def refused(files: Path, **changes: Any) -> str:
        with pytest.raises(UserError) as raised:
            check_sets(a_config(files, **changes), SHIPPED, tmp_path / "other run")
        assert "\n" not in str(raised.value)
        return str(raised.value)

    assert "another tokenizer than" in refused(a_set(tmp_path / "tokens", chat))
    tokenizer = Tokenizer.from_file(str(SHIPPED / "tokenizer.json"))
    coarse = Chat(tokenizer, replace(small.vision, min_pixels=1024, max_pixels=1024))
    side: dict[str, Any] = {"view": ViewConfig(side=32), "side": 32}
    assert "another vision and view than" in refused(a_set(tmp_path / "vision", coarse, **side))
    assert "another view than" in refused(a_set(tmp_path / "view", small, view=ViewConfig(side=128)))
    asked = Chat.from_model(SHIPPED, system="You have tools.")
    assert "another system prompt than" in refused(a_set(tmp_path / "system", asked))
    assert "holds no traces" in refused(tmp_path)
    few = a_set(tmp_path / "few", small, count=4)
    assert "asks for 11 of the 11 traces of phase 1, and traces.files hold 4; set traces.share to 0.363" in refused(few)
    check_sets(a_config(few, share=0.363), SHIPPED, tmp_path / "third run")


def test_a_run_goes_on_with_the_traces_that_it_began_with_or_not_at_all(tmp_path: Path) -> None:
    small, run = Chat.from_model(SHIPPED), tmp_path / "run"
    config = a_config(a_set(tmp_path / "set", small))
    check_sets(config, SHIPPED, run)
    check_sets(config, SHIPPED, run)
    (tmp_path / "set").rename(tmp_path / "gone")
    a_set(tmp_path / "set", small, first=100)
    with pytest.raises(UserError, match="--fresh"):
        check_sets(config, SHIPPED, run)
    state = json.loads((run / "state.json").read_text())
    (run / "state.json").write_text(json.dumps(state | {"rows": [{"name": "sft"}]}))
    check_sets(config, SHIPPED, run)  # phase 1 is over: nobody asks for them any more


def test_the_command_line_names_files_and_share() -> None:
    config = load(["traces.files=[sets/a,sets/b]", "traces.share=0.25"])
    assert config.traces.files == (Path("sets/a"), Path("sets/b")) and share_of_files(config) == 0.25
    assert share_of_files(load([])) == 0
    with pytest.raises(UserError, match="share must be in"):
        load(["traces.share=0"])
