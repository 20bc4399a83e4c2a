"""Published weights are trusted only when every byte of every tensor is what the list says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes.reference import weights_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from actors.weights import model_files, shapes, tensors, verify
from common.errors import WeightsError
from common.types import Weights

HELD = {"a": (3, 4), "b": (5,)}


@pytest.fixture
def weights(tmp_path: Path) -> Weights:
    values = {"a": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.ones(5, np.float16)}
    save_file(values, tmp_path / "model.safetensors")
    return weights_of(tmp_path, 1)


def test_what_was_published_is_accepted_and_reads_back(weights: Weights) -> None:
    verify(weights, HELD)
    found = dict(tensors(weights.buckets))
    assert found["a"].tolist() == np.arange(12).reshape(3, 4).tolist()
    assert sorted(found) == ["a", "b"]


@given(at=st.integers(0, 10**6), bit=st.integers(0, 7))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_flipped_bit_of_the_file_is_found(weights: Weights, at: int, bit: int) -> None:
    file = Path(weights.buckets[0])
    whole = file.read_bytes()
    damaged = bytearray(whole)
    header = 8 + int.from_bytes(whole[:8], "little")
    at = header + at % (len(whole) - header)
    damaged[at] ^= 1 << bit
    file.write_bytes(damaged)
    with pytest.raises(WeightsError, match="version 1"):
        verify(weights, HELD)
    file.write_bytes(whole)


@given(st.integers(0, 10**6))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_cut_file_is_refused(weights: Weights, length: int) -> None:
    file = Path(weights.buckets[0])
    whole = file.read_bytes()
    file.write_bytes(whole[: length % len(whole)])
    with pytest.raises(WeightsError, match="version 1"):
        verify(weights, HELD)
    file.write_bytes(whole)


def test_a_tensor_that_is_missing_unlisted_or_in_no_bucket_is_named(weights: Weights) -> None:
    a, b = sorted(weights.tensors, key=lambda tensor: tensor.name)
    for listed in ((a,), (a, b, replace(b, name="c"))):
        with pytest.raises(WeightsError, match=r": [bc]$"):
            verify(replace(weights, tensors=listed), {tensor.name: tensor.shape for tensor in listed})
    with pytest.raises(WeightsError, match="bucket 3"):
        verify(replace(weights, tensors=(a, replace(b, bucket=3))), HELD)
    with pytest.raises(WeightsError, match=r": a$"):
        verify(replace(weights, tensors=(replace(a, shape=(4, 3)), b)), HELD | {"a": (4, 3)})


def test_tensors_must_be_those_that_the_engine_holds_whatever_they_are_called(weights: Weights) -> None:
    verify(weights, {"model.a": (3, 4), "model.b": (5,)})
    with pytest.raises(WeightsError, match=r"a has shape \(3, 4\), and \(4, 3\) is held"):
        verify(weights, HELD | {"a": (4, 3)})
    with pytest.raises(WeightsError, match="2 tensors are not of the shapes of the 1 held"):
        verify(weights, {"a": (3, 4)})
    assert shapes(weights.buckets) == HELD


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="safetensors"):
        model_files(tmp_path)
