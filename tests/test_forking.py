"""Forked processes are told apart, also when the system uses a number again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fakes.forking import Child, ForkServer, fork_server


class Scripted(ForkServer):
    """Answers as it was told to."""

    def __init__(self, *answers: Any) -> None:
        self._ended, self._answers = {}, list(answers)

    def _ask(self, **request: Any) -> Any:
        return self._answers.pop(0)


def a_child(server: ForkServer) -> Child:
    return server.start("time:sleep", output=Path("nowhere"))


def test_a_number_that_is_used_again_is_another_process() -> None:
    server = Scripted(7, 8, [(7, -9)], 7, [], [(8, 0)], [(7, 1)])
    first, other = a_child(server), a_child(server)
    assert first.status == -9
    second = a_child(server)
    assert second.status is None
    assert other.status == 0
    assert (first.status, second.status, other.status) == (-9, 1, 0)


def test_the_end_of_a_process_that_nobody_asked_about_is_not_that_of_the_next() -> None:
    server = Scripted(7, 8, [(7, -9)], 7, [])
    a_child(server)
    assert a_child(server).status is None
    assert a_child(server).status is None


def test_a_process_ends_with_what_it_was_told(tmp_path: Path) -> None:
    server = fork_server()
    done = server.start("os:_exit", output=tmp_path / "output", status=3)
    slow = server.start("time:sleep", output=tmp_path / "slow")
    while done.status is None or slow.status is None:
        pass
    assert (done.status, slow.status) == (3, 1)
    assert "sleep" in (tmp_path / "slow").read_text()
