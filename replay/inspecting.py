"""Rollouts that come at the same moment are looked at together: Arrow takes little longer for many than for one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from common.columns import Columns, RolloutKeys
from common.cuts import Cut
from common.errors import ContractError
from common.schema import rollout_columns

INSPECTED_HERE = 1 << 18
"""Bytes of a rollout that is looked at on the event loop, in less time than a thread takes to be woken."""


@dataclass(frozen=True, slots=True)
class Inspected:
    """A rollout that keeps every law: row `row` of `columns`."""

    keys: RolloutKeys
    columns: Columns
    row: int

    def cuts(self) -> list[Cut]:
        """As Columns.cuts."""
        return self.columns.cuts(self.row)


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
    return {number: Inspected(keys[row], columns, row) for row, (number, _) in enumerate(group)}


class Inspecting:
    """On one event loop."""

    def __init__(self) -> None:
        self._pending: list[tuple[bytes, asyncio.Future[Inspected | ContractError]]] = []

    async def inspect(self, body: bytes) -> Inspected:
        """A rollout that came. Raises ContractError where it breaks a law."""
        if len(body) > INSPECTED_HERE:
            [found] = await asyncio.to_thread(inspect_all, [body])
        else:
            loop = asyncio.get_running_loop()
            if not self._pending:
                loop.call_soon(self._run)
            answer = loop.create_future()
            self._pending.append((body, answer))
            found = await answer
        if isinstance(found, ContractError):
            raise found
        return found

    def _run(self) -> None:
        pending, self._pending = self._pending, []
        waiting = [answer for _, answer in pending]
        try:
            found = inspect_all([body for body, _ in pending])
        except Exception as error:  # a bug; nobody may wait for ever
            for answer in waiting:
                if not answer.done():
                    answer.set_exception(error)
            raise
        for answer, one in zip(waiting, found, strict=True):
            if not answer.done():
                answer.set_result(one)
