"""Which rollouts an evaluation makes, where, and how many at once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from fakes.outcomes import an_outcome
from fakes.values import a_task

from actors.arms import ARMS, Arm
from actors.tools.config import MediaLimits
from cluster.evaluation.arms import answer, held_out, measure, outside, place_of, strands, was_forced_anyway
from cluster.phases import EvaluationConfig
from common.errors import ActorDied, DataError
from common.types import Sampling, Task


@dataclass
class Progress:
    """Remembers how far it was told to be."""

    seen: list[int] = field(default_factory=list)
    total: int = 0

    def start(self, stage: str, total: int = 0) -> None:
        self.total = total

    def update(self, done: int, **figures: object) -> None:
        self.seen.append(done)

    def finish(self) -> None:
        pass


class FakeActor:
    """Answers after `delay` turns of the loop; knows how many it was asked at once. dies: this many times first."""

    def __init__(self, name: str, *, dies: int = 0, begins_with_call: bool = False) -> None:
        self.name, self.dies, self.begins_with_call = name, dies, begins_with_call
        self.asked: list[tuple[str, Arm]] = []
        self.samplings: list[Sampling] = []
        self.strips: list[tuple[str, Arm]] = []
        self.now = self.most = 0

    async def call(self, _: Any, task: Task, *, arm: Arm, sampling: Sampling, strip: bool) -> Any:
        if self.dies:
            self.dies -= 1
            raise ActorDied(self.name)
        self.asked.append((task.query.query_id, arm))
        self.samplings.append(sampling)
        self.strips += [(task.query.query_id, arm)] if strip else []
        self.now += 1
        self.most = max(self.most, self.now)
        for _ in range(3):
            await asyncio.sleep(0)
        self.now -= 1
        return replace(an_outcome(arm=arm, begins_with_call=self.begins_with_call), task_id=task.query.query_id)


class FakeSource:
    def __init__(self) -> None:
        self.asked: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    async def call(self, method: Any, *arguments: Any, **named: Any) -> list[Task]:
        self.asked.append((method.__name__, arguments, named))
        return [a_task("q0")]


class FakeActing:
    """What an evaluation needs of a system."""

    def __init__(self, *actors: FakeActor, concurrency: int = 4, **settings: Any) -> None:
        evaluation = EvaluationConfig(concurrency=concurrency, **settings)
        tools = type("Tools", (), {"media_limits": MediaLimits()})()
        actor = type("Limits", (), {"max_tokens": 33})()
        self.config = type("Config", (), {"evaluation": evaluation, "seed": 9, "actor": actor, "tools": tools})()
        self.progress = Progress()
        self.actors = list(actors)
        self.source = FakeSource()
        self.healed = 0

    async def heal(self) -> None:
        self.healed += 1


def tasks(count: int) -> list[Task]:
    return [a_task(f"q{number}") for number in range(count)]


async def test_every_arm_answers_every_task_once_and_outcomes_keep_the_tasks_order() -> None:
    system = FakeActing(FakeActor("a"))
    found = await measure(system, tasks(5), ARMS)
    assert tuple(found.arms) == ARMS
    for arm, outcomes in found.arms.items():
        assert [(o.task_id, o.arm) for o in outcomes] == [(f"q{number}", arm) for number in range(5)]
    assert len(system.actors[0].asked) == len(set(system.actors[0].asked)) == 20
    assert found.num_tokens == 20 * 40
    assert max(system.progress.seen) == system.progress.total == 20


async def test_all_arms_share_one_pool_that_stays_full_and_never_overflows() -> None:
    system = FakeActing(FakeActor("a"), concurrency=6)
    await measure(system, tasks(4), ("learned", "no_tool", "random_tool"))
    assert system.actors[0].most == 6
    first = [name for name, _ in system.actors[0].asked[:6]]
    assert first == ["q0", "q0", "q0", "q1", "q1", "q1"]  # a task's arms side by side share what the engine cached


async def test_the_arms_of_a_task_go_to_one_actor_and_tasks_to_all() -> None:
    system = FakeActing(FakeActor("a"), FakeActor("b"))
    await measure(system, tasks(4), ARMS)
    assert {name for name, _ in system.actors[0].asked} == {"q0", "q2"}
    assert {name for name, _ in system.actors[1].asked} == {"q1", "q3"}


async def test_a_forced_call_that_was_made_anyway_is_not_sampled_again() -> None:
    system = FakeActing(FakeActor("a", begins_with_call=True))
    found = await measure(system, tasks(2), ("learned", "no_tool", "forced_tool"))
    assert ("q0", "forced_tool") not in system.actors[0].asked
    assert [replace(o, arm="learned") for o in found.arms["forced_tool"]] == list(found.arms["learned"])
    assert found.num_tokens == 4 * 40
    assert max(system.progress.seen) == 6


def test_what_may_differ_when_forced_is_sampled_again() -> None:
    assert was_forced_anyway(an_outcome())
    assert not was_forced_anyway(an_outcome(begins_with_call=False))
    assert not was_forced_anyway(an_outcome(tools=()))
    assert not was_forced_anyway(an_outcome(tools=("", "ZOOM")))
    assert not was_forced_anyway(an_outcome(stop_reason="max_tokens"))


def test_every_arm_stands_in_one_strand() -> None:
    assert strands(ARMS) == [["learned", "forced_tool"], ["no_tool"], ["random_tool"]]
    assert strands(("learned", "no_tool")) == [["learned"], ["no_tool"]]
    assert strands(("forced_tool",)) == [["forced_tool"]]


async def test_rollouts_are_greedy_and_random_calls_follow_the_runs_seed() -> None:
    system = FakeActing(FakeActor("a"))
    await measure(system, tasks(1), ARMS)
    assert set(system.actors[0].samplings) == {Sampling(temperature=0.0, max_tokens=33, seed=9)}


async def test_only_the_first_learned_rollouts_keep_their_steps() -> None:
    system = FakeActing(FakeActor("a"))
    await measure(system, tasks(4), ARMS, strips=2)
    assert system.actors[0].strips == [("q0", "learned"), ("q1", "learned")]


async def test_a_task_whose_actor_died_is_put_again_and_given_up_after_three_times() -> None:
    system = FakeActing(FakeActor("a", dies=2))
    assert len(await answer(system, tasks(1))) == 1
    assert system.healed == 2
    with pytest.raises(ActorDied):
        await answer(FakeActing(FakeActor("a", dies=3)), tasks(1))


async def test_tasks_come_from_the_split_or_from_a_set_of_ones_own(tmp_path: Path) -> None:
    system = FakeActing(num_tasks=7, shift="dark:0.3")
    await held_out(system, system.config.evaluation)
    assert system.source.asked == [("tasks", ("test", 0, 7, "dark:0.3"), {})]
    (tmp_path / "set.jsonl").write_text("{}\n")
    settings = EvaluationConfig(num_tasks=5, qa=str(tmp_path / "set.jsonl"), data=str(tmp_path))
    await outside(system, settings)
    name, (qa, media, _), named = system.source.asked[-1]
    assert (name, qa, media, named) == ("outside", str(tmp_path / "set.jsonl"), tmp_path, {"limit": 5, "reader": ""})


def test_questions_may_lie_in_the_folder_and_a_name_stays_a_name(tmp_path: Path) -> None:
    assert place_of(EvaluationConfig(data=str(tmp_path))) == (str(tmp_path), tmp_path)
    assert place_of(EvaluationConfig(qa="easy-vqa")) == ("easy-vqa", None)
    with pytest.raises(DataError, match="no such folder"):
        place_of(EvaluationConfig(data="/nowhere/at/all", qa="x.jsonl"))


async def test_the_source_reads_a_set_that_is_not_ours(tmp_path: Path) -> None:
    import json

    from PIL import Image

    from actors.tasks.config import WorldConfig
    from actors.tasks.source import TaskSource
    from common.media import FolderMediaStore

    Image.new("RGB", (20, 10), "red").save(tmp_path / "red.png")
    rows = [{"media": "red.png", "question": f"colour {n}?", "answer": "red"} for n in range(3)]
    (tmp_path / "set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = TaskSource(WorldConfig(), FolderMediaStore(tmp_path / "store"))
    found = source.outside(str(tmp_path / "set.jsonl"), None, MediaLimits(), limit=2)
    assert [(task.query.question, task.answer) for task in found] == [("colour 0?", "red"), ("colour 1?", "red")]
    assert (found[0].query.images[0].width, found[0].query.images[0].height) == (20, 10)
    with pytest.raises(DataError, match="no such file"):
        source.outside(str(tmp_path / "none.jsonl"), None, MediaLimits())


def test_an_evaluation_needs_the_learned_arm_and_a_phase_the_one_without_tools_too() -> None:
    assert EvaluationConfig().arms == ARMS
    assert EvaluationConfig().phase_arms == ("learned", "no_tool")
    assert EvaluationConfig(phase_arms=ARMS).phase_arms == ARMS
    for wrong in ({"arms": ("no_tool",)}, {"phase_arms": ("learned",)}, {"arms": ("learned", "learned")}):
        with pytest.raises(ValueError, match="must have learned"):
            EvaluationConfig(**wrong)
