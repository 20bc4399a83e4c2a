"""HOTA against cases worked by hand (Luiten et al. 2021), and its laws."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.benchmarks.hota import hota

HERE, THERE = (0, 0, 10, 10), (100, 100, 110, 110)
HALF = (0, 0, 10, 5)  # IoU 0.5 with HERE


def test_a_track_that_is_found_exactly_scores_one():
    found = hota([{1: HERE}, {1: THERE}], [{7: HERE}, {7: THERE}])
    assert (found.hota, found.detection, found.association) == (1, 1, 1)


def test_boxes_that_overlap_by_half_count_at_the_ten_thresholds_up_to_a_half():
    assert hota([{1: HERE}] * 2, [{1: HALF}] * 2).hota == pytest.approx(10 / 19)


def test_a_track_that_changes_its_name_halfway_loses_half_its_association():
    found = hota([{1: HERE}] * 4, [{1: HERE}] * 2 + [{2: HERE}] * 2)
    assert found.detection == 1 and found.association == pytest.approx(0.5)
    assert found.hota == pytest.approx(math.sqrt(0.5))


def test_a_track_that_is_found_in_half_of_its_frames_scores_a_half():
    found = hota([{1: HERE}] * 4, [{1: HERE}] * 2 + [{}] * 2)  # DetA = 2/4, AssA = 2/(2 + 2 missed)
    assert (found.detection, found.association) == pytest.approx((0.5, 0.5)) and found.hota == pytest.approx(0.5)


def test_a_false_track_halves_detection_and_leaves_association():
    found = hota([{1: HERE}] * 2, [{1: HERE, 2: THERE}] * 2)
    assert found.detection == pytest.approx(0.5) and found.association == pytest.approx(1)


def test_two_tracks_that_swap_names_halfway_are_detected_and_a_third_associated():
    truth = [{1: HERE, 2: THERE}] * 4
    found = hota(truth, [{1: HERE, 2: THERE}] * 2 + [{1: THERE, 2: HERE}] * 2)
    assert found.detection == 1 and found.association == pytest.approx(1 / 3)  # 2 / (2 + 2 + 2)


def test_between_two_boxes_on_one_thing_the_track_that_stays_with_it_is_matched():
    near = (0, 0, 10, 9)
    truth = [{1: HERE}] * 3
    found = [{1: near}, {1: near}, {1: near, 2: HERE}]  # 2 overlaps better in the last frame, 1 belongs to the thing
    assert hota(truth, found).association > hota(truth, [{1: near}, {1: near}, {2: HERE}]).association


def test_nothing_to_find_and_nothing_found_is_right_and_all_else_of_nothing_is_wrong():
    assert hota([{}], [{}]).hota == 1
    assert hota([{1: HERE}], [{}]).hota == hota([{}], [{1: HERE}]).hota == 0
    with pytest.raises(ValueError, match="as many frames"):
        hota([{}], [])


boxes = st.tuples(*[st.integers(0, 20)] * 2, *[st.integers(1, 20)] * 2).map(
    lambda it: (it[0], it[1], it[0] + it[2], it[1] + it[3])
)
clips = st.lists(st.dictionaries(st.integers(0, 3), boxes, max_size=3), min_size=1, max_size=5)


@settings(max_examples=60, deadline=None)
@given(clips, clips)
def test_names_do_not_matter_and_hota_stays_within_zero_and_one(truth, found):
    found = (found + [{}] * len(truth))[: len(truth)]
    score = hota(truth, found)
    assert 0 <= score.hota <= 1 and 0 <= score.detection <= 1 and 0 <= score.association <= 1 + 1e-12
    renamed = [{9 - name: box for name, box in frame.items()} for frame in truth]
    assert hota(renamed, found).detection == pytest.approx(score.detection)
    assert hota(truth, truth).hota == pytest.approx(1)
