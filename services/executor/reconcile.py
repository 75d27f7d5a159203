"""Reconcile: what PostgreSQL says that this executor runs and holds, against what it does run and hold.

    named there, unknown here, four times --> disowned: nobody's, so that the janitor's rescue takes it
    runs here, not named there, twice     --> aborted: it takes a slot, and a place at its model that nobody counts

The two agree unless PostgreSQL goes on from an older state: after a failover that lost the last commits an attempt that
has ended is running again, by an executor that beats and knows nothing of it, and one runs here that never began.
Without this they would end by their timeouts.
"""

from __future__ import annotations

from typing import Final
from uuid import UUID

from libs.common.ports_attempts import Attempts, NamedRow
from libs.common.runtime.logging import get_logger
from services.executor.admission.waiting_room import WaitingRoom
from services.executor.runs import Runs, Stop

log = get_logger()

LOOK_SECONDS: Final = 20.0
#: Longer than the answer to a start may be on its way, be lost, and be read back. Looks that PostgreSQL did not answer
#: are none: after an outage there is time for that, too.
UNKNOWN_LOOKS: Final = 4


class Reconcile:
    """Remembers at how many looks rows that name us were unknown here, and what ran here unnamed at the last one."""

    def __init__(self, attempts: Attempts, runs: Runs, room: WaitingRoom) -> None:
        self._attempts = attempts
        self._runs = runs
        self._room = room
        self._unknown: dict[NamedRow, int] = {}
        self._unnamed: set[UUID] = set()

    async def look(self) -> int:
        """One look; returns how many rows were disowned. Raises Unavailable or OutcomeUnknown."""
        running = self._runs.tokens()
        named = await self._attempts.named()
        self._abort_lost(running - {row.token for row in named})
        here = self._runs.tokens()
        self._unknown = {row: self._unknown.get(row, 0) + 1 for row in named if not self._is_here(row, here)}
        strays = [row for row, looks in self._unknown.items() if looks >= UNKNOWN_LOOKS]
        if strays:
            log.warning("executor.disowns", rows=len(strays), running=sum(row.token is not None for row in strays))
            await self._attempts.disown(strays)
        return len(strays)

    def _abort_lost(self, unnamed: set[UUID]) -> None:
        """Once may be one whose end is just being written."""
        lost, self._unnamed = unnamed & self._unnamed, unnamed
        if lost:
            log.warning("executor.runs_lost", attempts=len(lost))
            self._runs.interrupt(lost, Stop.LOST)

    def _is_here(self, row: NamedRow, running: set[UUID]) -> bool:
        return self._room.lease_of(row.id) == row.lease if row.token is None else row.token in running
