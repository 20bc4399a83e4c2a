"""What can be known of an answer without looking: figures of the world itself, no model involved."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from actors.tasks.config import WorldConfig
from actors.tasks.world.drawn import Drawn
from actors.tasks.world.world import World
from common.media import FolderMediaStore
from common.scoring import near


@dataclass(frozen=True, slots=True, kw_only=True)
class Blind:
    """A family's answers by themselves.

    ceiling: accuracy of the best constant answer, chosen on these very tasks, so a little too high. entropy: of the
    answers, as a share of that of equally frequent ones (numbers in twelve bins of equal width on a log scale).
    """

    family: str
    num_tasks: int
    ceiling: float
    entropy: float


def blind(family: str, config: WorldConfig, store: FolderMediaStore, *, num_tasks: int, split: str = "test") -> Blind:
    """The figures of `num_tasks` tasks of one family."""
    mix = {family: 1.0}
    world = World(WorldConfig(seed=config.seed, side=config.side, ground=config.ground, mix=mix), store)
    drawn = [world.draw(split, index)[1] for index in range(num_tasks)]
    return Blind(family=family, num_tasks=num_tasks, ceiling=best_constant(drawn), entropy=evenness(drawn))


def best_constant(drawn: Sequence[Drawn]) -> float:
    """How often the answer that is right most often is right."""
    answers = [it.answer for it in drawn]
    if drawn[0].kind == "near":
        return max(sum(near(constant, answer) for answer in answers) for constant in set(answers)) / len(answers)
    return Counter(answers).most_common(1)[0][1] / len(answers)


def evenness(drawn: Sequence[Drawn]) -> float:
    """H / log n of the answers' classes: 1 where all are equally frequent, 0 where there is one."""
    answers = [it.answer for it in drawn]
    if drawn[0].kind == "near":
        logs = [math.log(float(answer)) for answer in answers]
        low, width = min(logs), (max(logs) - min(logs)) / 12 or 1.0
        classes: list[object] = [min(11, int((value - low) / width)) for value in logs]
        possible = 12
    elif all(answer.isdigit() and len(answer) > 1 for answer in answers):
        places = list(zip(*answers, strict=True))
        return sum(map(_entropy, places)) / (len(places) * math.log(10))
    else:
        classes, possible = list(answers), len(set(answers))
    return _entropy(classes) / math.log(possible) if possible > 1 else 0.0


def _entropy(classes: Sequence[object]) -> float:
    counts = Counter(classes).values()
    return -sum(count / len(classes) * math.log(count / len(classes)) for count in counts)
