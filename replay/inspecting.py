"""Rollouts that come at the same moment are looked at together: Arrow takes little longer for many than for one.

Here, or in processes of their own (replay/inspector), which also compare pictures with what they are called.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

from common.columns import Columns, RolloutKeys
from common.cuts import Cut
from common.errors import ContractError, ReplayError, Stopped
from common.schema import rollout_columns

INSPECTED_HERE = 1 << 18
"""Bytes of a rollout that is looked at on the event loop, in less time than a thread takes to be woken."""
AT_ONCE = 16
"""Rollouts that a process looks at before it answers: of more, others wait longer for the first."""
TRIES = 3
"""Processes that may end over one rollout before it is taken for the reason."""


@dataclass(frozen=True, slots=True)
class Inspected:
    """A rollout that keeps every law. cuts: which of its pictures may be parts of others, as Columns.cuts.

    proven: None when nobody compared its pictures with what they are called. Otherwise each of `cuts` is what it says,
    and these digests lie in the live store as they are called.
    """

    keys: RolloutKeys
    cuts: tuple[Cut, ...]
    proven: frozenset[str] | None = None


class InspectorEnded(Exception):
    """The process that looks at rollouts ended before it answered."""


class Looks(Protocol):
    """A process that looks at rollouts."""

    def start(self) -> None:
        """Let it load meanwhile."""

    async def inspect(self, bodies: Sequence[bytes]) -> list[Inspected | ContractError]:
        """As `inspect_all`. Raises InspectorEnded, or ReplayError when it cannot be started."""

    async def close(self) -> None: ...


def inspect_all(bodies: Sequence[bytes]) -> list[Inspected | ContractError]:
    """Of each, an Arrow stream of one row, what it is or why it is refused."""
    found: dict[int, Inspected | ContractError] = {}
    alike: dict[int, list[tuple[int, Columns]]] = {}
    for number, body in enumerate(bodies):
        try:
            rows = rollout_columns(body)
            if len(rows) != 1 or len(rows[0]) != 1:
                raise ContractError(f"one rollout at a time; got {sum(map(len, rows))}")
            alike.setdefault(rows[0].schema_version, []).append((number, rows[0]))
        except ContractError as error:
            found[number] = error
    for group in alike.values():
        found |= _checked(group)
    return [found[number] for number in range(len(bodies))]


def _checked(group: Sequence[tuple[int, Columns]]) -> dict[int, Inspected | ContractError]:
    """group: rows of one schema, by number. Where one of many breaks a law, each is looked at by itself."""
    columns = Columns.joined([columns for _, columns in group])
    try:
        columns.check()
        keys = columns.read_keys()
    except ContractError as error:
        if len(group) == 1:
            return {group[0][0]: error}
        return {number: one for member in group for number, one in _checked([member]).items()}
    return {number: Inspected(keys[row], tuple(columns.cuts(row))) for row, (number, _) in enumerate(group)}


class Inspecting:
    """On one event loop. processes: who looks; none of them: this thread does."""

    def __init__(self, processes: Sequence[Looks] = ()) -> None:
        self._processes = processes
        self._closed = False
        self._turn = 0
        self._pending: list[_Asked] = []
        self._asking = set[asyncio.Task[None]]()

    def start(self) -> None:
        """There will be rollouts soon."""
        for process in self._processes:
            process.start()

    async def inspect(self, body: bytes) -> Inspected:
        """A rollout that came. Raises ContractError where it breaks a law, ReplayError when nobody can look at it,
        Stopped after `close`.
        """
        if len(body) > INSPECTED_HERE and not self._processes:
            [found] = await asyncio.to_thread(inspect_all, [body])
        else:
            loop = asyncio.get_running_loop()
            if not self._pending:
                loop.call_soon(self._run)
            asked = _Asked(body, loop.create_future())
            self._pending.append(asked)
            found = await asked.answer
        if isinstance(found, ContractError):
            raise found
        return found

    async def close(self) -> None:
        """Whoever waits for a process gets Stopped."""
        self._closed = True
        await asyncio.gather(*(process.close() for process in self._processes))

    def _run(self) -> None:
        pending, self._pending = self._pending, []
        if not self._processes:
            with _answering(pending):
                _answer(pending, inspect_all([asked.body for asked in pending]))
            return
        for start in range(0, len(pending), AT_ONCE):
            self._turn = (self._turn + 1) % len(self._processes)
            asking = self._ask(self._processes[self._turn], pending[start : start + AT_ONCE])
            task = asyncio.get_running_loop().create_task(asking)
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)

    async def _ask(self, process: Looks, batch: Sequence[_Asked]) -> None:
        with _answering(batch):
            try:
                _answer(batch, await process.inspect([asked.body for asked in batch]))
            except InspectorEnded:
                for asked in batch:
                    _answer([asked], [await self._alone(process, asked.body)])

    async def _alone(self, process: Looks, body: bytes) -> Inspected | ContractError:
        """One of a batch that a process did not survive. It may have been killed from outside, so this one is refused
        when none survives it.
        """
        for _ in range(TRIES):
            if self._closed:
                break
            with suppress(InspectorEnded):
                [found] = await process.inspect([body])
                return found
        if self._closed:
            raise Stopped("the replay is closed")
        return ContractError(f"not a rollout: {TRIES} processes ended while they looked at it")


@dataclass(frozen=True, slots=True)
class _Asked:
    body: bytes
    answer: asyncio.Future[Inspected | ContractError]


def _answer(batch: Sequence[_Asked], found: Sequence[Inspected | ContractError]) -> None:
    for asked, one in zip(batch, found, strict=True):
        if not asked.answer.done():
            asked.answer.set_result(one)


@contextmanager
def _answering(batch: Sequence[_Asked]) -> Iterator[None]:
    """Whatever ends this, nobody may wait for ever."""
    try:
        yield
    except Exception as error:
        for asked in batch:
            if not asked.answer.done():
                asked.answer.set_exception(error)
        if not isinstance(error, ReplayError | Stopped):
            raise
