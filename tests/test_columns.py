"""What a replay reads of a rollout without decoding it, and the laws that it checks there."""

from __future__ import annotations

import copy
import dataclasses
import math
import random
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pytest
from fakes.golden import rollouts as golden_rollouts
from fakes.values import a_clip, a_query, a_rollout, an_answer_turn
from hypothesis import given, settings
from hypothesis import strategies as st

from common.columns import Columns
from common.errors import ContractError
from common.schema import ROLLOUTS, decode_rollouts, encode_rollouts, rollout_columns, rollout_keys, rollout_table
from common.types import Rollout
from common.wholeness import MAY_BE_NULL

Row = dict[str, Any]


def written(*rows: Row) -> bytes:
    """Rows as a stream, no law checked."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, ROLLOUTS) as writer:
        writer.write_table(pa.Table.from_pylist(list(rows), schema=ROLLOUTS))
    return bytes(sink.getvalue().to_pybytes())


def checked(data: bytes) -> list[Columns]:
    found = rollout_columns(data)
    for columns in found:
        columns.check()
    return found


def row_of(rollout: Rollout) -> Row:
    [row] = rollout_table(encode_rollouts([rollout])).to_pylist()
    assert isinstance(row, dict)
    return row


def places(value: Any, path: str = "", steps: tuple[Any, ...] = ()) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Every place of a row that holds something: its name, and how to get there."""
    if steps and value is not None:
        yield path, steps
    if isinstance(value, dict):
        for name, held in value.items():
            yield from places(held, f"{path}.{name}" if path else name, (*steps, name))
    if isinstance(value, list):
        for i, held in enumerate(value[:3]):
            yield from places(held, f"{path}[]", (*steps, i))


def without(row: Row, steps: tuple[Any, ...]) -> Row:
    changed = copy.deepcopy(row)
    held: Any = changed
    for step in steps[:-1]:
        held = held[step]
    held[steps[-1]] = None
    return changed


WHOLE = [row_of(dataclasses.replace(rollout, query=a_query(clip=a_clip(3)))) for rollout in golden_rollouts()[:4]]
"""Between them they hold something at every place."""
PLACES = {path: (row, steps) for row in WHOLE for path, steps in places(row)}


@pytest.mark.parametrize("path", PLACES)
def test_a_rollout_that_lacks_anything_is_refused_by_name_unless_it_need_not_have_it(path: str) -> None:
    row, steps = PLACES[path]
    data = written(without(row, steps))
    if path in MAY_BE_NULL - {"oldest_version", "newest_version"}:
        [columns] = checked(data)
        assert columns.read_keys()[0].rollout_id == decode_rollouts(data)[0].rollout_id == row["rollout_id"]
        return
    with pytest.raises(ContractError, match="no sampled token|says versions|has no " + path.replace("[]", r"\[\]")):
        checked(data)
    with pytest.raises(ContractError):
        decode_rollouts(data)


def test_the_places_that_were_tried_are_all_that_there_are() -> None:
    assert PLACES.keys() >= MAY_BE_NULL
    kinds = {path.split(".")[0].split("[")[0] for path in PLACES}
    assert kinds == set(ROLLOUTS.names)


def keeps_the_laws(row: Row) -> bool:
    """The same laws, a token at a time."""
    sampled = []
    for turn in row["turns"]:
        number = len(turn["token_ids"]) if turn["role"] == "assistant" else 0
        if len(turn["logprobs"]) != number or not all(map(math.isfinite, turn["logprobs"])):
            return False
        owner = [None] * number
        for span in turn["versions"]:
            for i in range(span["start"], span["stop"]):
                if not 0 <= i < number or owner[i] is not None:
                    return False
                owner[i] = span["version"]
            if span["start"] >= span["stop"]:
                return False
        starts = [span["start"] for span in turn["versions"]]
        if None in owner or starts != sorted(starts):
            return False
        edges = [edge for span in turn["shaped"] for edge in (span["start"], span["stop"])]
        if any(a >= b for a, b in pairwise(edges)) or any(not 0 <= edge <= number for edge in edges):
            return False
        sampled += owner
    if not sampled:
        return bool(row["stop_reason"] == "quarantined") and row["oldest_version"] is row["newest_version"] is None
    return (min(sampled), max(sampled)) == (row["oldest_version"], row["newest_version"])


@st.composite
def changed_rows(draw: st.DrawFn) -> Row:
    """A rollout of a few tokens, of which a law or two may be broken."""
    row = row_of(a_rollout(turns=(an_answer_turn((20, 21, 22), version=3), an_answer_turn((23,), version=4))))
    small, edge = st.integers(0, 4), st.integers(-1, 4)
    for _ in range(draw(st.integers(0, 2))):
        turn = row["turns"][draw(st.integers(0, len(row["turns"]) - 1))]
        kind = draw(st.sampled_from(["role", "tokens", "logprobs", "versions", "shaped", "oldest", "none", "stop"]))
        if kind == "role":
            turn["role"] = draw(st.sampled_from(["assistant", "user", "tool"]))
        elif kind == "tokens":
            turn["token_ids"] = list(range(draw(small)))
        elif kind == "logprobs":
            turn["logprobs"] = draw(st.lists(st.sampled_from([-0.5, 0.0, float("nan"), float("inf")]), max_size=4))
        elif kind == "versions":
            spans = draw(st.lists(st.tuples(edge, edge), max_size=3))
            turn["versions"] = [{"start": a, "stop": b, "version": i} for i, (a, b) in enumerate(spans)]
        elif kind == "shaped":
            spans = draw(st.lists(st.tuples(edge, edge), max_size=2))
            turn["shaped"] = [{"start": a, "stop": b} for a, b in spans]
        elif kind == "oldest":
            row["oldest_version"] = draw(st.none() | small)
        elif kind == "none":
            row["turns"] = row["turns"][: draw(st.integers(1, 2))]
        else:
            row["stop_reason"] = draw(st.sampled_from(["quarantined", "answer"]))
    return row


@settings(max_examples=300, deadline=None)
@given(st.lists(changed_rows(), min_size=1, max_size=3))
def test_the_laws_over_columns_are_those_of_a_token_at_a_time(rows: list[Row]) -> None:
    data, good = written(*rows), all(map(keeps_the_laws, rows))
    try:
        checked(data)
    except ContractError:
        assert not good
    else:
        assert good and len(decode_rollouts(data)) == len(rows)


@pytest.mark.parametrize("arguments", ["", "{", "[1]", "7", "nan"])
def test_arguments_that_are_no_object_of_json_are_refused(arguments: str) -> None:
    row = copy.deepcopy(WHOLE[0])
    row["calls"][0]["arguments"] = arguments
    with pytest.raises(ContractError, match="arguments"):
        checked(written(row))


def test_a_consent_that_nobody_knows_is_refused() -> None:
    row = copy.deepcopy(WHOLE[0])
    row["provenance"]["consent"] = "sell"
    with pytest.raises(ContractError, match="consent 'sell' is none of learn, keep"):
        checked(written(row))


def test_rows_of_one_stream_have_keys_of_their_own() -> None:
    rollouts = golden_rollouts()
    together, singly = encode_rollouts(rollouts), [encode_rollouts([rollout]) for rollout in rollouts]
    assert rollout_keys(together) == [keys for data in singly for keys in rollout_keys(data)]
    [columns] = rollout_columns(together)
    assert [columns.cuts(row) for row in range(len(columns))] == [
        one.cuts(0) for data in singly for one in rollout_columns(data)
    ]
    joined = Columns.joined([one for data in singly for one in rollout_columns(data)])
    joined.check()
    assert (joined.read_keys(), joined.query_ids()) == (columns.read_keys(), columns.query_ids())


def flip(data: bytearray, random: random.Random) -> None:
    data[random.randrange(len(data))] ^= 1 << random.randrange(8)


def cut(data: bytearray, random: random.Random) -> None:
    del data[random.randrange(len(data)) :]


@pytest.mark.parametrize("break_it", [flip, cut])
def test_broken_bytes_are_refused_or_read_and_never_end_the_process(
    break_it: Callable[[bytearray, random.Random], None],
) -> None:
    source, refused = random.Random(0), 0
    for data in (encode_rollouts([rollout]) for rollout in golden_rollouts()):
        for _ in range(300):
            broken = bytearray(data)
            break_it(broken, source)
            try:
                for columns in checked(bytes(broken)):
                    columns.read_keys()
                    for row in range(len(columns)):
                        columns.cuts(row)
                decode_rollouts(bytes(broken))
            except ContractError:
                refused += 1
    assert refused > 500
