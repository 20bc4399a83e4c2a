"""The neighbour index against an exact reference, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.experiences import an_experience, some_vectors

from common.errors import ContractError
from replay.config import IndexConfig
from replay.index import NeighbourIndex, exact_nearest


def _index(folder: Path, vectors: np.ndarray[Any, Any]) -> NeighbourIndex:
    index = NeighbourIndex(folder, IndexConfig(encoder="e", dimension=vectors.shape[1]))
    for i, vector in enumerate(vectors):
        index.follow(an_experience(vector, query_id=f"q{i}"), 3 * i)
    return index


def test_the_fast_index_agrees_with_the_exact_reference(tmp_path: Path) -> None:
    vectors, sequences = some_vectors(500, 32), 3 * np.arange(500, dtype=np.int64)
    index = _index(tmp_path, vectors)
    for query in some_vectors(40, 32, seed=1):
        found = index.nearest(query, 8)
        exact = exact_nearest(vectors, sequences, query, 8)
        assert [n.sequence for n in found] == [sequence for sequence, _ in exact]
        np.testing.assert_allclose([n.similarity for n in found], [value for _, value in exact], atol=1e-5)


def test_leaving_out_a_query_still_gives_k(tmp_path: Path) -> None:
    vectors = some_vectors(200, 8)
    index = _index(tmp_path, vectors)
    found = index.nearest(vectors[7], 5, exclude_query="q7")
    assert len(found) == 5
    assert all(n.query_id != "q7" for n in found)
    assert index.nearest(vectors[7], 1)[0].sequence == 21


def test_a_query_remembered_twice_counts_once_by_its_latest_entry(tmp_path: Path) -> None:
    vectors = some_vectors(4, 8)
    index = _index(tmp_path, vectors)
    index.follow(an_experience(vectors[3], query_id="q0"), 100)
    found = index.nearest(vectors[0], 4)
    assert sorted(n.query_id for n in found) == ["q0", "q1", "q2", "q3"]
    assert {n.query_id: n.sequence for n in found}["q0"] == 100


def test_asking_for_more_than_there_is_or_for_nothing(tmp_path: Path) -> None:
    index = _index(tmp_path, some_vectors(3, 8))
    assert len(index.nearest(some_vectors(1, 8)[0], 10)) == 3
    assert index.nearest(some_vectors(1, 8)[0], 0) == []
    assert (
        NeighbourIndex(tmp_path / "empty", IndexConfig(encoder="e", dimension=8)).nearest(some_vectors(1, 8)[0], 3)
        == []
    )


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        (np.full(8, np.nan, np.float32), "not finite"),
        (np.ones(8, np.float32), "length 2.8284"),
        (np.zeros(8, np.float32), "length 0"),
        (np.eye(7, dtype=np.float32)[0], r"shape \(7,\)"),
        (np.eye(8, dtype=np.float32), r"shape \(8, 8\)"),
    ],
)
def test_a_vector_that_is_no_unit_vector_is_refused(tmp_path: Path, vector: np.ndarray[Any, Any], message: str) -> None:
    index = _index(tmp_path, some_vectors(3, 8))
    with pytest.raises(ContractError, match=message):
        index.nearest(vector, 1)


def test_a_saved_index_is_taken_again_and_follows_on(tmp_path: Path) -> None:
    vectors = some_vectors(20, 8)
    _index(tmp_path, vectors[:15]).save()
    again = NeighbourIndex(tmp_path, IndexConfig(encoder="e", dimension=8))
    assert (again.loaded, again.sequence) == (15, 42)
    for i, vector in enumerate(vectors):
        again.follow(an_experience(vector, query_id=f"q{i}"), 3 * i)
    assert len(again) == 20
    assert [n.sequence for n in again.nearest(vectors[18], 1)] == [54]


def test_a_mismatch_of_any_kind_leaves_the_index_to_be_rebuilt(tmp_path: Path) -> None:
    _index(tmp_path, some_vectors(5, 8)).save()
    assert NeighbourIndex(tmp_path, IndexConfig(encoder="other", dimension=8)).loaded == 0
    assert NeighbourIndex(tmp_path, IndexConfig(encoder="e", dimension=9)).loaded == 0
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text("{")
    assert NeighbourIndex(tmp_path, IndexConfig(encoder="e", dimension=8)).loaded == 0
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    data = bytearray((tmp_path / "delta-00000001.faiss").read_bytes())
    for byte in range(0, len(data), 7):
        data[byte] ^= 1
        (tmp_path / "delta-00000001.faiss").write_bytes(data)
        assert NeighbourIndex(tmp_path, IndexConfig(encoder="e", dimension=8)).loaded == 0
        data[byte] ^= 1


def test_vectors_of_another_encoder_are_left_out(tmp_path: Path) -> None:
    index = _index(tmp_path, some_vectors(2, 8))
    index.follow(an_experience(some_vectors(1, 8)[0], encoder="older"), 100)
    assert (len(index), index.sequence) == (2, 100)


@pytest.mark.parametrize("name", ["dimension", "max_entries", "merge_entries", "ivf_entries", "num_probes"])
def test_settings_that_hold_nothing_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"index.{name} must be at least 1, got 0"):
        IndexConfig(**{"encoder": "e", "dimension": 8, name: 0})  # type: ignore[arg-type]
