"""Whatever is killed, nothing stays behind; and nothing listens but on loopback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cluster.watchdog import processes_of

pytestmark = pytest.mark.system

TESTS = Path(__file__).parent


@pytest.fixture
def driver() -> Iterator[tuple[subprocess.Popen[str], str, int, int]]:
    """A driver with a cluster: the process, the cluster's folder, the pids of its worker and of the worker's child."""
    environment = {**os.environ, "PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}"}
    process = subprocess.Popen(
        [sys.executable, "-m", "fakes.driver"],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    assert process.stdout is not None
    folder, worker, child = process.stdout.readline().split()
    yield process, folder, int(worker), int(child)
    process.kill()
    process.wait()


def members(folder: str, driver: int) -> set[int]:
    """Every process of the cluster, watchdog included, the driver excepted."""
    return processes_of(folder) - {driver}


def wait_until_gone(pids: set[int], *, within_s: float) -> set[int]:
    """Pids that are still running after `within_s`."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline and (pids := {pid for pid in pids if _runs(pid)}):
        time.sleep(0.05)
    return pids


def listening(pids: set[int]) -> set[str]:
    """Addresses that these processes listen on."""
    return {
        connection.laddr.ip.removeprefix("::ffff:")
        for pid in pids
        if _runs(pid)
        for connection in psutil.Process(pid).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_nothing_is_left_of_a_driver_killed_with_sigkill(driver: tuple[subprocess.Popen[str], str, int, int]) -> None:
    process, folder, worker, child = driver
    pids = members(folder, process.pid)
    assert {worker, child} <= pids and len(pids) >= 5
    process.kill()
    process.wait()
    assert not wait_until_gone(pids, within_s=5.0)
    assert not members(folder, process.pid)
    assert not Path(folder).exists()


def test_the_children_of_a_killed_worker_end_with_it(driver: tuple[subprocess.Popen[str], str, int, int]) -> None:
    process, _, worker, child = driver
    os.kill(worker, signal.SIGKILL)
    assert not wait_until_gone({worker, child}, within_s=5.0)
    assert process.wait(10) == 1  # the pending call raised ActorDied, which nobody caught


def test_a_cluster_listens_on_loopback_only_and_ends_on_an_interrupt(
    driver: tuple[subprocess.Popen[str], str, int, int],
) -> None:
    process, folder, worker, _ = driver
    pids = members(folder, process.pid)
    assert worker in pids
    assert listening(pids | {process.pid}) == {"127.0.0.1"}
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    assert not wait_until_gone(pids, within_s=5.0)
    assert not Path(folder).exists()
