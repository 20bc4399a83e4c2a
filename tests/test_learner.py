"""The learner over its phases: it learns, publishes, resumes to the bit, and stays where it must."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fakes.learning import a_real_rollout, a_real_trace, a_vote
from safetensors.torch import load_file

from common.chat import Chat
from common.errors import ContractError, ModelError, RunFolderError
from common.media import FolderMediaStore
from common.schema import encode_rollouts, encode_traces
from common.types import Consensus, Draw, Rollout, Weights
from learner.anchor import tensor_bytes
from learner.config import (
    CorridorConfig,
    EngineConfig,
    LearnerConfig,
    ScheduleConfig,
    SftConfig,
    TtrlConfig,
)
from learner.learner import Learner
from learner.policy import load_backbone

CONFIG = LearnerConfig(
    engine=EngineConfig(backend="torch"),
    sft=SftConfig(schedule=ScheduleConfig(lr=3e-3, num_steps=40, warmup_steps=2), batch_size=8),
    micro_batch_tokens=600,
)

Make = Callable[..., Learner]


@pytest.fixture(scope="module")
def traces(chat: Chat, store: FolderMediaStore) -> bytes:
    return encode_traces([a_real_trace(chat, store, i) for i in range(12)])


@pytest.fixture(scope="module")
def rollouts(chat: Chat, store: FolderMediaStore) -> list[Rollout]:
    return two_groups(chat, store)


@pytest.fixture
def make(folder: Path, store: FolderMediaStore, tmp_path: Path) -> Make:
    def build(config: LearnerConfig = CONFIG, name: str = "weights") -> Learner:
        return Learner(
            config,
            rank=0,
            world_size=1,
            model_folder=folder,
            store=store,
            weights_folder=tmp_path / name,
            seed=7,
        )

    return build


def published(weights: Weights | None) -> dict[str, torch.Tensor]:
    assert weights is not None
    found: dict[str, torch.Tensor] = {}
    for bucket in weights.buckets:
        found |= load_file(bucket)
    return found


def a_draw(rollouts: list[Rollout], step: int = 0, consensus: tuple[Consensus, ...] = ()) -> Draw:
    names = tuple(rollout.rollout_id for rollout in rollouts)
    return Draw(step=step, watermark=0, rollout_ids=names, rollouts=encode_rollouts(rollouts), consensus=consensus)


def two_groups(chat: Chat, store: FolderMediaStore, **changes: object) -> list[Rollout]:
    """Two groups of four; half of each is right."""
    return [
        a_real_rollout(
            chat, store, i, group=g, score=float(i % 2), answer="4" if i % 2 else "7", num_calls=1 + i % 3, **changes
        )
        for g in range(2)
        for i in range(4)
    ]


def test_imitation_lowers_the_loss_and_the_box_loss(make: Make, traces: bytes) -> None:
    learner = make()
    learner.begin("sft")
    assert learner.add_traces(traces) == 12
    metrics = [learner.imitate(step) for step in range(25)]
    assert metrics[-1]["nll"] < 0.5 * metrics[0]["nll"]
    assert metrics[-1]["box_loss"] < metrics[0]["box_loss"]
    assert metrics[-1]["token_accuracy"] > metrics[0]["token_accuracy"]


def test_the_loss_does_not_depend_on_the_scale_of_weights_on_micro_batches_or_on_packing(
    make: Make, chat: Chat, store: FolderMediaStore
) -> None:
    found = []
    for weight, budget, packing in ((1.0, 10_000, False), (3.0, 10_000, False), (1.0, 150, False), (1.0, 600, True)):
        config = replace(CONFIG, micro_batch_tokens=budget, packing=packing)
        learner = make(config, f"w{weight}-{budget}-{packing}")
        learner.begin("sft")
        learner.add_traces(encode_traces([a_real_trace(chat, store, i, weight=weight) for i in range(12)]))
        found.append([learner.imitate(step)["loss"] for step in range(3)])
    for other in found[1:]:
        assert other == pytest.approx(found[0], rel=1e-4)


def test_published_weights_are_what_transformers_names_with_true_digests(make: Make, folder: Path) -> None:
    from blake3 import blake3

    learner = make(replace(CONFIG, bucket_bytes=300_000))
    learner.begin("sft")
    weights = learner.publish()
    found = published(weights)
    expected = load_backbone(folder).state_dict()
    assert weights is not None
    assert len(weights.buckets) > 1
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    for record in weights.tensors:
        assert blake3(tensor_bytes(found[record.name])).hexdigest() == record.digest
        assert record.name in load_file(weights.buckets[record.bucket])


def test_versions_are_never_numbered_twice_and_name_their_parent(make: Make, traces: bytes, tmp_path: Path) -> None:
    learner = make()
    learner.begin("sft")
    learner.add_traces(traces)
    first = learner.publish()
    learner.imitate(0)
    second = learner.publish()
    learner.begin("rft")
    third = learner.publish()
    assert first and second and third
    assert [(w.version, w.parent, w.step) for w in (first, second, third)] == [(0, None, 0), (1, 0, 1), (2, 1, 0)]
    for _ in range(3):
        learner.publish()
    assert len(list((tmp_path / "weights").iterdir())) == 3  # older folders are gone


def test_the_canary_holds_the_published_weights_logprobs(make: Make, chat: Chat, folder: Path) -> None:
    learner = make()
    learner.begin("sft")
    weights = learner.publish()
    assert weights is not None
    canary = weights.canary
    assert canary is not None
    assert len(canary.images) == 1
    assert len(canary.logprobs) == len(canary.token_ids)
    model = load_backbone(folder)
    from learner.policy import PatchInput
    from learner.views import Views, pixel_shape

    pictures = PatchInput(Views(learner._store, chat.vision, pixel_shape(folder, chat.vision)))(canary.images)
    ids = torch.tensor([[*canary.prompt_ids, *canary.token_ids]])
    with torch.no_grad():
        logits = model(
            input_ids=ids,
            mm_token_type_ids=(ids == chat.image_pad).int(),
            pixel_values=pictures.patches,
            image_grid_thw=pictures.grids,
        ).logits[0]
    logits[:, list(chat.banned)] = -torch.inf
    rows = torch.arange(len(canary.prompt_ids) - 1, ids.shape[1] - 1)
    expected = torch.log_softmax(logits, dim=1)[rows, list(canary.token_ids)]
    torch.testing.assert_close(torch.tensor(canary.logprobs), expected, atol=1e-4, rtol=0)


def test_an_exported_folder_is_a_model_that_starts_where_this_one_stopped(
    make: Make, traces: bytes, tmp_path: Path, store: FolderMediaStore
) -> None:
    learner = make()
    learner.begin("sft")
    learner.add_traces(traces)
    learner.imitate(0)
    learner.export(tmp_path / "exported")
    other = Learner(
        CONFIG,
        rank=0,
        world_size=1,
        model_folder=tmp_path / "exported",
        store=store,
        weights_folder=tmp_path / "other",
        seed=7,
    )
    other.begin("sft")
    mine, theirs = published(learner.publish()), published(other.publish())
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize("phase", ["sft", "rft", "ttrl"])
def test_a_resumed_learner_takes_the_identical_next_step(
    make: Make, traces: bytes, rollouts: list[Rollout], tmp_path: Path, phase: str
) -> None:
    votes = (a_vote(rollouts[:4]), a_vote(rollouts[4:]))

    def step(learner: Learner, number: int) -> dict[str, float]:
        if phase == "sft":
            return learner.imitate(number)
        return learner.step(a_draw(rollouts, number, votes))

    learner = make()
    learner.begin(phase)  # type: ignore[arg-type]
    learner.add_traces(traces)
    for number in range(2):
        step(learner, number)
    learner.publish()
    learner.save(tmp_path / "state")
    other = make(CONFIG, "resumed")
    assert other.restore(tmp_path / "state", next_version=5) == 2
    other.add_traces(traces)
    mine, theirs = step(learner, 2), step(other, 2)
    assert {k: v for k, v in mine.items() if k != "learn_s"} == {k: v for k, v in theirs.items() if k != "learn_s"}
    one, two = learner.publish(), other.publish()
    assert two is not None
    assert two.version == 5
    first, second = published(one), published(two)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_checkpoint_holds_no_pickle_and_a_damaged_one_is_refused(make: Make, tmp_path: Path) -> None:
    learner = make()
    learner.begin("sft")
    learner.save(tmp_path / "state")
    files = sorted(file.name for file in (tmp_path / "state").iterdir())
    assert files == ["learner.json", "rank-0.safetensors", "shared.safetensors"]
    shard = tmp_path / "state" / "rank-0.safetensors"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(bytes(data))
    with pytest.raises(RunFolderError, match="missing or damaged"):
        make(CONFIG, "other").restore(tmp_path / "state")
    with pytest.raises(RunFolderError, match=r"no learner\.json"):
        make(CONFIG, "third").restore(tmp_path / "nowhere")


def test_a_folder_without_weights_is_refused_in_one_line(store: FolderMediaStore, folder: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for file in folder.iterdir():
        if file.suffix != ".safetensors":
            (bare / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ModelError, match=r"no \*\.safetensors"):
        Learner(CONFIG, rank=0, world_size=1, model_folder=bare, store=store, weights_folder=tmp_path / "w", seed=0)


def test_reinforcement_makes_right_rollouts_likelier_than_wrong_ones(
    make: Make, chat: Chat, store: FolderMediaStore
) -> None:
    learner = make()
    learner.begin("rft")
    learner.publish()
    rollouts = two_groups(chat, store)
    metrics = learner.step(a_draw(rollouts))
    assert metrics["kl_anchor"] == pytest.approx(0.0, abs=1e-6)
    assert metrics["reward_answer"] == pytest.approx(0.5)
    assert 0 <= metrics["reward_curiosity"] + metrics["reward_coherence"] <= 0.3
    assert metrics["num_fresh"] == 8
    later = [learner.step(a_draw(rollouts, step)) for step in range(1, 6)]
    assert later[-1]["kl_anchor"] > 0
    assert later[0]["num_fresh"] == 0  # the weights moved on
    assert later[-1]["policy_loss"] < metrics["policy_loss"]


def test_a_rollout_without_a_score_cannot_be_reinforced(make: Make, chat: Chat, store: FolderMediaStore) -> None:
    learner = make()
    learner.begin("rft")
    rollouts = [a_real_rollout(chat, store, i, score=None) for i in range(4)]
    with pytest.raises(ContractError, match="no score"):
        learner.step(a_draw(rollouts))
    learner.begin("sft")
    with pytest.raises(ContractError, match="rft and ttrl"):
        learner.step(a_draw(rollouts))


def adapted(learner: Learner, rollouts: list[Rollout], num_steps: int = 2) -> list[dict[str, float]]:
    votes = (a_vote(rollouts[:4]), a_vote(rollouts[4:]))
    return [learner.step(a_draw(rollouts, step, votes)) for step in range(num_steps)]


def test_adaptation_never_reads_a_score(make: Make, chat: Chat, store: FolderMediaStore) -> None:
    weights = []
    for index, score in enumerate((0.0, 1.0, None)):
        learner = make(CONFIG, f"scores{index}")
        learner.begin("ttrl")
        rollouts = [replace(rollout, facts=replace(rollout.facts, score=score)) for rollout in two_groups(chat, store)]
        metrics = adapted(learner, rollouts)
        assert metrics[0]["num_groups_voted"] == 2
        weights.append(published(learner.publish()))
    assert all(torch.equal(weights[0][name], other[name]) for other in weights[1:] for name in other)


def test_an_abstained_group_teaches_nothing(make: Make, chat: Chat, store: FolderMediaStore) -> None:
    learner = make()
    learner.begin("ttrl")
    before = published(learner.publish())
    rollouts = two_groups(chat, store)
    votes = tuple(replace(a_vote(part), answer=None, exemplar=None) for part in (rollouts[:4], rollouts[4:]))
    metrics = learner.step(a_draw(rollouts, 0, votes))
    assert metrics["num_groups_abstained"] == 2
    after = published(learner.publish())
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_step_beyond_the_anchors_limit_is_undone_to_the_bit(make: Make, chat: Chat, store: FolderMediaStore) -> None:
    config = replace(
        CONFIG,
        ttrl=TtrlConfig(
            schedule=ScheduleConfig(lr=1e-2, num_steps=10, warmup_steps=0),
            corridor=CorridorConfig(low=0.0, high=1e-4, beta=0.1),
            kl_limit=1e-3,
            anchor_limit=1e-3,
        ),
    )
    learner = make(config)
    learner.begin("ttrl")
    before = learner.publish()
    first, second = adapted(learner, two_groups(chat, store))
    assert first["rolled_back"] == 1.0
    assert first["kl_anchor_after"] > 1e-3
    assert second["beta"] == pytest.approx(0.15)  # above the corridor: pulled harder next time
    after = learner.publish()
    assert after is not None
    assert before is not None
    assert after.version > before.version  # a rollback is a new version
    one, two = published(before), published(after)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_an_accepted_step_moves_the_average_a_little(make: Make, chat: Chat, store: FolderMediaStore) -> None:
    learner = make()
    learner.begin("ttrl")
    before = published(learner.publish())
    metrics = adapted(learner, two_groups(chat, store))
    after = published(learner.publish())
    assert all(item["rolled_back"] == 0.0 for item in metrics)
    assert learner._average is not None
    name = "lm_head.weight"
    average = dict(learner._average.named_weights())[name]
    moved, policy = (average - before[name]).abs().max(), (after[name] - before[name]).abs().max()
    assert 0 < moved < 0.1 * policy


def test_a_frozen_tower_stays_and_a_free_one_moves(make: Make, folder: Path, traces: bytes) -> None:
    start = load_backbone(folder).state_dict()
    name = "model.visual.merger.mlp.0.weight"
    for frozen in (True, False):
        learner = make(replace(CONFIG, freeze_vision=frozen), f"frozen-{frozen}")
        learner.begin("sft")
        learner.add_traces(traces)
        learner.imitate(0)
        assert torch.equal(published(learner.publish())[name], start[name]) == frozen


def test_k3_and_exact_kl_both_start_at_nought(make: Make, chat: Chat, store: FolderMediaStore) -> None:
    for estimator in ("exact", "k3"):
        learner = make(replace(CONFIG, kl_estimator=estimator), estimator)
        learner.begin("rft")
        first, second = (learner.step(a_draw(two_groups(chat, store), step)) for step in range(2))
        assert first["kl_anchor"] == pytest.approx(0.0, abs=1e-6)
        assert second["kl_anchor"] > 0
