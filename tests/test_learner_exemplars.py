"""Exemplars are imitated as the plain view would have shown them, and nothing else is learned from that row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fakes.learning import a_real_rollout, a_view, a_vote

from common.chat import Chat
from common.media import FolderMediaStore
from common.schema import encode_rollouts
from common.types import Draw, MediaRef, Rollout
from learner.adaptation import exemplars
from learner.batch import Row, row_of_rollout
from learner.config import EngineConfig, LearnerConfig, ScheduleConfig, TtrlConfig
from learner.learner import Learner


def seen_as(rollout: Rollout, view: MediaRef, name: str) -> Rollout:
    opening, *rest = rollout.turns
    return replace(rollout, turns=(replace(opening, images=(view,)), *rest), views=name)


def a_group(chat: Chat, store: FolderMediaStore) -> tuple[list[Rollout], MediaRef]:
    """Four siblings under four views, the third the plain one; the first two agree."""
    plain = a_view(store, 1)
    views = [("hue:1", a_view(store, 2)), ("hue:2", a_view(store, 3)), ("", plain), ("brightness:1", a_view(store, 4))]
    rollouts = [
        seen_as(a_real_rollout(chat, store, i, answer="4" if i < 2 else "7"), view, name)
        for i, (name, view) in enumerate(views)
    ]
    return rollouts, plain


def rows_of(rollouts: list[Rollout], chat: Chat) -> list[Row]:
    return [row_of_rollout(rollout, chat) for rollout in rollouts]


def test_an_exemplar_is_imitated_under_the_plain_view(chat: Chat, store: FolderMediaStore) -> None:
    rollouts, plain = a_group(chat, store)
    rows = rows_of(rollouts, chat)
    ((row, share),) = exemplars(rollouts, rows, {"g0": a_vote(rollouts)})
    assert share == 0.75
    assert row.images == (plain, *rows[0].images[1:])
    assert row.images[0] != rows[0].images[0]
    assert (row.ids == rows[0].ids).all()
    assert row.key != rows[0].key


def test_without_a_plain_sibling_it_is_imitated_as_it_was_seen(chat: Chat, store: FolderMediaStore) -> None:
    rollouts, _ = a_group(chat, store)
    seen = [rollout for rollout in rollouts if rollout.views]
    rows = rows_of(seen, chat)
    ((row, _),) = exemplars(seen, rows, {"g0": a_vote(seen)})
    assert row.images == rows[0].images


def test_a_vote_without_an_exemplar_gives_none(chat: Chat, store: FolderMediaStore) -> None:
    rollouts, _ = a_group(chat, store)
    assert exemplars(rollouts, rows_of(rollouts, chat), {"g0": replace(a_vote(rollouts), exemplar=None)}) == []


def test_imitation_makes_the_exemplar_likelier_where_it_is_seen_plainly(
    chat: Chat, store: FolderMediaStore, folder: Path, tmp_path: Path
) -> None:
    """All agree, so no advantage is left and only the exemplar teaches."""
    rollouts, plain = a_group(chat, store)
    rollouts = [replace(rollout, answer="4") for rollout in rollouts]
    config = LearnerConfig(
        engine=EngineConfig(backend="torch"),
        ttrl=TtrlConfig(schedule=ScheduleConfig(lr=1e-3, num_steps=9, warmup_steps=0), length=0.0, exemplar=1.0),
    )
    learner = Learner(
        config, rank=0, world_size=1, model_folder=folder, store=store, weights_folder=tmp_path / "w", seed=0
    )
    learner.begin("ttrl")
    plainly = row_of_rollout(seen_as(rollouts[0], plain, ""), chat)

    def likelihood() -> float:
        with torch.no_grad():
            return float(learner._trainer.forward.once([plainly], (0,)).logprobs.sum())

    before = likelihood()
    names = tuple(rollout.rollout_id for rollout in rollouts)
    for step in range(3):
        draw = Draw(
            step=step,
            watermark=0,
            rollout_ids=names,
            rollouts=encode_rollouts(rollouts),
            consensus=(a_vote(rollouts),),
        )
        metrics = learner.step(draw)
        assert metrics["policy_loss"] == pytest.approx(0.0, abs=1e-6)
    assert likelihood() > before + 1.0
