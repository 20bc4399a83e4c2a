"""Variants of golden plans: what is wrong in them is wrong, what follows is right, and a seed gives the same again."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.chats import tiny_chat
from fakes.toolbox import PlainViewer
from fakes.traces import Bench, a_bench, a_clip_plan
from fakes.values import a_clip, a_query, a_task
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from actors.tasks.plan import Copied, Plan, Step
from actors.traces.config import Emphasis, TraceMix
from actors.traces.synthesis import Synthesised, synthesise
from actors.traces.variants import VARIANTS, correction, near_miss, trap, vary
from common.geometry import GRID, area, covers, intersection
from common.types import Box, ToolCall, Trace

seeds = st.integers(0, 2**32)


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    """Boxes of at least four paces' sides on a grid of some pace."""
    pace = draw(st.sampled_from([1, 5, 20, 50]))
    sides = st.lists(st.integers(0, GRID // pace), min_size=2, max_size=2).map(sorted)
    (x0, x1), (y0, y1) = draw(sides), draw(sides)
    assume(x1 - x0 >= 4 and y1 - y0 >= 4)
    return pace * x0, pace * y0, pace * x1, pace * y1


def zooms(box: Box, **changes: Any) -> Plan:
    """ZOOM of one box, then OCR of the crop."""
    steps = (
        Step(thought="", call=ToolCall(name="ZOOM", arguments={"image": "image_1", "box": list(box)})),
        Step(thought="", call=ToolCall(name="OCR", arguments={"image": "image_2"})),
    )
    return Plan(**({"task": a_task(), "steps": steps, "level": 1, "answer": Copied(step=1, path=("text",))} | changes))


def wrong_of(plan: Plan) -> tuple[int, ToolCall]:
    """The one step that is not imitated."""
    ((at, call),) = [(at, step.call) for at, step in enumerate(plan.steps) if not step.imitated]
    return at, call


def stream(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


# Laws of the plans


@settings(deadline=None)
@given(boxes(), seeds, st.sampled_from(sorted(VARIANTS)))
def test_a_variant_is_the_golden_chain_with_one_wrong_call_before_a_right_one(box: Box, seed: int, kind: str) -> None:
    golden = zooms(box)
    varied = VARIANTS[kind](golden, stream(seed))
    assume(varied is not None)
    assert varied is not None and varied.kind == kind
    at, call = wrong_of(varied)
    kept = [step for step in varied.steps if step.imitated]
    renamed = kind != "correction" and call.name == "ZOOM"
    if len(kept) == 3:  # the wrong crop is read before the right one is cut
        assert renamed and at == 0 and kept.pop(0).call == ToolCall(name="OCR", arguments={"image": "image_2"})
    assert call != kept[at].call and call.name == kept[at].call.name
    assert [step.call.name for step in kept] == ["ZOOM", "OCR"]
    assert kept[0].call == golden.steps[0].call
    assert varied.answer == Copied(step=len(varied.steps) - 1, path=("text",))
    assert kept[1].call.arguments == {"image": "image_3" if renamed else "image_2"}


def test_half_of_the_wrong_crops_are_read() -> None:
    varied = [near_miss(zooms((100, 100, 300, 300)), stream(seed)) for seed in range(200)]
    assert 70 < sum(plan is not None and len(plan.steps) == 4 for plan in varied) < 130


@settings(deadline=None)
@given(boxes(), seeds)
def test_a_near_miss_overlaps_the_right_box_and_misses_a_part_of_it(box: Box, seed: int) -> None:
    varied = near_miss(zooms(box), stream(seed))
    assert varied is not None
    x0, y0, x1, y1 = moved = tuple(wrong_of(varied)[1].arguments["box"])
    assert 0 <= x0 < x1 <= GRID and 0 <= y0 < y1 <= GRID
    assert area(intersection(moved, box)) > 0 and not covers(moved, box)


@settings(deadline=None)
@given(boxes(), st.lists(boxes(), max_size=3), seeds)
def test_a_trap_looks_at_what_shares_nothing_with_the_right_box(box: Box, decoys: list[Box], seed: int) -> None:
    varied = trap(zooms(box, decoys=tuple(decoys)), stream(seed))
    assume(varied is not None)
    assert varied is not None
    elsewhere = tuple(wrong_of(varied)[1].arguments["box"])
    assert area(intersection(elsewhere, box)) == 0 and area(elsewhere) > 0
    assert min(elsewhere) >= 0 and max(elsewhere) <= GRID
    apart = [decoy for decoy in decoys if not area(intersection(decoy, box))]
    assert elsewhere in apart if apart else area(elsewhere) == area(box)


@settings(deadline=None)
@given(boxes(), seeds)
def test_a_correction_swaps_corners_empties_the_box_or_names_what_is_not_there(box: Box, seed: int) -> None:
    varied = correction(zooms(box), stream(seed))
    assert varied is not None
    at, call = wrong_of(varied)
    image = call.arguments["image"]
    if image == f"image_{at + 1}":
        x0, y0, x1, y1 = call.arguments["box"]
        assert not (x0 < x1 and y0 < y1)
    else:
        assert int(image.removeprefix("image_")) > at + 1


@settings(deadline=None)
@given(boxes(), seeds)
def test_a_seed_gives_the_same_variant_again(box: Box, seed: int) -> None:
    mix = TraceMix(golden=0.25, trap=0.25, correction=0.25, near_miss=0.25)
    assert vary(zooms(box), mix, seed=seed) == vary(zooms(box), mix, seed=seed)


@settings(deadline=None)
@given(st.lists(st.integers(0, GRID), min_size=2, max_size=2), seeds)
def test_a_wrong_point_lies_far_from_the_right_one(point: list[int], seed: int) -> None:
    step = Step(thought="", call=ToolCall(name="SEG", arguments={"point": point}))
    varied = trap(Plan(task=a_task(), steps=(step,), level=1), stream(seed))
    assert varied is not None
    wrong = wrong_of(varied)[1].arguments["point"]
    assert all(abs(a - b) >= 250 and 0 <= a <= GRID for a, b in zip(wrong, point, strict=True))


# Names and copies


def test_names_and_copies_after_a_trap_move_on() -> None:
    steps = (
        Step(thought="", call=ToolCall(name="SEG", arguments={"box": [0, 0, 100, 100]})),
        Step(thought="", call=ToolCall(name="SEG", arguments={"box": [500, 500, 600, 600]})),
        Step(
            thought="",
            call=ToolCall(name="PROP", arguments={"mask": "mask_1", "other": "mask_2", "image": ""}),
            copies={"image": Copied(step=1, path=("name",))},
        ),
    )
    golden = Plan(task=a_task(), steps=steps, level=2, answer=Copied(step=2, path=("gap",)))
    found = set()
    for seed in range(40):
        varied = trap(golden, stream(seed))
        assert varied is not None and varied.answer == Copied(step=3, path=("gap",))
        at, call = wrong_of(varied)
        last = varied.steps[3] if at < 3 else varied.steps[2]
        names = (last.call.arguments["mask"], last.call.arguments["other"], last.copies["image"].step)
        found.add((at, *names))
        if at == 2:  # a wrong mask of those that are there
            assert {call.arguments["mask"], call.arguments["other"]} in ({"mask_1"}, {"mask_2"})
    assert found == {(0, "mask_2", "mask_3", 2), (1, "mask_1", "mask_3", 2), (2, "mask_1", "mask_2", 1)}


def test_a_copied_box_is_not_got_wrong_but_a_copied_frame_is() -> None:
    query = a_query(clip=a_clip(4), images=())
    steps = (
        Step(thought="", call=ToolCall(name="TEMP", arguments={"query": "red"})),
        Step(
            thought="",
            call=ToolCall(name="OCR", arguments={"image": "", "box": [0, 0, 1000, 1000]}),
            copies={
                "image": Copied(step=0, path=("intervals", 0, "frame")),
                "box": Copied(step=0, path=("intervals", 0, "box")),
            },
        ),
    )
    golden = Plan(task=replace(a_task(), query=query), steps=steps, level=1, answer=Copied(step=1, path=("text",)))
    assert near_miss(golden, stream(0)) is None
    for seed in range(8):
        varied = trap(golden, stream(seed))
        assert varied is not None
        at, call = wrong_of(varied)
        assert at == 1 and call.arguments["image"] in {f"frame_{number}" for number in range(1, 5)}
        assert set(varied.steps[1].copies) == {"box"}
        assert varied.steps[2].copies == steps[1].copies


def test_the_picture_that_a_crop_was_cut_from_is_no_trap() -> None:
    golden = zooms((0, 0, 500, 500))
    assert all(wrong_of(found)[1].name == "ZOOM" for seed in range(20) if (found := trap(golden, stream(seed))))


def test_variants_are_made_of_golden_plans_only() -> None:
    varied = trap(zooms((0, 0, 100, 100)), stream(0))
    assert varied is not None
    with pytest.raises(ValueError, match="golden"):
        trap(varied, stream(1))


# The mix


def test_what_needs_no_tool_is_answered_at_once_or_left_out() -> None:
    control = Plan(task=a_task(), steps=(), level=0)
    kept = vary(control, TraceMix(), seed=0)
    assert kept is not None and kept.kind == "negative" and kept.steps == ()
    assert vary(control, TraceMix(negative=0.0), seed=0) is None
    assert vary(zooms((0, 0, 100, 100)), TraceMix(negative=0.0), seed=0) is not None


def test_a_plan_that_cannot_be_got_wrong_stays_golden() -> None:
    only = Plan(
        task=a_task(), steps=(Step(thought="", call=ToolCall(name="TEMP", arguments={"query": "red"})),), level=1
    )
    mix = TraceMix(golden=0.0, trap=0.4, correction=0.3, near_miss=0.3)
    assert vary(only, mix, seed=0) == only


def test_kinds_come_in_their_shares() -> None:
    mix = TraceMix(golden=0.4, trap=0.3, correction=0.2, near_miss=0.1)
    plans = [zooms((100, 100, 200, 200), task=a_task(f"q{number}")) for number in range(2000)]
    kinds = Counter(varied.kind for plan in plans if (varied := vary(plan, mix, seed=7)))
    for kind in ("golden", "trap", "correction", "near_miss"):
        share = getattr(mix, kind)
        assert abs(kinds[kind] / 2000 - share) < 4 * (share * (1 - share) / 2000) ** 0.5


def test_the_default_is_mostly_golden() -> None:
    mix = TraceMix()
    assert mix.golden > 0.5 > mix.trap + mix.correction + mix.near_miss > 0


# With the real tools


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return a_bench(tmp_path_factory.mktemp("media"))


async def made_of(plan: Plan, bench: Bench) -> Synthesised:
    return await synthesise(
        plan, toolbox=bench.toolbox, viewer=PlainViewer(), chat=tiny_chat(), emphasis=Emphasis(), max_model_len=5000
    )


def said(trace: Trace) -> list[tuple[str, bool]]:
    """The assistant's turns, and whether they are imitated."""
    chat, at, found = tiny_chat(), 0, []
    for turn in trace.turns:
        if turn.role == "assistant":
            found.append((chat.decode(turn.token_ids), any(trace.weights[at : at + len(turn.token_ids)])))
        at += len(turn.token_ids)
    return found


@settings(max_examples=30, deadline=None)
@given(seeds, st.sampled_from(sorted(VARIANTS)))
async def test_every_variant_is_borne_out_by_the_real_tools(bench: Bench, seed: int, kind: str) -> None:
    varied = VARIANTS[kind](bench.golden, stream(seed))
    assert varied is not None
    made = await made_of(varied, bench)
    if made.reason == "not_wrong" and kind == "near_miss":
        return  # whoever reads the crop finds the answer in it
    assert made.trace is not None, made.reason
    turns = said(made.trace)
    assert [imitated for _, imitated in turns].count(False) == 1 and len(turns) == len(varied.steps) + 1
    assert turns[-1] == (f"<answer>{bench.scene.codes[0]}</answer>", True)
    chat = tiny_chat()
    heard = [chat.decode(turn.token_ids) for turn in made.trace.turns if turn.role == "tool"]
    (wrong,) = [at for at, (_, imitated) in enumerate(turns) if not imitated]
    assert ['"error"' in text for text in heard] == [kind == "correction" and at == wrong for at in range(len(heard))]


async def test_variants_of_a_chain_over_a_clip_are_borne_out(tmp_path: Path, bench: Bench) -> None:
    golden = a_clip_plan(bench.store)
    for kind, make in VARIANTS.items():
        varied = make(golden, stream(1))
        assert varied is not None
        made = await made_of(varied, bench)
        assert made.trace is not None, (kind, made.reason)
        assert made.trace.kind == kind and made.trace.trace_id == f"clip/{kind}"


async def test_a_trap_that_is_right_after_all_is_dropped(bench: Bench) -> None:
    right = bench.golden.steps[0].call
    wider = replace(right, arguments={**right.arguments, "box": [0, 0, 1000, 1000]})
    read = replace(bench.golden.steps[1].call, arguments={"image": "image_1"})
    steps = (Step(thought="", call=read, imitated=False), *bench.golden.steps)
    trapped = replace(bench.golden, steps=steps, kind="trap", answer=Copied(step=2, path=("text",)))
    assert (await made_of(trapped, bench)).reason == "not_wrong"
    fine = replace(trapped, steps=(Step(thought="", call=wider, imitated=False), steps[1], steps[2]))
    assert (await made_of(fine, bench)).reason == "not_wrong"  # all of it is read, the answer too


async def test_a_correction_whose_call_works_is_dropped(bench: Bench) -> None:
    right = bench.golden.steps[0].call
    fine = replace(right, arguments={**right.arguments, "box": [0, 0, 100, 100]})
    steps = (Step(thought="", call=fine, imitated=False), *bench.golden.steps)
    plan = replace(bench.golden, steps=steps, kind="correction", answer=Copied(step=2, path=("text",)))
    assert (await made_of(plan, bench)).reason == "not_wrong"
