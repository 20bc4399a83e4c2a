"""What every test relies on: nothing comes from a hub, and tests that need a GPU are skipped where there is none."""

from __future__ import annotations

import os

import pytest

from cluster.benchmarks.machine import gpu_names

os.environ["HF_HUB_OFFLINE"] = "1"  # before any library reads it; the processes that tests start inherit it


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    needy = [item for item in items if item.get_closest_marker("gpu")]
    if needy and not gpu_names():
        for item in needy:
            item.add_marker(pytest.mark.skip(reason="needs a GPU"))
