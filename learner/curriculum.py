"""What is drawn when, and the way back.

Short chains come first: the curriculum's entries follow one another by steps. With a way back (RollbackConfig), what
was learned before an advance is measured on traces that are never learned from. If it falls too far afterwards, the
learner returns to the weights it had and tries again with a share of the earlier levels in every batch. Steps are the
budget: the wrong way costs the steps it took, so a phase is never longer than it was said to be.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Any, Protocol

from common.errors import ContractError
from common.seeds import seed_of, stream
from learner.config import Curriculum, RollbackConfig, SftConfig


def entry_at(curriculum: Sequence[Curriculum], progress: float) -> int:
    """The number of the entry that holds at `progress` in [0, 1]; their count once all have passed."""
    return next((i for i, entry in enumerate(curriculum) if progress < entry.until), len(curriculum))


def allowed_levels(curriculum: Sequence[Curriculum], progress: float) -> tuple[int, ...] | None:
    """Levels to draw from at `progress` in [0, 1]; None for all."""
    entry = entry_at(curriculum, progress)
    return curriculum[entry].levels if entry < len(curriculum) else None


def earlier_levels(curriculum: Sequence[Curriculum], entry: int) -> list[int]:
    """Levels of the entries before number `entry`, rising."""
    return sorted({level for past in curriculum[:entry] for level in past.levels})


def choose(levels: Sequence[int], *, step: int, config: SftConfig, seed: int, share: float = 0.0) -> list[int]:
    """`batch_size` indices into `levels` (one a trace), with replacement, from the levels that the curriculum allows;
    each is with probability `share` one of an earlier level instead.

    Where no trace of an allowed level is at hand yet, all are drawn from. Raises ContractError without any trace.
    """
    if not levels:
        raise ContractError("no traces to imitate: add traces before the first step")
    progress = step / config.schedule.num_steps
    allowed = allowed_levels(config.curriculum, progress)
    pool = [i for i, level in enumerate(levels) if allowed is None or level in allowed] or list(range(len(levels)))
    random = stream(seed, "imitate", step)
    picks = [pool[i] for i in random.integers(0, len(pool), config.batch_size).tolist()]
    before = earlier_levels(config.curriculum, entry_at(config.curriculum, progress)) if share else []
    past = [i for i, level in enumerate(levels) if level in before]
    if not past:
        return picks
    back = (random.random(config.batch_size) < share).tolist()
    again = random.integers(0, len(past), config.batch_size).tolist()
    return [past[old] if goes_back else new for new, old, goes_back in zip(picks, again, back, strict=True)]


@lru_cache(maxsize=65536)
def is_held_out(key: str, share: float, seed: int) -> bool:
    """Whether the trace called `key` is measured on instead of learned from; about `share` of all are."""
    return seed_of(seed, "held out", key) < share * 2.0**63


class Pupil(Protocol):
    """Who is measured and taken back."""

    def measure(self, levels: Collection[int]) -> dict[int, float]:
        """Token accuracy on held-out traces of each of `levels` that has any."""
        ...

    def keep(self) -> None:
        """Remember the present state; the one kept before goes."""
        ...

    def go_back(self) -> None:
        """Be as at the last `keep`."""
        ...

    def let_go(self) -> None:
        """There is no going back any more."""
        ...


class Ratchet:
    """Goes from entry to entry, and back where too much was lost on the way; at most `max_rollbacks` times.

    share: of earlier levels in a batch, after what has been lost so far.
    """

    def __init__(self, config: RollbackConfig, curriculum: Sequence[Curriculum], *, num_steps: int) -> None:
        self._config = config
        self._curriculum = tuple(curriculum)
        self._num_steps = num_steps
        self._entry = self._advanced_at = 0
        self._reference: dict[int, float] = {}
        self.share = 0.0
        self.num_rollbacks = 0

    @property
    def on(self) -> bool:
        return self._config.every > 0

    def before(self, step: int, pupil: Pupil) -> None:
        """At the first step of an entry, measure and keep what was learned before it."""
        entry = entry_at(self._curriculum, step / self._num_steps)
        if not self.on or entry == self._entry:
            return
        self._entry, self._advanced_at, self._reference = entry, step, {}
        if self.num_rollbacks < self._config.max_rollbacks:
            self._reference = pupil.measure(earlier_levels(self._curriculum, entry))
            pupil.keep()

    def after(self, step: int, pupil: Pupil) -> dict[str, float]:
        """Every `every` steps, see whether an earlier level fell by more than `tolerance`, and go back if so. Returns
        what was measured, as metrics."""
        if not self._reference or (step + 1 - self._advanced_at) % self._config.every:
            return {}
        found = pupil.measure(self._reference)
        fall = max(self._reference[level] - accuracy for level, accuracy in found.items())
        if fall > self._config.tolerance:
            pupil.go_back()
            self.num_rollbacks += 1
            self.share += (1 - self.share) * self._config.share
            if self.num_rollbacks == self._config.max_rollbacks:
                self._reference = {}
                pupil.let_go()
        return {
            "earlier_accuracy": min(found.values()),
            "earlier_fall": fall,
            "rollbacks": self.num_rollbacks,
            "earlier_share": self.share,
        }

    def state(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "entry": self._entry,
            "advanced_at": self._advanced_at,
            "reference": [[level, accuracy] for level, accuracy in sorted(self._reference.items())],
            "share": self.share,
            "num_rollbacks": self.num_rollbacks,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue exactly from `state`."""
        self._entry, self._advanced_at = state["entry"], state["advanced_at"]
        self._reference = dict(state["reference"])
        self.share, self.num_rollbacks = state["share"], state["num_rollbacks"]
