"""What a golden plan becomes when a policy gets it wrong first: the wrong part is answered by the tools, not imitated.

    trap        a plausible call at the wrong place or of the wrong picture; then the golden chain
    near_miss   the right box, moved so that a part is missed; then the golden chain
                (half of the wrong crops are read first, as a policy would that does not know yet)
    correction  a call that errs: swapped corners, an empty box, a reference to nothing; then the golden chain
    negative    a task that needs no tool, answered at once

Each is a function of the plan and a stream of random numbers. A wrong call that works returns a picture, a mask or a
track of its own, so the names that later calls use move on by one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

import numpy as np

from actors.tasks.plan import Copied, Plan, Step
from actors.traces.config import TraceMix
from common.geometry import GRID, area, intersection
from common.seeds import stream
from common.types import Box, Query, ToolCall

NAMED = {"ZOOM": "image", "SEG": "mask", "TRK": "track"}
"""What later calls may name after a call of a tool."""
_REFERENCE = re.compile(r"(image|frame|mask|track)_([1-9][0-9]{0,5})", re.ASCII)
_MISSED = (0.25, 0.5)
"""How far a near miss is moved, as shares of the box's side."""
_APART = 250
"""On the grid: how far a wrong point lies from the right one, at least."""
_TRIES = 40
_READ_SHARE = 0.5


def vary(plan: Plan, mix: TraceMix, *, seed: int) -> Plan | None:
    """The variant of a golden plan that the mix gives it, the plan itself where none can be made of it, or None where
    the mix has no place for it. A function of (plan, mix, seed).
    """
    random = stream(seed, "variants", plan.task.query.query_id)
    if not plan.steps:
        return replace(plan, kind="negative") if random.random() < mix.negative else None
    kinds = ("golden", "trap", "correction", "near_miss")
    shares = np.array([getattr(mix, kind) for kind in kinds])
    kind = kinds[int(random.choice(len(kinds), p=shares / shares.sum()))]
    return plan if kind == "golden" else VARIANTS[kind](plan, random) or plan


def trap(plan: Plan, random: np.random.Generator) -> Plan | None:
    """A wrong but plausible call before one of the calls; None where there is none to be made."""
    return _preceded(plan, "trap", list(_traps(plan, random)), random)


def near_miss(plan: Plan, random: np.random.Generator) -> Plan | None:
    """A call whose box misses a part of the right one before that; None where no call has a box of its own."""
    wrong = [
        _Wrong(at=at, name=name, value=list(_moved(box, random)))
        for at, step in enumerate(plan.steps)
        for name, box in _boxes(step)
    ]
    return _preceded(plan, "near_miss", wrong, random)


def correction(plan: Plan, random: np.random.Generator) -> Plan | None:
    """A call that ends in an error before the right one; None where no argument can be got wrong."""
    return _preceded(plan, "correction", list(_errors(plan, random)), random)


VARIANTS: dict[str, Callable[[Plan, np.random.Generator], Plan | None]] = {
    "trap": trap,
    "near_miss": near_miss,
    "correction": correction,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wrong:
    """The call of step `at` with another value of one argument, to be made before it."""

    at: int
    name: str
    value: Any


def _traps(plan: Plan, random: np.random.Generator) -> Iterator[_Wrong]:
    for at, step in enumerate(plan.steps):
        for name, box in _boxes(step):
            elsewhere = _elsewhere(box, plan.decoys, random)
            if elsewhere is not None:
                yield _Wrong(at=at, name=name, value=list(elsewhere))
        point = step.call.arguments.get("point")
        if "point" not in step.copies and _are_whole(point, 2):
            yield _Wrong(at=at, name="point", value=_away(point, random))
        for name, kind, number in _references(step):
            right = (number, _whole_of(plan, kind, number))
            others = [other for other in range(1, _count(plan, at, kind) + 1) if other not in right]
            if others:
                yield _Wrong(at=at, name=name, value=f"{kind}_{random.choice(others)}")


def _errors(plan: Plan, random: np.random.Generator) -> Iterator[_Wrong]:
    for at, step in enumerate(plan.steps):
        for name, (x0, y0, x1, y1) in _boxes(step):
            empty = [x0, y0, x0, y1] if random.random() < 0.5 else [x0, y1, x1, y1]
            for box in ([x1, y1, x0, y0], empty):
                yield _Wrong(at=at, name=name, value=box)
        for name, kind, _ in _references(step):
            unknown = _count(plan, at, kind) + int(random.integers(1, 4))
            yield _Wrong(at=at, name=name, value=f"{kind}_{unknown}")


def _preceded(plan: Plan, kind: str, wrong: Sequence[_Wrong], random: np.random.Generator) -> Plan | None:
    """The plan with one of the wrong calls in it, later names and copies moved on. None where there is none."""
    if plan.kind != "golden":
        raise ValueError(f"variants are made of golden plans, got one of kind {plan.kind}")
    if not wrong:
        return None
    chosen = wrong[int(random.integers(len(wrong)))]
    at, right = chosen.at, plan.steps[chosen.at]
    call = replace(right.call, arguments={**right.call.arguments, chosen.name: chosen.value})
    copies = {name: source for name, source in right.copies.items() if name != chosen.name}
    named = NAMED.get(call.name) if kind != "correction" else None
    taken = 0 if named is None else _count(plan, at, named)
    made = [Step(thought="", call=call, copies=copies, imitated=False)]
    if named == "image" and random.random() < _READ_SHARE:
        made += _read(plan, at, taken)
    after = tuple(
        replace(
            step,
            call=step.call if named is None else _renamed(step.call, named, taken),
            copies={name: _later(source, at, len(made)) for name, source in step.copies.items()},
        )
        for step in plan.steps[at:]
    )
    answer = None if plan.answer is None else _later(plan.answer, at, len(made))
    steps = (*plan.steps[:at], *made, *after)
    return replace(plan, steps=steps, kind=kind, answer=answer)


def _read(plan: Plan, at: int, taken: int) -> list[Step]:
    """The step after step `at` where it reads what that one cut out: it reads the wrong crop, which has the name."""
    image = f"image_{taken + 1}"
    reads = [step for step in plan.steps[at + 1 : at + 2] if step.call.name == "OCR" and not step.copies]
    return [step for step in reads if step.call.arguments.get("image") == image]


def _later(source: Copied, at: int, number: int) -> Copied:
    """A copy's source once `number` steps came before step `at`."""
    return replace(source, step=source.step + number) if source.step >= at else source


def _renamed(call: ToolCall, kind: str, taken: int) -> ToolCall:
    """A call that names what comes after the first `taken` of a kind by the next number."""
    arguments = dict(call.arguments)
    for name, value in arguments.items():
        found = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
        if found and found[1] == kind and int(found[2]) > taken:
            arguments[name] = f"{kind}_{int(found[2]) + 1}"
    return replace(call, arguments=arguments)


def _count(plan: Plan, at: int, kind: str) -> int:
    """How many of a kind a call may name at step `at`."""
    query: Query = plan.task.query
    given = {"image": len(query.images), "frame": len(query.clip.frames) if query.clip else 0}.get(kind, 0)
    return given + sum(NAMED.get(step.call.name) == kind for step in plan.steps[:at])


def _whole_of(plan: Plan, kind: str, number: int) -> int:
    """The number of the picture that a crop was cut from, which shows no less; 0 where there is none."""
    crops = [step for step in plan.steps if step.call.name == "ZOOM"]
    at = number - len(plan.task.query.images) - 1
    if kind != "image" or not 0 <= at < len(crops):
        return 0
    found = _REFERENCE.fullmatch(str(crops[at].call.arguments.get("image")))
    return int(found[2]) if found and found[1] == "image" else 0


def _references(step: Step) -> Iterator[tuple[str, str, int]]:
    """Arguments that name something: (argument, kind, number); the number is 0 where it is copied."""
    for name, value in step.call.arguments.items():
        found = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
        if found and name not in step.copies:
            yield name, found[1], int(found[2])
    for name in step.copies:
        if name in ("image", "frame") and step.copies[name].path[-1:] == ("frame",):
            yield name, "frame", 0


def _boxes(step: Step) -> Iterator[tuple[str, Box]]:
    """Boxes that the call itself holds, in whole numbers on the grid."""
    for name in ("box", "other_box"):
        box = step.call.arguments.get(name)
        if name not in step.copies and _are_whole(box, 4) and box[2] - box[0] > 1 and box[3] - box[1] > 1:
            yield name, (box[0], box[1], box[2], box[3])


def _are_whole(value: Any, count: int) -> TypeGuard[Sequence[int]]:
    return isinstance(value, list | tuple) and len(value) == count and all(isinstance(v, int) and v >= 0 for v in value)


def _pace(values: Sequence[int], least: int) -> int:
    """The step of the grid that coordinates are written on, halved until it is at most `least`: a small model writes
    few of the thousand numbers.
    """
    pace = math.gcd(*values) or 1
    while pace > max(1, least):
        pace //= 2
    return pace


def _moved(box: Box, random: np.random.Generator) -> Box:
    """A box that overlaps `box` and misses a part: moved along one axis by a quarter to a half of its side."""
    across = bool(random.random() < 0.5)
    low, high = (box[0], box[2]) if across else (box[1], box[3])
    side = high - low
    pace = _pace(box, side // 2)
    amount = max(pace, pace * round(side * random.uniform(*_MISSED) / pace))
    forward = bool(random.random() < 0.5)
    if (high + amount > GRID) if forward else (low - amount < 0):
        forward = not forward
    low, high = (low + amount, min(GRID, high + amount)) if forward else (max(0, low - amount), high - amount)
    return (low, box[1], high, box[3]) if across else (box[0], low, box[2], high)


def _elsewhere(box: Box, decoys: Sequence[Box], random: np.random.Generator) -> Box | None:
    """A box that looks like the right one and shares nothing with it, else one of its size; None where none fits."""
    apart = [decoy for decoy in decoys if not area(intersection(decoy, box))]
    if apart:
        return apart[int(random.integers(len(apart)))]
    width, height = box[2] - box[0], box[3] - box[1]
    pace = _pace(box, min(width, height))
    for _ in range(_TRIES):
        x = pace * int(random.integers(0, max(1, (GRID - width) // pace + 1)))
        y = pace * int(random.integers(0, max(1, (GRID - height) // pace + 1)))
        found = (x, y, x + width, y + height)
        if not area(intersection(found, box)) and max(found) <= GRID:
            return found
    return None


def _away(point: Sequence[int], random: np.random.Generator) -> list[int]:
    """A point at least `_APART` from the right one along each axis, on its grid."""
    pace = _pace(point, _APART)
    found = []
    for value in point:
        steps = [v for v in range(0, GRID + 1, pace) if abs(v - value) >= _APART]
        found.append(int(random.choice(steps)))
    return found
