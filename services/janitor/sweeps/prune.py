"""Prune: rows that have served, in slices."""

from __future__ import annotations

from typing import Final

from libs.common.ports_sweeps import Sweeps
from libs.common.runtime.failpoints import failpoint
from services.janitor.report import did

_PAGE: Final = 1_000
#: A round goes no further; at the usual interval that is 3,000 rows of each kind a second.
_PAGES: Final = 30
#: How long it can be read what a user spent on a day.
USAGE_DAYS: Final = 400


class Prune:
    """Idempotency keys of yesterday, cancel requests of tasks that are over, executors of last month, accounts of last
    year, deliveries of webhooks, and what is dead without a task: events, records that could not be understood."""

    def __init__(self, sweeps: Sweeps, *, dead_days: int, webhook_log_days: int = 14) -> None:
        self._sweeps = sweeps
        self._dead_days = dead_days
        self._webhook_log_days = webhook_log_days

    async def sweep(self) -> int:
        """One round; returns how many keys, events, records, deliveries and accounts went."""
        gone = 0
        for _ in range(_PAGES):
            page = await self._slice()
            gone += sum(page)
            if max(page) < _PAGE:
                break
        return did("prune", gone)

    async def _slice(self) -> list[int]:
        """Some of each kind; how many went of each."""
        await failpoint("janitor/before-prune")
        gone = [await self._sweeps.prune(_PAGE)]
        await failpoint("janitor/before-prune")
        gone.append(await self._sweeps.prune_dead_events(self._dead_days, _PAGE))
        await failpoint("janitor/before-prune")
        gone.append(await self._sweeps.prune_dead_messages(self._dead_days, _PAGE))
        await failpoint("janitor/before-prune")
        gone.append(await self._sweeps.prune_deliveries(self._webhook_log_days, self._dead_days, _PAGE))
        await failpoint("janitor/before-prune")
        gone.append(await self._sweeps.prune_quota(USAGE_DAYS, _PAGE))
        return gone
