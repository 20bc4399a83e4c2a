"""Children that die with their parent, also before they run a line of their own."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import time
from multiprocessing import spawn
from pathlib import Path

import psutil
import pytest

from actors.lifeline import children_die_with_us

PARENT = """
import multiprocessing, sys, time
from actors.lifeline import children_die_with_us

if __name__ == "__main__":
    with children_die_with_us():
        child = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,))
        child.start()
    print(child.pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a feature of Linux")
@pytest.mark.parametrize("wait_s", [0.0, 1.5])
def test_a_child_is_gone_soon_after_its_parent_was_killed(tmp_path: Path, wait_s: float) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    root = str(Path(__file__).parent.parent)
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, env={"PYTHONPATH": root}) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        time.sleep(wait_s)
        assert child.is_running()
        parent.kill()
        parent.wait()
    deadline = time.monotonic() + 5
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _double(value: int) -> int:
    return 2 * value


def test_children_run_as_ever_and_the_interpreter_is_given_back() -> None:
    before = spawn.get_executable()
    with children_die_with_us(), multiprocessing.get_context("spawn").Pool(1) as pool:
        assert spawn.get_executable() != before
        assert pool.apply(abs, (-3,)) == 3
    assert spawn.get_executable() == before
