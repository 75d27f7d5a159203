"""Waits: tasks that nobody needs to wait for any longer.

Too long in the queue, past their own limits, asked to be canceled, or their model is deleted. Each ends by the same
statement, which acts only on rows that are still as they were looked at.
"""

from __future__ import annotations

from typing import Final

from libs.common.domain.task import Phase, TaskStatus
from libs.common.domain.times import DEADLINE_EXCEEDED, NOT_STARTED
from libs.common.ports_sweeps import Ending, ExpiredRow, OpenRow, Sweeps
from services.janitor.endings import Endings

_PAGE: Final = 1_000
#: Pages a round at most.
_PAGES: Final = 10


class TooLong:
    """Ends as timeout what waited longer than SLUICEWAY_MAX_WAIT_SECONDS.

    Walks the open tasks from the oldest on, some pages a round, and begins again when what follows is too young: ids
    grow with the time of creation. So a round costs the same with ten thousand old tasks and with a million, and those
    that may wait (drafts, paused lanes) do not keep the walk for long from those behind them.
    """

    def __init__(self, sweeps: Sweeps, endings: Endings, *, max_wait_seconds: int) -> None:
        self._sweeps = sweeps
        self._endings = endings
        self._limit = max_wait_seconds
        self._after = 0

    async def sweep(self) -> int:
        """One round; returns how many tasks were ended."""
        ended = 0
        for _ in range(_PAGES):
            page = await self._sweeps.waiting_page(self._after, _PAGE, self._limit)
            over = [row for row in page if self._is_over(row)]
            ended += await self._endings.write("waited-too-long", [self._ending(row) for row in over])
            at_end = len(page) < _PAGE or page[-1].age < self._limit
            self._after = 0 if at_end else page[-1].id
            if at_end:
                break
        return ended

    def _is_over(self, row: OpenRow) -> bool:
        # A draft waits for its own time, a parked upload has a limit of its own, and a paused lane is nobody's fault.
        waits = row.idle and not row.draft and not row.paused and row.phase == Phase.NONE
        return waits and row.waited > self._limit

    def _ending(self, row: OpenRow) -> Ending:
        message = f"waited longer than {self._limit} s in the queue"
        return Ending(row.id, row.version, TaskStatus.TIMEOUT, "wait_timeout", message, dead=True)


class ClosedLanes:
    """Fails what waits for a deleted model; what runs goes on."""

    def __init__(self, sweeps: Sweeps, endings: Endings) -> None:
        self._sweeps = sweeps
        self._endings = endings

    async def sweep(self) -> int:
        """One round; returns how many tasks were ended."""
        ended = 0
        for _ in range(_PAGES):
            rows = await self._sweeps.rows_of_closed_lanes(_PAGE)
            ended += await self._endings.write("model-deleted", [_deleted(*row) for row in rows])
            if len(rows) < _PAGE:
                break
        return ended


class Deadlines:
    """Ends as timeout what was not started by its start_by, and what still waits at its deadline.

    A small index leads to them: a round costs by what it ends, whatever waits.
    """

    def __init__(self, sweeps: Sweeps, endings: Endings) -> None:
        self._sweeps = sweeps
        self._endings = endings

    async def sweep(self) -> int:
        """One round; returns how many tasks were ended."""
        ended = 0
        for _ in range(_PAGES):
            rows = await self._sweeps.expired_rows(_PAGE)
            ended += await self._endings.write("deadlines", [_expired(row) for row in rows])
            if len(rows) < _PAGE:
                break
        return ended


class Cancels:
    """Ends tasks whose cancel was asked for while they ran, and that came back to the queue instead."""

    def __init__(self, sweeps: Sweeps, endings: Endings) -> None:
        self._sweeps = sweeps
        self._endings = endings

    async def sweep(self) -> int:
        """One round; returns how many tasks were ended."""
        rows = await self._sweeps.requested_waiting(_PAGE)
        return await self._endings.write("canceled", [_canceled(*row) for row in rows])


def _expired(row: ExpiredRow) -> Ending:
    code, message = (
        (NOT_STARTED, "it was not started by its start_by")
        if row.not_started
        else (DEADLINE_EXCEEDED, "its deadline passed while it waited")
    )
    return Ending(row.id, row.version, TaskStatus.TIMEOUT, code, message, dead=True)


def _deleted(id_: int, version: int) -> Ending:
    return Ending(id_, version, TaskStatus.FAILED, "model_deleted", "its model was deleted", dead=True)


def _canceled(id_: int, version: int) -> Ending:
    return Ending(id_, version, TaskStatus.CANCELED, "canceled", "canceled by the caller", dead=False)
