"""The procedural world: exact truth, splits that never meet, tasks that are functions of their names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from actors.tasks.config import WorldConfig
from actors.tasks.scene import COLOURS, draw_scene
from actors.tasks.shifts import Shift
from actors.tasks.world.world import SPLITS, World
from common.geometry import covers, grid_to_pixels, iou
from common.media import FolderMediaStore, pixels_of
from common.seeds import stream


@pytest.fixture
def store(tmp_path: Path) -> FolderMediaStore:
    return FolderMediaStore(tmp_path)


def test_plates_have_their_colour_where_the_truth_says_and_do_not_touch() -> None:
    for index in range(30):
        scene = draw_scene(stream(0, "scene", index), num_plates=4)
        for plate in scene.plates:
            x0, y0, x1, y1 = plate.box
            corners = scene.pixels[[y0, y0, y1 - 1, y1 - 1], [x0, x1 - 1, x0, x1 - 1]]
            assert (corners == COLOURS[plate.colour]).all()
            assert covers(plate.box, plate.text_box)
            dark = (scene.pixels[y0:y1, x0:x1].max(axis=2) < 60).nonzero()
            ink = (x0 + dark[1].min(), y0 + dark[0].min(), x0 + dark[1].max() + 1, y0 + dark[0].max() + 1)
            assert iou(plate.text_box, ink) > 0.6
        assert sum(iou(a.box, b.box) for a in scene.plates for b in scene.plates if a is not b) == 0


def test_a_task_is_a_function_of_its_name(store: FolderMediaStore) -> None:
    assert World(WorldConfig(), store).task("test", 7) == World(WorldConfig(), store).task("test", 7)
    assert World(WorldConfig(), store).task("test", 7) != World(WorldConfig(seed=1), store).task("test", 7)


def test_splits_share_no_picture_and_no_code(store: FolderMediaStore) -> None:
    world = World(WorldConfig(), store)
    digests: dict[str, set[str]] = {}
    for split in SPLITS:
        tasks = [world.task(split, index) for index in range(25)]
        media = [ref for task in tasks for ref in (task.query.clip.frames if task.query.clip else task.query.images)]
        digests[split] = {ref.digest for ref in media}
    assert sum(map(len, digests.values())) == len(set().union(*digests.values()))


def test_a_plan_asks_for_a_box_that_covers_the_plate_it_is_about(store: FolderMediaStore) -> None:
    world = World(WorldConfig(mix={"text": 1.0}), store)
    for index in range(20):
        plan = world.plan("train", index)
        box = plan.steps[0].call.arguments["box"]
        assert all(value % 50 == 0 for value in box)
        colour = COLOURS[plan.task.query.question.split()[3]]
        pixels = pixels_of(store, plan.task.query.images[0])
        rows, columns = (pixels == colour).all(axis=2).nonzero()
        plate = (int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)
        assert covers(grid_to_pixels(box, 448, 448), plate)
        assert plan.task.chain == tuple(step.call.name for step in plan.steps)


def test_in_a_clip_the_asked_colour_occurs_in_one_frame_only(store: FolderMediaStore) -> None:
    world = World(WorldConfig(mix={"clip": 1.0}), store)
    for index in range(10):
        plan = world.plan("train", index)
        assert plan.task.query.clip is not None
        colour = COLOURS[plan.task.query.question.split()[3]]
        has = [bool((pixels_of(store, ref) == colour).all(axis=2).sum() > 500) for ref in plan.task.query.clip.frames]
        assert sum(has) == 1
        assert plan.steps[0].call.arguments["image"] == f"frame_{has.index(True) + 1}"


def test_controls_are_balanced_and_need_no_tool(store: FolderMediaStore) -> None:
    world = World(WorldConfig(mix={"side": 1.0}), store)
    tasks = [world.task("test", index) for index in range(200)]
    assert all(task.chain == () for task in tasks)
    assert 0.4 < np.mean([task.answer == "left" for task in tasks]) < 0.6


@pytest.mark.parametrize("text", ["dark", "fog:0.3", "dark:2", "dark:x"])
def test_an_unknown_shift_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="shift must be one of"):
        Shift.parse(text)


def test_a_shift_changes_the_picture_but_not_the_question(store: FolderMediaStore) -> None:
    world = World(WorldConfig(mix={"text": 1.0}), store)
    plain, dark = world.task("test", 3), world.task("test", 3, shift="dark:0.4")
    assert plain.query.question == dark.query.question
    assert plain.answer == dark.answer
    assert pixels_of(store, dark.query.images[0]).mean() < pixels_of(store, plain.query.images[0]).mean()


@pytest.mark.parametrize("values", [{"mix": {"maze": 1.0}}, {"num_plates": (3, 2)}, {"grid_step": 7}, {"mix": {}}])
def test_impossible_worlds_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"must|names unknown"):
        WorldConfig(**values)  # type: ignore[arg-type]
