"""The doctor names what is missing and what to do; only what the main job needs fails."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cluster import doctor
from cluster.benchmarks.machine import describe, versions
from cluster.config import load
from cluster.doctor import Check, Diagnosis


def only(checks: list[Check], name: str) -> Check:
    return next(check for check in checks if check.name == name)


def test_an_old_python_fails() -> None:
    assert doctor.python((3, 10, 1)).level == "fail"
    assert doctor.python((3, 11, 0)).level == "ok"


def test_pins_are_read_from_a_lock() -> None:
    assert doctor.pins("# a lock\ntorch==2.13.0+cpu\nray==2.60.0  # why\n\n-e .\n") == {
        "torch": "2.13.0+cpu",
        "ray": "2.60.0",
    }


def test_a_version_that_differs_from_the_lock_is_named(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("numpy==0.0.1\nno-such-package==1\n")
    check = only(list(doctor.packages(tmp_path / "lock")), "versions")
    assert check.level == "note" and "(locked: 0.0.1)" in check.found and "no-such-package missing" in check.found
    assert check.advice == "run scripts/setup"


def test_an_import_that_fails_says_why() -> None:
    assert doctor._import_failure("json") == ""
    assert doctor._import_failure("no_such_module_at_all") == "not installed"


def test_a_gpu_that_is_wanted_and_missing_fails() -> None:
    bare = replace(describe(), gpus=())
    assert doctor.gpu(bare, load(["hardware=cpu"])).level == "ok"
    assert doctor.gpu(bare, load(["hardware=node8"])).level == "fail"
    assert doctor.gpu(replace(bare, gpus=("H100",)), load(["hardware=cpu"])).level == "note"
    assert doctor.gpu(replace(bare, gpus=("H100",)), load(["hardware=gpu"])).level == "ok"


def test_a_processor_without_avx2_fails_only_without_a_gpu() -> None:
    old = replace(describe(), instructions=(), gpus=())
    assert doctor.processor(old).level == "fail"
    assert doctor.processor(replace(old, gpus=("H100",))).level == "ok"


def test_a_model_directory_without_weights_fails(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    config = load([f"model.path={tmp_path}"])
    assert only(list(doctor.weights(config)), "base model").level == "fail"
    (tmp_path / "model.safetensors").write_bytes(b"x")
    assert only(list(doctor.weights(config)), "base model").level == "ok"


def test_missing_sam2_weights_are_only_a_note(tmp_path: Path) -> None:
    assert only(list(doctor.weights(load([]))), "SAM2 weights").level == "note"
    (tmp_path / "sam2_hiera_tiny.safetensors").write_bytes(b"x")
    assert only(list(doctor.weights(load([f"tools.weights_dir={tmp_path}"]))), "SAM2 weights").level == "ok"


def test_a_cluster_that_does_not_answer_fails() -> None:
    assert doctor.cluster(load(["runtime.address=127.0.0.1:1"])).level == "fail"
    assert doctor.cluster(load([])).level == "ok"
    assert doctor.loopback().level == "ok"


def test_one_failed_check_is_enough_and_notes_are_not() -> None:
    good, note = Check(name="a", level="ok", found="x"), Check(name="b", level="note", found="y", advice="buy one")
    bad = Check(name="c", level="fail", found="z", advice="mend it")
    assert Diagnosis(checks=(good, note)).healthy
    diagnosis = Diagnosis(checks=(good, note, bad))
    assert not diagnosis.healthy
    assert json.loads(json.dumps(diagnosis.to_json()))["checks"][2]["advice"] == "mend it"
    lines = str(diagnosis.table()).splitlines()
    assert lines == ["✓ a  x", "– b  y  → buy one", "✗ c  z  → mend it"]


@pytest.mark.parametrize("package", ["torch", "ray", "numpy"])
def test_versions_are_those_installed(package: str) -> None:
    from importlib import metadata

    assert versions()[package] == metadata.version(package)
