"""Adapters on the language layers: an empty one is the base, only it is trained, kept and published."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes.large_models import LARGE, make_large_model
from fakes.learning import a_real_rollout, a_real_trace, a_vote
from safetensors.torch import load_file

from common.chat import Chat
from common.errors import ModelError, RunFolderError
from common.media import FolderMediaStore
from common.schema import encode_rollouts, encode_traces
from common.types import Draw, Rollout, Weights
from learner.anchor import weights_digest
from learner.batch import row_of_trace
from learner.config import EngineConfig, LearnerConfig, LoraConfig, ScheduleConfig, SftConfig
from learner.learner import Learner
from learner.lora import AdapterAnchor, in_adapter
from learner.policy import load_backbone

LORA = LoraConfig(rank=4, alpha=8)
CONFIG = LearnerConfig(
    engine=EngineConfig(backend="torch"),
    sft=SftConfig(schedule=ScheduleConfig(lr=1e-2, num_steps=40, warmup_steps=0), batch_size=4),
    micro_batch_tokens=600,
    lora=LORA,
)
TARGETS = 7
LAYERS = 2

Make = Callable[..., Learner]


@pytest.fixture(scope="module")
def traces(chat: Chat, store: FolderMediaStore) -> bytes:
    return encode_traces([a_real_trace(chat, store, i) for i in range(8)])


@pytest.fixture(scope="module")
def draw(chat: Chat, store: FolderMediaStore) -> Draw:
    rollouts = [a_real_rollout(chat, store, i, score=float(i % 2), answer="4" if i % 2 else "7") for i in range(4)]
    return a_draw(rollouts)


def a_draw(rollouts: list[Rollout]) -> Draw:
    names = tuple(rollout.rollout_id for rollout in rollouts)
    return Draw(
        step=0, watermark=0, rollout_ids=names, rollouts=encode_rollouts(rollouts), consensus=(a_vote(rollouts),)
    )


@pytest.fixture
def make(folder: Path, store: FolderMediaStore, tmp_path: Path) -> Make:
    def build(config: LearnerConfig = CONFIG, name: str = "weights", model: Path = folder) -> Learner:
        return Learner(
            config, rank=0, world_size=1, model_folder=model, store=store, weights_folder=tmp_path / name, seed=7
        )

    return build


def published(weights: Weights | None) -> dict[str, torch.Tensor]:
    assert weights is not None
    return {name: tensor for bucket in weights.buckets for name, tensor in load_file(bucket).items()}


def said(learner: Learner, chat: Chat, store: FolderMediaStore) -> torch.Tensor:
    """The learner's log-probs of a trace, over the vocabulary."""
    row = row_of_trace(a_real_trace(chat, store, 3), chat)
    with torch.no_grad():
        return learner._trainer.forward.once([row], (0,)).all_logprobs


def base_digest(learner: Learner) -> str:
    """Of every parameter that belongs to no adapter, under its plain name."""
    plain = ((n.replace(".base_layer.", "."), t) for n, t in learner._trainer.engine.weights() if ".lora_" not in n)
    return weights_digest(sorted(plain))


def trained(make: Make, traces: bytes, num_steps: int = 3, **names: Any) -> Learner:
    learner = make(**names)
    learner.begin("sft")
    learner.add_traces(traces)
    for step in range(num_steps):
        learner.imitate(step)
    return learner


def test_an_empty_adapter_is_the_base_bit_for_bit(make: Make, chat: Chat, store: FolderMediaStore) -> None:
    plain, adapted = make(replace(CONFIG, lora=None), "plain"), make()
    assert torch.equal(said(adapted, chat, store), said(plain, chat, store))


def test_training_moves_the_policy_and_leaves_the_base(
    make: Make, traces: bytes, folder: Path, chat: Chat, store: FolderMediaStore
) -> None:
    start = make(replace(CONFIG, lora=None), "plain")
    learner = trained(make, traces)
    assert base_digest(learner) == weights_digest(sorted(load_backbone(folder).named_parameters()))
    assert not torch.allclose(said(learner, chat, store), said(start, chat, store), atol=1e-2)
    names = [name for name, parameter in learner._trainer.engine.weights() if in_adapter(name)]
    assert len(names) == 2 * TARGETS * LAYERS
    assert all(".language_model.layers." in name for name in names)


def test_imitation_lowers_the_loss(make: Make, traces: bytes) -> None:
    learner = make()
    learner.begin("sft")
    learner.add_traces(traces)
    metrics = [learner.imitate(step) for step in range(20)]
    assert metrics[-1]["nll"] < 0.8 * metrics[0]["nll"]


def test_merged_weights_say_what_the_adapter_says(
    make: Make, traces: bytes, folder: Path, chat: Chat, store: FolderMediaStore
) -> None:
    learner = trained(make, traces, config=replace(CONFIG, lora=replace(LORA, publish="merged")))
    weights = learner.publish()
    assert weights is not None
    assert not weights.adapter
    found = published(weights)
    plain = load_backbone(folder)
    assert set(found) == set(plain.state_dict())
    other = make(replace(CONFIG, lora=None), "other")
    with torch.no_grad():
        for name, parameter in other._trainer.engine._network.backbone.named_parameters():  # type: ignore[attr-defined]
            parameter.copy_(found[name])
    torch.testing.assert_close(said(other, chat, store), said(learner, chat, store), atol=1e-4, rtol=0)
    adapted = "model.language_model.layers.0.mlp.down_proj.weight"
    assert not torch.equal(found[adapted], plain.state_dict()[adapted])
    untouched = "model.language_model.embed_tokens.weight"
    assert torch.equal(found[untouched], plain.state_dict()[untouched])


def test_a_published_adapter_is_one_that_peft_itself_loads(
    make: Make, traces: bytes, folder: Path, chat: Chat, store: FolderMediaStore
) -> None:
    import peft

    learner = trained(make, traces)
    weights = learner.publish()
    assert weights is not None
    assert weights.adapter
    assert len(weights.tensors) == 2 * TARGETS * LAYERS
    wrapped = peft.PeftModel.from_pretrained(load_backbone(folder), str(Path(weights.buckets[0]).parent))
    row = row_of_trace(a_real_trace(chat, store, 3), chat)
    text_only = torch.from_numpy(row.ids[None, -12:])
    with torch.no_grad():
        theirs = wrapped(input_ids=text_only).logits
        mine = learner._trainer.engine._network.backbone(input_ids=text_only).logits  # type: ignore[attr-defined]
    torch.testing.assert_close(theirs, mine, atol=1e-5, rtol=0)


def test_an_export_is_a_plain_model_with_the_adapter_added_in(
    make: Make, traces: bytes, tmp_path: Path, chat: Chat, store: FolderMediaStore
) -> None:
    learner = trained(make, traces)
    learner.export(tmp_path / "exported")
    other = make(replace(CONFIG, lora=None), "other", tmp_path / "exported")
    torch.testing.assert_close(said(other, chat, store), said(learner, chat, store), atol=1e-4, rtol=0)


def test_the_anchor_of_a_fresh_adapter_is_the_base(make: Make, draw: Draw, chat: Chat, store: FolderMediaStore) -> None:
    learner = make()
    learner.begin("rft")
    plain = make(replace(CONFIG, lora=None), "plain")
    first, second = learner.step(draw), learner.step(replace(draw, step=1))
    assert first["kl_anchor"] == pytest.approx(0.0, abs=1e-6)
    assert second["kl_anchor"] > 0
    anchor = learner._anchor
    assert isinstance(anchor, AdapterAnchor)
    assert anchor.empty
    row = row_of_trace(a_real_trace(chat, store, 3), chat)
    (kept,) = anchor.look([row]).values()
    assert torch.equal(kept.logprobs, said(plain, chat, store))


def test_the_anchor_of_a_trained_adapter_is_what_it_was_at_the_start(
    make: Make, traces: bytes, draw: Draw, chat: Chat, store: FolderMediaStore
) -> None:
    learner = trained(make, traces)
    before = said(learner, chat, store)
    learner.begin("rft")
    assert learner.step(draw)["kl_anchor"] == pytest.approx(0.0, abs=1e-6)
    assert learner._anchor is not None
    row = row_of_trace(a_real_trace(chat, store, 3), chat)
    (kept,) = learner._anchor.look([row]).values()
    torch.testing.assert_close(kept.logprobs, before, atol=1e-5, rtol=0)
    assert not torch.allclose(said(learner, chat, store), before, atol=1e-4)


def test_the_average_is_an_adapter_that_follows(make: Make, draw: Draw) -> None:
    learner = make()
    learner.begin("ttrl")
    start = {name: tensor.clone() for name, tensor in learner._average.named_weights()}  # type: ignore[union-attr]
    metrics = learner.step(draw)
    assert metrics["rolled_back"] == 0.0
    momentum = CONFIG.ttrl.ema
    for name, tensor in learner._trainer.held():
        average = dict(learner._average.named_weights())[name]  # type: ignore[union-attr]
        expected = momentum * start[name] + (1 - momentum) * tensor
        torch.testing.assert_close(average, expected, atol=1e-7, rtol=1e-5)
    inside = {n: t for n, t in learner._trainer.engine.weights() if ".average." in n}
    for name, tensor in learner._average.named_weights():  # type: ignore[union-attr]
        assert torch.equal(inside[name.replace(".policy.", ".average.")], tensor)


def test_a_step_beyond_the_limit_is_undone_to_the_bit(make: Make, draw: Draw) -> None:
    config = replace(
        CONFIG,
        ttrl=replace(
            CONFIG.ttrl,
            schedule=ScheduleConfig(lr=0.3, num_steps=10, warmup_steps=0),
            corridor=replace(CONFIG.ttrl.corridor, low=0.0, high=1e-6, beta=0.1),
            kl_limit=1e-5,
            anchor_limit=1e-5,
        ),
    )
    learner = make(config)
    learner.begin("ttrl")
    learner.step(draw)  # B leaves nought, so the next step has a gradient in A too
    before = published(learner.publish())
    assert learner.step(replace(draw, step=1))["rolled_back"] == 1.0
    after = published(learner.publish())
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("phase", ["sft", "rft", "ttrl"])
def test_a_checkpoint_holds_adapters_only_and_resumes_to_the_bit(
    make: Make, traces: bytes, draw: Draw, tmp_path: Path, *, phase: str, folder: Path
) -> None:
    def step(learner: Learner, number: int) -> dict[str, float]:
        return learner.imitate(number) if phase == "sft" else learner.step(replace(draw, step=number))

    learner = make()
    learner.begin(phase)  # type: ignore[arg-type]
    learner.add_traces(traces)
    for number in range(2):
        step(learner, number)
    learner.save(tmp_path / "state")
    shard = load_file(tmp_path / "state" / "rank-0.safetensors")
    adapter = sum(tensor.numel() for _, tensor in learner._trainer.held())
    masters = sum(tensor.numel() for name, tensor in shard.items() if name.endswith(".master"))
    assert masters == adapter
    whole = (folder / "model.safetensors").stat().st_size / 4
    assert adapter < whole / 5
    shared = load_file(tmp_path / "state" / "shared.safetensors")
    kept = sum(tensor.numel() for name, tensor in shared.items() if name.startswith(("anchor.", "average.")))
    assert kept == adapter * {"sft": 0, "rft": 1, "ttrl": 2}[phase]
    other = make(CONFIG, "resumed")
    assert other.restore(tmp_path / "state") == 2
    other.add_traces(traces)
    mine, theirs = step(learner, 2), step(other, 2)
    assert {k: v for k, v in mine.items() if k != "learn_s"} == {k: v for k, v in theirs.items() if k != "learn_s"}
    first, second = published(learner.publish()), published(other.publish())
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_checkpoint_of_another_rank_is_refused(make: Make, traces: bytes, tmp_path: Path) -> None:
    trained(make, traces, 1).save(tmp_path / "state")
    with pytest.raises(RunFolderError, match="other shapes"):
        make(replace(CONFIG, lora=replace(LORA, rank=8)), "other").restore(tmp_path / "state")


@pytest.mark.parametrize("name", sorted(LARGE))
def test_every_large_architecture_takes_adapters_on_its_language_layers_only(
    name: str, make: Make, tmp_path: Path, store: FolderMediaStore
) -> None:
    folder = make_large_model(tmp_path / "model", name, max_pixels=200_704)
    chat = Chat.from_model(folder)
    side = 2 * 2 * LARGE[name].patch if "min_pixels" in LARGE[name].sizes else 256
    learner = make(CONFIG, "large", folder)
    before = base_digest(learner)
    learner.begin("sft")
    learner.add_traces(encode_traces([a_real_trace(chat, store, i, side=side) for i in range(4)]))
    losses = [learner.imitate(step)["nll"] for step in range(4)]
    assert losses[-1] < losses[0]
    assert base_digest(learner) == before
    weights = learner.publish()
    assert weights is not None
    assert len(weights.tensors) == 2 * TARGETS * 3
    assert not any("visual" in tensor.name for tensor in weights.tensors)


def test_settings_that_cannot_work_are_refused_in_one_line(make: Make) -> None:
    with pytest.raises(ModelError, match=r"targets: the model's language layers have no query"):
        make(replace(CONFIG, lora=replace(LORA, targets=("query",))))
    with pytest.raises(ValueError, match="dropout must be 0"):
        LoraConfig(dropout=0.1)
    with pytest.raises(ValueError, match="freeze_vision"):
        LearnerConfig(lora=LORA, freeze_vision=False)
    with pytest.raises(ValueError, match="rank must be at most 512"):
        LoraConfig(rank=1024)
