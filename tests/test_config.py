"""Configuration: every key that exists can be set, every other is refused with a line that helps."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cluster.config import GROUPS, RunConfig, as_values, choices, digest, load
from cluster.strict import convert, key_paths
from common.errors import ConfigError
from learner.config import LearnerConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    rate: float = 0.5
    stage: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.rate < 1:
            raise ValueError(f"rate must be in (0, 1), got {self.rate}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer:
    title: str
    inner: Inner = field(default_factory=Inner)
    maybe: Inner | None = None
    many: tuple[Inner, ...] = ()
    named: dict[str, Inner] = field(default_factory=dict)
    place: Path = Path()


@dataclass(frozen=True, slots=True, kw_only=True)
class Nested:
    first: Outer = field(default_factory=lambda: Outer(title="given", inner=Inner(rate=0.125)))


def error(values: dict[str, object]) -> str:
    with pytest.raises(ConfigError) as caught:
        convert(values, Outer)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_plain_values_become_dataclasses() -> None:
    made = convert({"title": "t", "inner": {"rate": 0.25}, "many": [{"stage": 2}], "place": "a/b"}, Outer)
    assert made == Outer(title="t", inner=Inner(rate=0.25), many=(Inner(stage=2),), place=Path("a/b"))


def test_a_misspelt_key_is_named_with_its_path_and_the_one_meant() -> None:
    assert error({"title": "t", "inner": {"rat": 0.5}}) == "inner.rat: no such key; did you mean inner.rate?"


def test_unknown_keys_are_refused_at_every_depth() -> None:
    assert "maybe.zzz: no such key; known keys there: maybe.rate, maybe.stage" in error(
        {"title": "t", "maybe": {"zzz": 1}}
    )
    assert "many[1].rat" in error({"title": "t", "many": [{}, {"rat": 1}]})
    assert "named.first.rat" in error({"title": "t", "named": {"first": {"rat": 1}}})


def test_what_a_nested_mapping_leaves_out_keeps_the_default_of_its_field() -> None:
    assert convert({"first": {"title": "t"}}, Nested) == Nested(first=Outer(title="t", inner=Inner(rate=0.125)))
    assert convert({"first": {"inner": {"stage": 3}}}, Nested).first.inner == Inner(rate=0.125, stage=3)
    schedule = load(["learner.rft.schedule.lr=0.5"]).learner.rft.schedule
    assert (schedule.lr, schedule.warmup_steps) == (0.5, LearnerConfig().rft.schedule.warmup_steps)


def test_a_missing_key_is_named() -> None:
    assert error({}) == "title: missing; give it a value"


def test_a_wrong_type_is_named_with_its_path() -> None:
    assert error({"title": "t", "inner": {"stage": "two"}}) == "inner.stage: expected int, got str"
    assert error({"title": "t", "inner": 3}) == "inner: expected object, got int"


def test_an_impossible_value_is_named_with_its_path() -> None:
    assert error({"title": "t", "inner": {"rate": 2.0}}) == "inner: rate must be in (0, 1), got 2.0"


def test_every_choice_of_every_group_is_a_configuration() -> None:
    assert {"cpu", "gpu", "node8"} <= set(choices("hardware"))
    assert "demo" in choices("experiment")
    for group in GROUPS:
        for choice in choices(group):
            assert isinstance(load([f"{group}={choice}"]), RunConfig)


def test_an_override_reaches_a_key_that_no_file_mentions() -> None:
    assert load(["learner.engine.max_grad_norm=0.25"]).learner.engine.max_grad_norm == 0.25
    assert load(["learner.engine.eps=1e-7"]).learner.engine.eps == 1e-7
    assert load(["runtime.num_gpus=null"]).runtime.num_gpus is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "learner.engin.zero_stage=1",
            "learner.engin.zero_stage: no such key; did you mean learner.engine.zero_stage?",
        ),
        ("seeed=1", "seeed: no such key; did you mean seed?"),
        ("seed", "seed: not an override; write key=value"),
        ("seed=x", "seed: expected int, got str"),
        ("learner.engine.zero_stage=7", "learner.engine: zero_stage must be 0, 1, 2 or 3, got 7"),
        ("runtime.kind=rey", "runtime.kind: invalid enum value 'rey'"),
        (
            "runtime.address=nowhere",
            'runtime: address must be "" (a cluster of this machine), "auto" or "host:port", got \'nowhere\'',
        ),
        ("name=a/b", "name must be letters, digits, dots, dashes and underscores, got 'a/b'"),
    ],
)
def test_a_bad_override_is_one_line_that_says_what_to_change(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load([override])
    assert str(caught.value) == message


def test_an_unknown_choice_lists_those_there_are() -> None:
    with pytest.raises(ConfigError, match="hardware: no choice 'tpu'; there are cpu, gpu, node8"):
        load(["hardware=tpu"])


def test_the_digest_follows_what_is_computed_and_nothing_else() -> None:
    config = load([])
    assert digest(load(["name=other", "folder=/elsewhere", "runtime.num_cpus=3", "inspectors=0"])) == digest(config)
    assert digest(load(["seed=1"])) != digest(config)
    assert digest(load(["learner.rft.reward.curiosity=0.1"])) != digest(config)


def test_a_configuration_survives_json() -> None:
    config = load(["seed=3"])
    assert convert(as_values(config), RunConfig) == config


def test_key_paths_are_unique_and_deep() -> None:
    paths = list(key_paths(RunConfig))
    assert len(paths) == len(set(paths))
    assert "learner.rft.reward.curiosity" in paths
