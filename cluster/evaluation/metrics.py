"""What outcomes come to: figures with 95 % intervals for one arm, and what tools gain and harm between two.

RaPR is the share of rollouts with at least one visual call, RaCPR with two distinct tools of which one worked on what
the other returned; both over all tasks, controls included.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

from actors.actor import Outcome
from cluster.evaluation.intervals import bootstrap, mcnemar, wilson
from common.scoring import anls, mean_relative_accuracy

TEXT_KINDS, NUMBER_KINDS = ("exact", "anls"), ("numeric", "near")
"""Kinds of tasks whose answers have a text to be near to, or a number."""
RIGHT = 0.5
"""A score from which an answer counts as right, where only right and wrong are told apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A measured value over `num` tasks. low, high: its interval at 95 %; None where there are too few tasks."""

    value: float
    low: float | None
    high: float | None
    num: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One arm on a set of tasks. A figure is None where no task has it.

    accuracy: mean score under each task's kind. anls: of text answers; mra: of numbers (common/scoring). coverage:
    share that ended in an answer which could be read; selective_accuracy: mean score among those. valid_calls: share
    of the calls that worked; a turn that held no call counts as one that did not. rapr, racpr: shares of rollouts.
    calls, tokens: a rollout, tokens sampled. excess_calls: beyond the planned chain, max(0, n − n*), a rollout.
    """

    num_tasks: int
    accuracy: Figure
    anls: Figure | None
    mra: Figure | None
    coverage: Figure
    selective_accuracy: Figure | None
    valid_calls: Figure | None
    rapr: Figure
    racpr: Figure
    calls: Figure
    excess_calls: Figure | None
    tokens: Figure


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """One arm against another on the same tasks. `base`: the other arm.

    gain: share of the tasks that the base had wrong and this arm right; harm: the reverse. difference: of their mean
    scores. p_value: that gain and harm are equally likely (McNemar, exact), uncorrected for the number of families.
    """

    base: str
    num_tasks: int
    gain: Figure
    harm: Figure
    difference: Figure
    p_value: float


def figures(outcomes: Sequence[Outcome], *, planned: bool, seed: int = 0) -> Figures:
    """Of one arm's outcomes. planned: whether the tasks' shortest chains are known."""
    texts = [o for o in outcomes if o.kind in TEXT_KINDS]
    numbers = [o for o in outcomes if o.kind in NUMBER_KINDS]
    parsed = [o for o in outcomes if o.parsed]
    called = [len(o.tools) for o in outcomes]
    worked = [len(o.tools) - o.num_errors for o in outcomes]
    return Figures(
        num_tasks=len(outcomes),
        accuracy=average([o.score for o in outcomes], seed=seed),
        anls=average([_best(anls_of, o) for o in texts], seed=seed) if texts else None,
        mra=average([_best(mean_relative_accuracy, o) for o in numbers], seed=seed) if numbers else None,
        coverage=average([o.parsed for o in outcomes], seed=seed),
        selective_accuracy=average([o.score for o in parsed], seed=seed) if parsed else None,
        valid_calls=ratio(worked, called, seed=seed) if any(called) else None,
        rapr=average([any(o.tools) for o in outcomes], seed=seed),
        racpr=average([o.composite for o in outcomes], seed=seed),
        calls=mean_of(called, seed=seed),
        excess_calls=mean_of([max(0, len(o.tools) - len(o.chain)) for o in outcomes], seed=seed) if planned else None,
        tokens=mean_of([o.num_tokens for o in outcomes], seed=seed),
    )


def effect(arm: Sequence[Outcome], base: Sequence[Outcome], *, seed: int = 0) -> Effect:
    """Of `arm` against `base`. Raises ValueError unless both did the same tasks in the same order."""
    if [o.task_id for o in arm] != [o.task_id for o in base]:
        raise ValueError("two arms are compared on the same tasks, in the same order")
    pairs = [(ours.score >= RIGHT, theirs.score >= RIGHT) for ours, theirs in zip(arm, base, strict=True)]
    gained, harmed = pairs.count((True, False)), pairs.count((False, True))
    return Effect(
        base=base[0].arm,
        num_tasks=len(pairs),
        gain=share(gained, len(pairs)),
        harm=share(harmed, len(pairs)),
        difference=mean_of([ours.score - theirs.score for ours, theirs in zip(arm, base, strict=True)], seed=seed),
        p_value=mcnemar(gained, harmed),
    )


def by_family(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    """Outcomes of each family, families by name."""
    return {
        family: [o for o in outcomes if o.family == family]
        for family in sorted({outcome.family for outcome in outcomes})
    }


def share(successes: int, num: int) -> Figure:
    """A proportion with Wilson's interval."""
    low, high = wilson(successes, num)
    return Figure(value=successes / num, low=low, high=high, num=num)


def mean_of(values: Sequence[float], *, seed: int) -> Figure:
    """A mean with its interval by bootstrap."""
    low, high = bootstrap(values, seed=seed) or (None, None)
    return Figure(value=sum(values) / len(values), low=low, high=high, num=len(values))


def average(values: Sequence[float], *, seed: int) -> Figure:
    """A mean of values in [0, 1]: a proportion where all are 0 or 1."""
    if all(value in (0, 1) for value in values):
        return share(round(sum(values)), len(values))
    return mean_of(values, seed=seed)


def ratio(values: Sequence[float], weights: Sequence[float], *, seed: int) -> Figure:
    """Σ values / Σ weights, counts, with its interval by bootstrap over the items; where all or none succeeded every
    resample is the same, and the interval is Wilson's, as if the counts were independent.
    """
    if sum(values) in (0, sum(weights)):
        bounds: tuple[float, float] | None = wilson(round(sum(values)), round(sum(weights)))
    else:
        bounds = bootstrap(values, weights, seed=seed)
    low, high = bounds or (None, None)
    return Figure(value=sum(values) / sum(weights), low=low, high=high, num=len(values))


def anls_of(answer: str, truth: str) -> float:
    return anls(answer, (truth,))


def _best(scorer: Callable[[str, str], float], outcome: Outcome) -> float:
    """The best over what the task accepts; no answer scores 0."""
    if outcome.answer is None:
        return 0.0
    return max(scorer(outcome.answer, truth) for truth in (outcome.truth, *outcome.accepted))


FIGURES = tuple(field.name for field in fields(Figures) if field.name != "num_tasks")
"""Names of an arm's figures, in order."""
