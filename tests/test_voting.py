"""Votes over whole trajectories: cases to check by hand, then laws."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from fakes.values import a_query, a_ref, a_rollout, facts
from hypothesis import given
from hypothesis import strategies as st

from actors.config import VotingConfig
from actors.voting import failed, tool_similarity, vote
from common.types import Box, Consensus, ExecutedCall, Neighbour, Observation, Rollout, ToolCall, Turn, VersionSpan

PLAIN = VotingConfig(answer_weight=1.0, min_share=0.0, min_margin=0.0, min_parsed=2)
CHAIN = VotingConfig(min_share=0.0, min_margin=0.0, min_parsed=2)
BOX: Box = (100, 100, 160, 140)


def zoom(box: Box = BOX, *, error: bool = False) -> ExecutedCall:
    seen = (
        Observation(text='{"error":"empty_box"}', error="empty_box") if error else Observation(text="{}", image=a_ref())
    )
    return ExecutedCall(call=ToolCall(name="ZOOM", arguments={}), observation=seen, source="image_1", footprint=box)


def ocr(text: str) -> ExecutedCall:
    call = ToolCall(name="OCR", arguments={})
    return ExecutedCall(call=call, observation=Observation(text=f'{{"text":"{text}"}}'), source="image_2")


def voter(number: int, answer: str | None, *calls: ExecutedCall, num_tokens: int = 4, views: str = "") -> Rollout:
    """A rollout whose sampled tokens are its own, unless `views` and number repeat."""
    ids = tuple(range(1000 + number * 50, 1000 + number * 50 + num_tokens))
    said = Turn(
        role="assistant",
        token_ids=ids,
        logprobs=(-0.5,) * num_tokens,
        versions=(VersionSpan(start=0, stop=num_tokens, version=0),),
    )
    return a_rollout(
        0,
        number,
        answer=answer,
        stop_reason="max_calls" if answer is None else "answer",
        facts=facts(None, parsed=answer is not None),
        calls=calls,
        turns=(said,),
        views=views,
        query=a_query("mine"),
    )


def past(chain: tuple[str, ...], *, sequence: int = 0, **fields: object) -> Neighbour:
    values: dict[str, object] = {"similarity": 1.0, "family": "text", "answer": "7", "confidence": 1.0}
    return Neighbour(query_id=f"q{sequence}", chain=chain, sequence=sequence, **(values | fields))  # type: ignore[arg-type]


# By hand


def test_the_plain_vote_is_the_majority_and_its_share() -> None:
    result = vote([voter(i, a) for i, a in enumerate("77753757")], [], PLAIN)
    assert result.answer == "7"
    assert result.share == 5 / 8
    assert result.margin == (5 - 2) / 8
    assert sum(result.agrees.values()) == 5


def test_two_that_agree_in_their_chain_outweigh_two_that_only_agree_at_the_end() -> None:
    group = [
        voter(0, "493", zoom(), ocr("493")),
        voter(1, "493", zoom(), ocr("493")),
        voter(2, "77", zoom((0, 0, 9, 9))),
        voter(3, "77"),
    ]
    result = vote(group, [], CHAIN)
    assert result.answer == "493"
    # the pair supports itself with 1 + 1, the other with 1 + 1/2 (the answer's part of the kernel)
    assert result.share == pytest.approx(2 / 3.5)
    assert vote(group, [], PLAIN).reason == "tie"


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (replace(PLAIN, min_parsed=5), "too few answers"),
        (replace(PLAIN, min_share=0.8), "share"),
        (replace(PLAIN, min_margin=0.6), "margin"),
    ],
)
def test_it_abstains_where_it_is_not_clear_and_says_why(config: VotingConfig, reason: str) -> None:
    result = vote([voter(i, a) for i, a in enumerate("7773")], [], config)
    assert (result.answer, result.exemplar, result.reason) == (None, None, reason)
    assert not any(result.agrees.values())


def test_a_tie_abstains() -> None:
    assert vote([voter(i, a) for i, a in enumerate("7733")], [], PLAIN).reason == "tie"


def test_numbers_of_equal_value_are_one_answer() -> None:
    result = vote([voter(0, "7"), voter(1, "7.0"), voter(2, " 7 "), voter(3, "8")], [], PLAIN)
    assert (result.answer, result.share) == ("7", 0.75)


def test_none_never_wins() -> None:
    result = vote([voter(0, None), voter(1, None), voter(2, None), voter(3, "8"), voter(4, "8")], [], PLAIN)
    assert (result.answer, result.share) == ("8", 1.0)
    assert [result.agrees[f"g0/{i}"] for i in range(5)] == [False, False, False, True, True]
    assert vote([voter(i, None) for i in range(4)], [], PLAIN).reason == "too few answers"


def test_identical_trajectories_count_once_unless_told_otherwise() -> None:
    same = voter(0, "7")
    copies = [replace(same, rollout_id=f"g0/c{i}") for i in range(3)]
    group = [*copies, voter(1, "8"), voter(2, "8")]
    assert vote(group, [], PLAIN).answer == "8"
    assert vote(group, [], replace(PLAIN, dedupe=False)).answer == "7"
    seen_differently = [replace(copy, views=f"hue:{i}") for i, copy in enumerate(copies)]
    assert vote([*seen_differently, voter(1, "8"), voter(2, "8")], [], PLAIN).answer == "7"


def test_the_exemplar_is_the_shortest_of_the_faithful() -> None:
    group = [
        voter(0, "493", zoom(), ocr("493"), num_tokens=30),
        voter(1, "493", zoom(), ocr("493"), num_tokens=20),
        voter(2, "493", zoom(), ocr(""), num_tokens=10),
        voter(3, "493", zoom(error=True), zoom(), ocr("493"), num_tokens=5),
    ]
    assert vote(group, [], CHAIN).exemplar == "g0/1"


def test_a_lucky_guess_without_the_chain_of_the_others_is_no_exemplar() -> None:
    group = [voter(i, "493", zoom(), ocr("493"), num_tokens=30 + i) for i in range(3)]
    assert vote([*group, voter(9, "493", num_tokens=1)], [], CHAIN).exemplar == "g0/0"


def test_no_exemplar_when_every_read_found_nothing() -> None:
    group = [voter(i, "none", ocr("")) for i in range(3)]
    result = vote(group, [], CHAIN)
    assert (result.answer, result.exemplar) == ("none", None)


def test_failure_shows_without_the_truth() -> None:
    assert failed(ocr(""))
    assert failed(ocr("  "))
    assert failed(zoom(error=True))
    assert not failed(ocr("493"))
    assert not failed(zoom())


def test_similarity_of_tools_is_one_less_the_share_of_edits() -> None:
    assert tool_similarity((), ()) == 1
    assert tool_similarity(("ZOOM", "OCR"), ("ZOOM", "OCR")) == 1
    assert tool_similarity(("ZOOM", "OCR"), ("ZOOM",)) == 0.5
    assert tool_similarity(("ZOOM",), ()) == 0


def test_past_items_break_a_tie_towards_behaviour_that_worked_before() -> None:
    group = [voter(0, "493", zoom(), ocr("493")), voter(1, "77")]
    neighbours = [past(("ZOOM", "OCR"), sequence=i) for i in range(3)]
    assert vote(group, [], PLAIN).reason == "tie"
    result = vote(group, neighbours, PLAIN)
    assert (result.answer, result.neighbours) == ("493", 3)


def test_past_items_together_weigh_no_more_than_their_cap() -> None:
    group = [voter(0, "493", zoom(), ocr("493")), voter(1, "77"), voter(2, "77")]
    neighbours = [past(("ZOOM", "OCR"), sequence=i) for i in range(500)]
    result = vote(group, neighbours, replace(PLAIN, neighbour_weight=1.0, neighbour_cap=0.9))
    assert result.answer == "77"
    assert result.share == pytest.approx(2 / 3.9)


def test_a_query_never_votes_for_itself() -> None:
    group = [voter(0, "493", zoom(), ocr("493")), voter(1, "77")]
    mine = [replace(past(("ZOOM", "OCR"), sequence=i), query_id="mine") for i in range(3)]
    assert vote(group, mine, PLAIN) == vote(group, [], PLAIN)


# Laws

ANSWERS = st.sampled_from(["7", "7.0", "3", "493", None])
CALLS = st.lists(st.sampled_from([zoom(), zoom((0, 0, 50, 50)), zoom(error=True), ocr("7"), ocr("")]), max_size=3)
GROUPS = st.lists(st.tuples(ANSWERS, CALLS), min_size=1, max_size=8).map(
    lambda items: [voter(i, answer, *calls) for i, (answer, calls) in enumerate(items)]
)
NEIGHBOURS = st.lists(
    st.builds(
        past,
        st.sampled_from([(), ("ZOOM",), ("ZOOM", "OCR")]),
        sequence=st.integers(0, 9),
        similarity=st.floats(-1, 1),
        confidence=st.floats(0, 1),
    ),
    max_size=4,
)
CONFIGS = st.builds(
    VotingConfig,
    answer_weight=st.floats(0, 1),
    min_share=st.floats(0, 1),
    min_margin=st.floats(0, 1),
    min_parsed=st.integers(2, 4),
)


@given(GROUPS, NEIGHBOURS, CONFIGS, st.randoms(use_true_random=False))
def test_the_order_of_samples_does_not_matter(
    group: list[Rollout], neighbours: list[Neighbour], config: VotingConfig, shuffle: random.Random
) -> None:
    mixed = list(group)
    shuffle.shuffle(mixed)
    assert vote(mixed, neighbours, config) == vote(group, neighbours, config)


@given(GROUPS, NEIGHBOURS)
def test_a_share_lies_between_one_over_the_group_and_one(group: list[Rollout], neighbours: list[Neighbour]) -> None:
    result = vote(group, neighbours, CHAIN)
    if result.answer is not None:
        assert 1 / len(group) - 1e-9 <= result.share <= 1 + 1e-9
        assert 0 < result.margin <= result.share + 1e-9
        assert result.exemplar is None or result.agrees[result.exemplar]


@given(GROUPS, NEIGHBOURS, CONFIGS)
def test_no_weight_for_neighbours_is_no_retrieval(
    group: list[Rollout], neighbours: list[Neighbour], config: VotingConfig
) -> None:
    silent = replace(config, neighbour_weight=0.0)
    assert vote(group, neighbours, silent) == vote(group, [], silent)


@given(GROUPS, NEIGHBOURS, CALLS, st.floats(0, 1))
def test_a_further_vote_for_the_winner_never_makes_it_lose(
    group: list[Rollout], neighbours: list[Neighbour], calls: list[ExecutedCall], answer_weight: float
) -> None:
    config = replace(CHAIN, answer_weight=answer_weight)
    before = vote(group, neighbours, config)
    if before.answer is not None:
        after = vote([*group, voter(40, before.answer, *calls)], neighbours, config)
        assert after.answer == before.answer


@given(GROUPS)
def test_a_kernel_of_one_is_the_plain_majority(group: list[Rollout]) -> None:
    counts: dict[str, int] = {}
    for rollout in group:
        if rollout.answer is not None:
            key = "7" if rollout.answer == "7.0" else rollout.answer
            counts[key] = counts.get(key, 0) + 1
    best = max(counts.values(), default=0)
    winners = [answer for answer, count in counts.items() if count == best]
    result = vote(group, [], PLAIN)
    if sum(counts.values()) < 2 or len(winners) > 1:
        assert result.answer is None
    else:
        assert result.answer == winners[0]
        assert result.share == pytest.approx(best / sum(counts.values()))


def test_a_consensus_names_its_group() -> None:
    result: Consensus = vote([voter(0, "7"), voter(1, "7")], [], PLAIN)
    assert (result.group_id, result.neighbours, result.reason) == ("g0", 0, "")


@pytest.mark.parametrize(
    "fields",
    [
        {"answer_weight": 2.0},
        {"min_parsed": 0},
        {"neighbour_weight": -1.0},
        {"neighbour_cap": 3.0},
        {"min_share": -0.1},
    ],
)
def test_impossible_settings_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        VotingConfig(**fields)  # type: ignore[arg-type]
