"""Minutes and hours for plots, in PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from libs.common.adapters.postgres.database import Database
from libs.common.adapters.postgres.insight import backlogs
from libs.common.ports_insight import Backlog

#: A transaction is told of among the open ones this long after it began at the latest.
MARGIN_SECONDS: Final = 5.0


class PostgresSeries:
    """Implements ports_insight.SeriesStore."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def backlogs(self) -> list[Backlog]:
        return await backlogs(self._database)

    async def begin(self) -> None:
        await self._database.fetch("begin_series")

    async def settled(self, margin_seconds: float = MARGIN_SECONDS) -> datetime | None:
        rows = await self._database.fetch("series_settled", margin_seconds)
        return rows[0]["settled"] if rows else None

    async def fold_minutes(self, settled: datetime, most: int, backlog: Sequence[tuple[Backlog, int | None]]) -> bool:
        lanes = [lane.lane for lane, _ in backlog]
        waiting = [number for _, number in backlog]
        oldest = [lane.oldest_seconds for lane, _ in backlog]
        return bool(await self._database.fetch("fold_series", settled, most, lanes, waiting, oldest))

    async def fold_hour(self) -> bool:
        return bool(await self._database.fetch("fold_hours"))

    async def prune(self, hours: int, days: int, limit: int) -> int:
        return len(await self._database.fetch("prune_series", hours, days, limit))
