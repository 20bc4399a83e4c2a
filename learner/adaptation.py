"""Pixel test-time reinforcement learning, one step, without labels.

A rollout's reward is its agreement with the vote. The policy stays in a corridor around its own moving average,
under a hard limit to a fixed anchor: a step that ends outside is undone, so every accepted step ends inside.
Nothing here reads a score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from common.types import Consensus, Rollout
from learner.advantages import group_advantages
from learner.anchor import Anchor
from learner.average import Average
from learner.batch import Row
from learner.config import TtrlConfig
from learner.divergence import next_beta
from learner.improvement import Improvement, Penalty, improve, measure
from learner.schedule import learning_rate
from learner.trainer import Trainer


def agreement_reward(rollout: Rollout, consensus: Consensus, *, length: float) -> float:
    """1 − min(0.3, length·calls) where the rollout agrees with the winner, else 0: among those that agree, shorter
    is better."""
    if not consensus.agrees.get(rollout.rollout_id, False):
        return 0.0
    return 1.0 - min(0.3, length * rollout.facts.num_calls)


def exemplars(
    rollouts: Sequence[Rollout], rows: Sequence[Row], votes: Mapping[str, Consensus]
) -> list[tuple[Row, float]]:
    """The exemplar of each group that has one, as a row to imitate, with the share of its answer.

    Voters see augmented views so that they err apart; the policy will be asked with the plain one. So the exemplar is
    imitated under the opening view of the sibling that saw it plainly, where there is one.
    """
    plain = {r.group_id: index for index, r in reversed(list(enumerate(rollouts))) if not r.views}
    found = []
    for rollout, row in zip(rollouts, rows, strict=True):
        vote = votes[rollout.group_id]
        if rollout.rollout_id != vote.exemplar:
            continue
        opening = rollout.turns[0].images
        sibling = plain.get(rollout.group_id)
        if sibling is not None:
            opening = rollouts[sibling].turns[0].images
        images = (*opening, *row.images[len(opening) :])
        found.append((replace(row, key=f"{row.key}/exemplar", images=images), vote.share))
    return found


class Adaptation:
    """Holds what lasts over the phase: the average, the anchor and β."""

    def __init__(self, trainer: Trainer, anchor: Anchor, average: Anchor, config: TtrlConfig) -> None:
        self._trainer = trainer
        self._anchor = anchor
        self._average = average
        self._config = config
        self.average = Average(dict(average.named_weights()), momentum=config.ema)
        self.beta = config.corridor.beta

    def step(
        self,
        rollouts: Sequence[Rollout],
        rows: Sequence[Row],
        consensus: Sequence[Consensus],
        *,
        fresh: Sequence[bool],
        step: int,
    ) -> dict[str, float]:
        """Learn from the groups that agreed; abstained groups teach nothing. Collective."""
        votes = {vote.group_id: vote for vote in consensus if vote.answer is not None}
        chosen = [index for index, rollout in enumerate(rollouts) if rollout.group_id in votes]
        metrics: dict[str, float] = {
            "num_groups_voted": len(votes),
            "num_groups_abstained": len(consensus) - len(votes),
            "beta": self.beta,
            "rolled_back": 0.0,
        }
        if not chosen:
            return metrics
        mine = [rollouts[index] for index in chosen]
        wanted = self._wanted(mine, [rows[index] for index in chosen], votes, [fresh[index] for index in chosen])
        return (
            metrics
            | self._improve(wanted, step)
            | {
                "vote_share": sum(vote.share for vote in votes.values()) / len(votes),
                "agreement": sum(votes[r.group_id].agrees.get(r.rollout_id, False) for r in mine) / len(mine),
            }
        )

    def _wanted(
        self, rollouts: Sequence[Rollout], rows: Sequence[Row], votes: dict[str, Consensus], fresh: Sequence[bool]
    ) -> Improvement:
        rewards = [agreement_reward(r, votes[r.group_id], length=self._config.length) for r in rollouts]
        advantages = group_advantages(rewards, [rollout.group_id for rollout in rollouts])
        examples = exemplars(rollouts, rows, votes)
        return Improvement(
            rows=[*rows, *(row for row, _ in examples)],
            advantages=[*advantages.tolist(), *(0.0 for _ in examples)],
            imitation=[*(0.0 for _ in rows), *(self._config.exemplar * share for _, share in examples)],
            fresh=[*fresh, *(False for _ in examples)],
            sampled=[*(True for _ in rows), *(False for _ in examples)],
        )

    def _improve(self, wanted: Improvement, step: int) -> dict[str, float]:
        engine, config = self._trainer.engine, self._config
        average = Penalty(name="average", beta=self.beta, references=self._average.look(wanted.rows))
        anchor = Penalty(name="anchor", beta=0.0, references=self._anchor.look(wanted.rows))
        before = engine.state()
        metrics = improve(
            self._trainer, wanted, [average, anchor], config.surrogate, lr=learning_rate(step, config.schedule)
        )
        after = measure(self._trainer, wanted.rows, [average, anchor])
        undone = after["average"] > config.kl_limit or after["anchor"] > config.anchor_limit
        if undone:
            engine.load_state(before)
        else:
            self.average.update(self._trainer.held())
            self._average.forget()
        self.beta = next_beta(self.beta, after["average"], config.corridor)
        return metrics | {
            "kl_average_after": after["average"],
            "kl_anchor_after": after["anchor"],
            "rolled_back": float(undone),
        }
