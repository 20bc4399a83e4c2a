"""Random calls: valid whatever the workspace holds, spread over the tools, and the same for the same seed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from fakes.values import a_clip, a_ref
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.tools.cache import ResultCache
from actors.tools.catalogue import TOOLS
from actors.tools.chance import LEAST, STEP, draw_call
from actors.tools.config import ToolsConfig
from actors.tools.toolbox import Toolbox
from actors.tools.workspace import Mask, Picture, Track, Workspace
from common.media import FolderMediaStore
from common.seeds import stream
from common.types import ToolCall

NAMES = tuple(tool.name for tool in TOOLS)


class NoRunner:
    """Nothing is executed."""


@pytest.fixture(scope="module")
def toolbox(tmp_path_factory: pytest.TempPathFactory) -> Toolbox:
    return a_toolbox(tmp_path_factory.mktemp("store"))


def a_toolbox(folder: Path, **back_ends: str) -> Toolbox:
    cache = ResultCache(
        store=FolderMediaStore(folder), num_entries=10, memory_bytes=2**20, folder=None, max_bytes=2**20
    )
    served = dict.fromkeys(NAMES, "scripted") | back_ends
    return Toolbox(config=ToolsConfig(), runner=NoRunner(), cache=cache, back_ends=served)  # type: ignore[arg-type]


@st.composite
def workspaces(draw: st.DrawFn) -> Workspace:
    """Pictures, or a clip, with whatever tools returned before."""
    picture = a_ref("plate", width=448, height=300)
    clip = a_clip(draw(st.integers(1, 6))) if draw(st.booleans()) else None
    source = picture if clip is None else clip.frames[0]
    images = draw(st.integers(0 if clip else 1, 3))
    box = (0, 0, source.width, source.height)
    track = Track(start=0, boxes=(box,), visible=(True,), times_s=(0.0,))
    return Workspace(
        images=(Picture(ref=picture),) * images,
        masks=(Mask(ref=a_ref("mask", width=source.width, height=source.height), source=source),)
        * draw(st.integers(0, 2)),
        tracks=(track,) * (draw(st.integers(0, 2)) if clip else 0),
        clip=clip,
    )


@given(workspace=workspaces(), seed=st.integers(0, 10**6))
@settings(deadline=None, max_examples=200)
def test_every_draw_is_a_call_that_its_tool_accepts(toolbox: Toolbox, workspace: Workspace, seed: int) -> None:
    for name in NAMES:
        call = draw_call(name, stream(seed), workspace)
        if call is None:
            assert workspace.clip is None
            assert name in ("TRK", "TEMP")
        else:
            toolbox._plan(next(tool for tool in TOOLS if tool.name == name), call, workspace)


@given(workspace=workspaces(), seed=st.integers(0, 10**6))
@settings(deadline=None, max_examples=50)
def test_a_seed_fixes_the_call_and_boxes_lie_on_the_grid(toolbox: Toolbox, workspace: Workspace, seed: int) -> None:
    call = toolbox.random_call(workspace, stream(seed))
    assert call is not None
    assert call == toolbox.random_call(workspace, stream(seed))
    box = call.arguments.get("box")
    if box is not None:
        x0, y0, x1, y1 = box
        assert all(value % STEP == 0 for value in box)
        assert 0 <= x0 <= x1 - LEAST <= 1000 - LEAST
        assert 0 <= y0 <= y1 - LEAST <= 1000 - LEAST


def test_every_tool_that_has_something_to_work_on_is_called_equally_often(toolbox: Toolbox) -> None:
    random = np.random.default_rng(0)
    still, clip = Workspace(images=(Picture(ref=a_ref()),)), Workspace(clip=a_clip(4))
    for workspace, names in ((still, {"ZOOM", "SEG", "OCR", "PROP"}), (clip, set(NAMES))):
        counted = Counter(call.name for _ in range(2000) if (call := toolbox.random_call(workspace, random)))
        assert set(counted) == names
        expected = 2000 / len(names)
        assert sum((count - expected) ** 2 / expected for count in counted.values()) < 25.7  # χ², 5 degrees, p 10⁻⁴


def test_what_nothing_serves_is_not_called_and_a_full_rollout_gets_other_calls(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    toolbox = a_toolbox(tmp_path, OCR="none", SEG="none", PROP="none")
    config = ToolsConfig()
    full = Workspace(images=(Picture(ref=a_ref()),) * config.max_images)
    assert toolbox.random_call(full, random) is None
    one = Workspace(images=(Picture(ref=a_ref()),))
    assert {call.name for _ in range(50) if (call := toolbox.random_call(one, random))} == {"ZOOM"}
    assert isinstance(toolbox.random_call(one, random), ToolCall)
