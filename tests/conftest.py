"""What every test relies on: nothing comes from a hub, tests that need a GPU are skipped where there is none, and how
busy the machine is decides nothing.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from cluster.benchmarks.machine import gpu_names

if TYPE_CHECKING:
    from common.chat import Chat
    from common.media import FolderMediaStore

settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")
os.environ["HF_HUB_OFFLINE"] = "1"  # before any library reads it; the processes that tests start inherit it


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    needy = [item for item in items if item.get_closest_marker("gpu")]
    if needy and not gpu_names():
        for item in needy:
            item.add_marker(pytest.mark.skip(reason="needs a GPU"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with random weights."""
    from fakes.models import make_tiny_model

    return make_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FolderMediaStore:
    from common.media import FolderMediaStore

    return FolderMediaStore(tmp_path_factory.mktemp("media"))


@pytest.fixture(scope="module")
def chat(folder: Path) -> Chat:
    from common.chat import Chat

    return Chat.from_model(folder)
