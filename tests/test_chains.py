"""Which calls built on which."""

from __future__ import annotations

from typing import Any

from actors.chains import is_chained, is_composite, links
from common.chat import canonical_json
from common.types import ExecutedCall, Observation, ToolCall


def done(name: str, arguments: dict[str, Any], returned: dict[str, Any], *, error: Any = None) -> ExecutedCall:
    return ExecutedCall(
        call=ToolCall(name=name, arguments=arguments),
        observation=Observation(text=canonical_json(returned), error=error),
    )


ZOOM = done("ZOOM", {"image": "image_1", "box": [0, 0, 500, 500]}, {"image": "image_2"})


def test_a_crop_that_is_read_is_a_chain_of_two_tools() -> None:
    calls = [ZOOM, done("OCR", {"image": "image_2"}, {"text": "493"})]
    assert links(calls) == ((0, 1),)
    assert is_chained(calls) and is_composite(calls)


def test_a_crop_of_a_crop_is_chained_but_of_one_tool() -> None:
    calls = [ZOOM, done("ZOOM", {"image": "image_2", "box": [0, 0, 100, 100]}, {"image": "image_3"})]
    assert is_chained(calls) and not is_composite(calls)


def test_two_looks_at_the_same_picture_are_no_chain() -> None:
    calls = [ZOOM, done("OCR", {"image": "image_1", "box": [0, 0, 500, 500]}, {"text": ""})]
    assert links(calls) == ()


def test_a_box_or_a_frame_that_is_copied_from_what_came_back_is_a_chain() -> None:
    track = done(
        "TRK",
        {"frame": "frame_1", "box": [0, 0, 100, 100]},
        {"track": "track_1", "boxes": {"frame_1": [0, 0, 100, 100], "frame_9": [300, 200, 400, 300]}},
    )
    ended = done("ZOOM", {"image": "frame_9", "box": [300, 200, 400, 300]}, {"image": "image_1"})
    began = done("ZOOM", {"image": "frame_1", "box": [0, 0, 100, 100]}, {"image": "image_2"})
    assert links([track, ended, began]) == ((0, 1),)  # where it began was told to TRK, not found by it
    when = done("TEMP", {"query": "red"}, {"intervals": [{"frame": "frame_17", "start_s": 8.0}]})
    assert is_composite([when, done("OCR", {"image": "frame_17"}, {"text": "1"})])
    assert not is_chained([when, done("OCR", {"image": "frame_16"}, {"text": "1"})])


def test_what_failed_returned_nothing_and_used_nothing() -> None:
    failed = done("OCR", {"image": "image_2"}, {"error": "timeout", "hint": "image_2"}, error="timeout")
    assert links([ZOOM, failed]) == ()
    assert links([failed, done("OCR", {"image": "image_2"}, {"text": "1"})]) == ()
    assert links([]) == ()


def test_a_call_may_build_on_several() -> None:
    masks = [done("SEG", {"point": [n, n]}, {"mask": f"mask_{n}", "area": 5}) for n in (1, 2)]
    both = done("PROP", {"mask": "mask_1", "other": "mask_2"}, {"distance": 4})
    assert links([*masks, both]) == ((0, 2), (1, 2))
