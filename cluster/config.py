"""The configuration of a run: everything that a person may set, with the file that explains each part.

Hydra composes YAML files (cluster/conf: groups model, hardware, experiment) and overrides from the command line into
plain values; one strict conversion makes this frozen dataclass of them, or one clear error. YAML holds values,
dataclasses hold meaning.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from actors.config import ActorConfig, GenerationConfig, ViewConfig, VotingConfig
from actors.dialects.config import DialectConfig
from actors.tasks.config import WorldConfig
from actors.tools.config import ToolsConfig
from actors.traces.config import Emphasis, TraceConfig
from cluster.phases import EvaluationConfig, Phases
from cluster.runtime import RuntimeConfig
from cluster.strict import convert, key_paths, unknown_key
from common.errors import ConfigError
from learner.config import LearnerConfig
from replay.config import MAX_INSPECTORS, Durability

GROUPS = ("model", "hardware", "experiment")
SHORT = {"data.reader": "evaluation.reader"}
"""Keys that people write shorter, and what they stand for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The base model. path: a directory that transformers loads, or "" for the small one that comes with this
    project. fresh: make the small one anew, by this configuration's recipe (`phases.pretrain`).

    system: the system prompt ("" for none). dialect: how it writes tool calls.
    """

    path: str = ""
    fresh: bool = False
    system: str = ""
    dialect: DialectConfig = field(default_factory=DialectConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """One run.

    name: of the run and its folder. seed: the root of every random stream. folder: where runs lie. num_actors:
    processes that act, an engine each. num_ranks: of the learner. num_neighbours: past experiences asked for when a
    vote is taken. inspectors: processes that look at rollouts and their pictures when the replay gets them; 0: its own
    process does, which is slower with many actors.
    """

    name: str
    seed: int = 0
    folder: Path = Path("runs")
    num_actors: int = 1
    num_ranks: int = 1
    num_neighbours: int = 6
    inspectors: int = 1
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    view: ViewConfig = field(default_factory=ViewConfig)
    actor: ActorConfig = field(default_factory=ActorConfig)
    emphasis: Emphasis = field(default_factory=Emphasis)
    traces: TraceConfig = field(default_factory=TraceConfig)
    voting: VotingConfig = field(default_factory=VotingConfig)
    tools: ToolsConfig = field(default_factory=ToolsConfig)
    world: WorldConfig = field(default_factory=WorldConfig)
    durability: Durability = field(default_factory=Durability)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    phases: Phases = field(default_factory=Phases)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise ValueError(f"name must be letters, digits, dots, dashes and underscores, got {self.name!r}")
        for field_name in ("num_actors", "num_ranks"):
            if getattr(self, field_name) < 1:
                raise ValueError(f"{field_name} must be at least 1, got {getattr(self, field_name)}")
        if not 0 <= self.inspectors <= MAX_INSPECTORS:
            raise ValueError(f"inspectors must be in [0, {MAX_INSPECTORS}], got {self.inspectors}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")
        if self.model.dialect.name != "hermes" and self.view.kind != "native":
            raise ValueError(
                f"model.dialect.name={self.model.dialect.name} counts pixels as shown: set view.kind=native"
            )


def load(overrides: Sequence[str]) -> RunConfig:
    """The configuration that the YAML files and `overrides` (Hydra's `key=value` and `group=choice`) say.

    Raises ConfigError, one line.
    """
    return convert(compose(overrides), RunConfig)


def compose(overrides: Sequence[str]) -> dict[str, Any]:
    """Plain nested values, not yet checked against the dataclasses except for the keys of `overrides`."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_module
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    known = list(key_paths(RunConfig))
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module("cluster.conf", version_base="1.3"):
            composed = hydra_compose("config", overrides=[_override(text, known) for text in overrides])
            values = OmegaConf.to_container(composed, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_explained(error, overrides)) from error
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def as_values(config: RunConfig) -> dict[str, Any]:
    """The configuration as JSON values."""
    values: dict[str, Any] = json.loads(json.dumps(asdict(config), default=str))
    return values


def digest(config: RunConfig) -> str:
    """What the run computes, in 16 hexadecimal digits: the same for another name, folder or machine, and whoever looks
    at its rollouts.
    """
    values = as_values(config)
    for key in ("name", "folder", "runtime", "inspectors"):
        del values[key]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _override(text: str, known: Sequence[str]) -> str:
    """The override for Hydra. A key that no YAML file mentions is still a key when its dataclass has it."""
    key, equals, _ = text.partition("=")
    if not equals:
        raise ConfigError(f"{text}: not an override; write key=value")
    if key in GROUPS:
        return text
    name = SHORT.get(key.lstrip("+~"), key.lstrip("+~"))
    if name not in known:
        raise unknown_key(name, [*known, *GROUPS])
    return text if key.startswith("~") else f"++{name}={text.partition('=')[2]}"


def _explained(error: Exception, overrides: Sequence[str]) -> str:
    """Hydra's message in one line, with the choices where a group's choice is unknown."""
    for text in overrides:
        group, _, choice = text.partition("=")
        if group in GROUPS and choice not in choices(group):
            return f"{group}: no choice {choice!r}; there are {', '.join(choices(group))}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def choices(group: str) -> list[str]:
    """The names that `group=` accepts."""
    return sorted(file.stem for file in (Path(__file__).parent / "conf" / group).glob("*.yaml"))
