"""A vote over whole trajectories, for queries whose answer nobody knows.

Siblings that reach one answer in like ways support each other more than siblings that only agree at the end:

    score_i = Σ_j K(τ_i, τ_j)·[a_i ≡ a_j] + behaviour_i,   K = w + (1 − w)·tools·footprints·observations

with w the weight of the plain answer vote and each factor in [0, 1]. An answer's mass is the score of its best
supported trajectory, so a further vote never costs an answer anything, and w = 1 gives the plain majority. Past items
cannot know the answer to another query, so they vote on behaviour only: for trajectories with tools like theirs,
together at most `neighbour_cap` votes. The vote abstains wherever it is not clear.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from actors.config import VotingConfig
from common.geometry import iou
from common.scoring import levenshtein, normalise
from common.types import Box, Consensus, ExecutedCall, Neighbour, Rollout

_TIE = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trajectory:
    """What the vote looks at. evidence: share of calls that worked, in [0, 1]."""

    rollout_id: str
    answer: str
    tools: tuple[str, ...]
    footprints: tuple[tuple[str, Box], ...]
    observations: tuple[str, ...]
    evidence: float
    num_tokens: int
    identity: tuple[str, tuple[tuple[int, ...], ...]]


def vote(rollouts: Sequence[Rollout], neighbours: Sequence[Neighbour], config: VotingConfig) -> Consensus:
    """What the siblings of one group agree on. The order of `rollouts` does not matter; they must share a group.

    A rollout without a read answer has no vote. Past items of the same query are left out.
    """
    group_id, query_id = rollouts[0].group_id, rollouts[0].query.query_id
    voters = _voters(rollouts, config)
    past = _weights([item for item in neighbours if item.query_id != query_id], config)
    if len(voters) < config.min_parsed:
        return _abstain(rollouts, "too few answers", len(past))
    scores = [_score(voter, voters, past, config.answer_weight) for voter in voters]
    masses: dict[str, float] = {}
    for voter, score in zip(voters, scores, strict=True):
        masses[voter.answer] = max(score, masses.get(voter.answer, 0.0))
    ranked = sorted(masses.items(), key=lambda item: (-item[1], item[0]))
    total = sum(masses[answer] for answer in sorted(masses))
    winner, mass = ranked[0]
    share, margin = mass / total, (mass - (ranked[1][1] if len(ranked) > 1 else 0.0)) / total
    if margin < _TIE:
        return _abstain(rollouts, "tie", len(past), share, margin)
    if share < config.min_share:
        return _abstain(rollouts, "share", len(past), share, margin)
    if margin < config.min_margin:
        return _abstain(rollouts, "margin", len(past), share, margin)
    return Consensus(
        group_id=group_id,
        answer=winner,
        share=share,
        margin=margin,
        agrees={rollout.rollout_id: _canonical(rollout) == winner for rollout in rollouts},
        exemplar=_exemplar(winner, voters, scores, config.fidelity_slack),
        neighbours=len(past),
    )


def _abstain(
    rollouts: Sequence[Rollout], reason: str, num_past: int, share: float = 0.0, margin: float = 0.0
) -> Consensus:
    return Consensus(
        group_id=rollouts[0].group_id,
        answer=None,
        share=share,
        margin=margin,
        agrees={rollout.rollout_id: False for rollout in rollouts},
        exemplar=None,
        neighbours=num_past,
        reason=reason,
    )


def _canonical(rollout: Rollout) -> str | None:
    """The answer with equal values written alike, or None where there is none to count."""
    if rollout.answer is None or rollout.stop_reason != "answer" or not rollout.facts.parsed:
        return None
    return normalise(rollout.answer) or None


def _voters(rollouts: Sequence[Rollout], config: VotingConfig) -> list[_Trajectory]:
    """In the order of their ids; of identical ones (same view, same tokens) the first, when `dedupe`."""
    voters: list[_Trajectory] = []
    seen: set[tuple[str, tuple[tuple[int, ...], ...]]] = set()
    for rollout in sorted(rollouts, key=lambda rollout: rollout.rollout_id):
        answer = _canonical(rollout)
        if answer is None:
            continue
        voter = _trajectory(rollout, answer)
        if config.dedupe and voter.identity in seen:
            continue
        seen.add(voter.identity)
        voters.append(voter)
    return voters


def _trajectory(rollout: Rollout, answer: str) -> _Trajectory:
    calls = rollout.calls
    return _Trajectory(
        rollout_id=rollout.rollout_id,
        answer=answer,
        tools=tuple(done.call.name for done in calls),
        footprints=tuple((done.source, done.footprint) for done in calls if done.footprint is not None),
        observations=tuple(_outcome(done) for done in calls),
        evidence=1.0 - sum(map(failed, calls)) / len(calls) if calls else 1.0,
        num_tokens=rollout.num_sampled_tokens,
        identity=(rollout.views, tuple(turn.token_ids for turn in rollout.turns if turn.role == "assistant")),
    )


def _outcome(done: ExecutedCall) -> str:
    """What a call came to, for comparing: an error's code, "picture", or the text that was returned."""
    if done.observation.error is not None:
        return f"error {done.observation.error}"
    return "picture" if done.observation.image is not None else normalise(done.observation.text)


def failed(done: ExecutedCall) -> bool:
    """Whether a call failed, as far as one can tell without the truth: an error, or a read that found nothing."""
    if done.observation.error is not None:
        return True
    try:
        value = json.loads(done.observation.text)
    except ValueError:
        return False
    return isinstance(value, dict) and isinstance(value.get("text"), str) and not value["text"].strip()


# Likeness of two trajectories, each in [0, 1]: symmetric, 1 with itself


def _kernel(a: _Trajectory, b: _Trajectory, answer_weight: float) -> float:
    alike = tool_similarity(a.tools, b.tools) * _footprint_similarity(a, b) * _observation_similarity(a, b)
    return answer_weight + (1 - answer_weight) * alike


def tool_similarity(a: Sequence[str], b: Sequence[str]) -> float:
    """1 − edit distance / longer length; 1 when both are empty."""
    if not a and not b:
        return 1.0
    letters = {name: chr(0x100 + i) for i, name in enumerate(sorted({*a, *b}))}
    distance = levenshtein("".join(letters[name] for name in a), "".join(letters[name] for name in b))
    return 1 - distance / max(len(a), len(b))


def _footprint_similarity(a: _Trajectory, b: _Trajectory) -> float:
    """Mean IoU of where the calls looked, in order; a call without a partner, or on another picture, counts 0."""
    longest = max(len(a.footprints), len(b.footprints))
    if not longest:
        return 1.0
    pairs = zip(a.footprints, b.footprints, strict=False)
    return sum(iou(box, other) for (source, box), (place, other) in pairs if source == place) / longest


def _observation_similarity(a: _Trajectory, b: _Trajectory) -> float:
    """Share of calls, in order, that came to the same."""
    longest = max(len(a.observations), len(b.observations))
    if not longest:
        return 1.0
    return sum(x == y for x, y in zip(a.observations, b.observations, strict=False)) / longest


def _weights(neighbours: Sequence[Neighbour], config: VotingConfig) -> list[tuple[tuple[str, ...], float]]:
    """Tool chains of past items with their votes, scaled down together where they exceed the cap."""
    weighted = [
        (item.chain, config.neighbour_weight * max(0.0, item.similarity) * item.confidence)
        for item in sorted(neighbours, key=lambda item: item.sequence)
        if item.answer is not None
    ]
    weighted = [(chain, weight) for chain, weight in weighted if weight > 0]
    total = sum(weight for _, weight in weighted)
    scale = min(1.0, config.neighbour_cap / total) if total else 1.0
    return [(chain, weight * scale) for chain, weight in weighted if scale > 0]


def _score(
    voter: _Trajectory,
    voters: Sequence[_Trajectory],
    past: Sequence[tuple[tuple[str, ...], float]],
    answer_weight: float,
) -> float:
    own = sum(_kernel(voter, other, answer_weight) for other in voters if other.answer == voter.answer)
    return own + sum(weight * tool_similarity(voter.tools, chain) for chain, weight in past)


def _exemplar(winner: str, voters: Sequence[_Trajectory], scores: Sequence[float], slack: float) -> str | None:
    """The shortest of the most faithful: fidelity = evidence × score, relative to the best score.

    None when every winner's evidence is 0: what was right by luck is not worth imitating.
    """
    inside = [(voter, score) for voter, score in zip(voters, scores, strict=True) if voter.answer == winner]
    best_score = max(score for _, score in inside)
    fidelity = {voter.rollout_id: voter.evidence * score / best_score for voter, score in inside}
    best = max(fidelity.values())
    if best <= 0:
        return None
    faithful = [voter for voter, _ in inside if fidelity[voter.rollout_id] >= best - slack]
    return min(faithful, key=lambda voter: (voter.num_tokens, voter.rollout_id)).rollout_id
