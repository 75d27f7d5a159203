"""Expiry: tasks whose time is over go, with everything that is theirs; never a result object.

fetched successes   auto_clean_seconds after they were fetched
other successes     SLUICEWAY_UNFETCHED_DAYS after their end (0: never)
dead tasks          SLUICEWAY_DEAD_DAYS after their death, and then their staged files
canceled tasks      SLUICEWAY_DEAD_DAYS after their end: there is nothing to fetch, and nothing to replay
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from libs.common.ports_audit import StagedListing
from libs.common.ports_sweeps import DuePlace, OverTask, Sweeps
from libs.common.runtime.failpoints import failpoint
from services.janitor.report import did
from services.janitor.staged import remove_staged

_SLICE: Final = 500
#: A round goes no further; at the usual interval that is 2,500 tasks a second, more than a small machine can make.
_SLICES: Final = 50


class Expiry:
    """Deletes in slices, so that no statement holds many rows for long."""

    def __init__(self, sweeps: Sweeps, staging: StagedListing, *, unfetched_days: int, dead_days: int) -> None:
        self._sweeps = sweeps
        self._staging = staging
        self._unfetched_days = unfetched_days
        self._dead_days = dead_days
        self._after = 0
        self._expired: DuePlace | None = None

    async def fetched(self) -> int:
        """Some pages of what was fetched; returns how many tasks went. Those that stay, because their events died, may
        be very many, and the oldest: the next round goes on behind them."""
        gone = 0
        for _ in range(_SLICES):
            over, self._expired = await self._sweeps.expired_page(self._expired, _SLICE)
            gone += len(await self._delete(over))
            if self._expired is None:
                break
        return did("expired", gone)

    async def unfetched(self) -> int:
        """Some pages of the oldest tasks; returns how many went. The walk begins again when what follows is young. It
        passes over all that is kept, so it must outrun what is made there."""
        gone = 0
        for _ in range(_SLICES):
            over, following = await self._sweeps.unfetched_page(
                self._unfetched_days or None, self._dead_days, self._after, _SLICE
            )
            gone += len(await self._delete(over))
            self._after = following or 0
            if following is None:
                break
        return did("unfetched", gone)

    async def dead(self) -> int:
        """One round over dead tasks; returns how many went."""
        gone = 0
        for _ in range(_SLICES):
            over = await self._sweeps.dead_over(self._dead_days, _SLICE)
            deleted = set(await self._delete(over))
            gone += len(deleted)
            # Only after the row, and only of rows that went: a replay may have taken the task back meanwhile. What this
            # fails to remove, or dies before, is a stray file later (strays.py).
            staged = [reference for task in over if task.id in deleted for reference in task.staged]
            await remove_staged(self._staging, staged)
            if len(over) < _SLICE:
                break
        return did("dead", gone)

    async def _delete(self, over: Sequence[OverTask]) -> list[int]:
        if not over:
            return []
        await failpoint("janitor/before-delete")
        return await self._sweeps.delete_tasks(over)
