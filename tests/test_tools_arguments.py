"""What a call may hold, and what names stand for."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.tools.arguments import pixel_box, pixel_point
from actors.tools.catalogue import TOOLS, parse_arguments, specs
from actors.tools.config import ToolsConfig
from actors.tools.errors import ToolError
from actors.tools.workspace import Mask, Picture, Track, Workspace
from common.types import Clip, MediaRef, Query, ToolCall

REF = MediaRef(digest="a" * 64, kind="image", width=448, height=224, num_bytes=1)
FRAMES = tuple(MediaRef(digest=str(i) * 64, kind="image", width=64, height=64, num_bytes=1) for i in range(3))
QUERY = Query(
    query_id="q",
    question="?",
    images=(REF,),
    clip=Clip(frames=FRAMES, times_s=(0.0, 0.5, 1.0), shown=(0, 2)),
)


def code_of(name: object, arguments: object) -> str:
    with pytest.raises(ToolError) as caught:
        parse_arguments(ToolCall(name=name, arguments=arguments))  # type: ignore[arg-type]
    return caught.value.code


def test_a_good_call_becomes_its_dataclass():
    arguments = parse_arguments(ToolCall(name="ZOOM", arguments={"image": "image_1", "box": [250, 300, 450, 400.5]}))
    assert (arguments.image, arguments.box) == ("image_1", (250, 300, 450, 400.5))


@pytest.mark.parametrize(
    "box",
    [
        [math.nan, 0, 1, 1],
        [0, 0, math.inf, 1],
        [-1, 0, 10, 10],
        [0, 0, 1001, 10],
        [0, 0, 10**400, 10],
        [0, 0, 10],
        [0, 0, 10, 10, 10],
        ["0", 0, 10, 10],
        [True, 0, 10, 10],
        [None, 0, 1, 1],
        "0,0,1,1",
        {},
        None,
    ],
)
def test_a_box_that_is_none_is_a_bad_argument(box):
    assert code_of("ZOOM", {"image": "image_1", "box": box}) == "bad_argument"


def test_unknown_keys_missing_keys_and_arguments_that_are_no_object_are_bad_arguments():
    assert code_of("ZOOM", {"image": "image_1", "box": [0, 0, 1, 1], "magnify": 2}) == "bad_argument"
    assert code_of("ZOOM", {"image": "image_1"}) == "bad_argument"
    assert code_of("OCR", ["image_1"]) == "bad_argument"
    assert code_of("OCR", {"image": 1}) == "bad_argument"


def test_an_unknown_tool_is_named_so():
    assert code_of("zoom", {}) == code_of(None, {}) == code_of(["ZOOM"], {}) == "unknown_tool"


@pytest.mark.parametrize("box", [(10, 10, 10, 20), (20, 10, 10, 20), (10, 20, 20, 10)])
def test_swapped_and_empty_boxes_are_empty(box):
    with pytest.raises(ToolError, match="empty_box"):
        pixel_box(box, REF)


def test_boxes_round_outward_and_points_stay_inside():
    assert pixel_box((250, 250, 501, 500), REF) == (112, 56, 225, 112)
    assert pixel_point((1000, 1000), REF) == (447, 223)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
values = st.recursive(scalars, lambda v: st.lists(v, max_size=5) | st.dictionaries(st.text(max_size=4), v, max_size=3))
numbers = st.integers(-5, 1005) | st.floats() | st.integers()
names = st.sampled_from(["image_1", "image_9", "frame_2", "mask_1", "track_1", "image_01", "image_", "red", "change"])
likely = st.dictionaries(
    st.sampled_from(["image", "box", "point", "mask", "track", "frame", "stop", "query", "other"]),
    names | st.lists(numbers, max_size=5) | values,
    max_size=4,
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([tool.name for tool in TOOLS]) | values, likely | values)
def test_whatever_a_model_writes_is_planned_or_refused_in_the_closed_set(name, arguments):
    workspace = Workspace.of(QUERY)
    call = ToolCall(name=name, arguments=arguments)  # type: ignore[arg-type]
    try:
        checked = parse_arguments(call)
        tool = next(tool for tool in TOOLS if tool.name == name)
        plan = tool.plan(checked, workspace, ToolsConfig())
    except ToolError as error:
        assert error.code in ("unknown_tool", "bad_argument", "unknown_reference", "empty_box", "unavailable")
        assert len(error.hint) <= 120
    else:
        json.dumps(plan.job.options, allow_nan=False)
        if plan.footprint is not None:
            x0, y0, x1, y1 = plan.footprint
            assert plan.source is not None
            assert 0 <= x0 < x1 <= plan.source.width and 0 <= y0 < y1 <= plan.source.height


def test_the_specs_are_json_schemas_of_six_tools():
    assert [spec["name"] for spec in specs()] == ["ZOOM", "SEG", "TRK", "OCR", "TEMP", "PROP"]
    zoom = specs()[0]["parameters"]
    assert zoom["required"] == ["image", "box"] and zoom["additionalProperties"] is False
    assert zoom["properties"]["box"]["minItems"] == zoom["properties"]["box"]["maxItems"] == 4
    assert json.loads(json.dumps(specs())) == specs()


# What names stand for


def test_names_count_from_one_and_returned_pictures_take_the_next_number():
    workspace = Workspace.of(QUERY)
    assert workspace.picture("image_1").ref == REF
    assert workspace.picture("frame_3").ref == FRAMES[2]
    name, larger = workspace.with_image(Picture(ref=FRAMES[0]))
    assert name == "image_2" and larger.picture("image_2").ref == FRAMES[0]
    with pytest.raises(ToolError, match="unknown_reference: there is image_1, frame_1 to frame_3"):
        workspace.picture("image_2")


def test_masks_and_tracks_have_names_of_their_own():
    name, workspace = Workspace.of(QUERY).with_mask(Mask(ref=REF, source=REF))
    assert name == "mask_1" and workspace.mask("mask_1").source == REF
    track = Track(start=0, boxes=((0, 0, 1, 1),), visible=(True,), times_s=(0.0,))
    name, workspace = workspace.with_track(track)
    assert name == "track_1" and workspace.track("track_1") == track


@pytest.mark.parametrize(
    "name", ["image_0", "image_01", "image_2", "Image_1", "image_1 ", "frame_4", "mask_1", "", "image_١"]
)
def test_a_name_that_stands_for_nothing_is_refused(name):
    with pytest.raises(ToolError, match="unknown_reference"):
        Workspace.of(QUERY).picture(name)


def test_a_box_in_a_crop_is_a_box_where_the_crop_was_taken():
    crop = Picture(
        ref=MediaRef(digest="b", kind="image", width=224, height=112, num_bytes=1), origin=(REF, (100, 50, 156, 78))
    )
    assert crop.frame == (100, 50, 156, 78)
    assert crop.at_source((0, 0, 224, 112)) == (100, 50, 156, 78)
    assert crop.at_source((4, 4, 9, 9)) == (101, 51, 103, 53)
