"""What operators change, and the processes' signs of life, in PostgreSQL."""

from __future__ import annotations

from typing import Final

from libs.common.adapters.postgres.database import Database
from libs.common.adapters.postgres.paging import BEHIND_ALL, page_of
from libs.common.ports_insight import ActionRecord, Broker, PauseScope, Role

#: So much of a cause is kept.
_CAUSE: Final = 300
_PAUSE: Final[dict[PauseScope, str]] = {
    "all": "pause_all",
    "tenant": "pause_tenant",
    "model": "pause_model",
    "webhook": "pause_webhook",
}
_RESUME: Final[dict[PauseScope, str]] = {
    "all": "resume_all",
    "tenant": "resume_tenant",
    "model": "resume_model",
    "webhook": "resume_webhook",
}


class PostgresControl:
    """Implements ports_insight.Control."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def pause(self, scope: PauseScope, subject: int | None, by: str, reason: str) -> bool | None:
        return await self._order(_PAUSE[scope], subject, by, reason)

    async def resume(self, scope: PauseScope, subject: int | None, by: str, reason: str) -> bool | None:
        return await self._order(_RESUME[scope], subject, by, reason)

    async def _order(self, statement: str, subject: int | None, by: str, reason: str) -> bool | None:
        rows = await self._database.fetch(statement, *([] if subject is None else [subject]), by, reason)
        return rows[0]["news"] if rows else None

    async def drain(self, name: str, on: bool, by: str, reason: str) -> list[bool]:
        return [row["news"] for row in await self._database.fetch("drain_executors", name, on, by, reason)]

    async def actions(self, before: int | None, limit: int) -> tuple[list[ActionRecord], int | None]:
        rows = await self._database.fetch("operator_actions", BEHIND_ALL if before is None else before, limit + 1)
        records = [
            ActionRecord(
                row["id"], row["at"], row["done_by"], row["action"], row["tenant_id"], row["subject"], row["reason"]
            )
            for row in rows
        ]
        return page_of(records, limit)


class PostgresPresence:
    """Implements ports_insight.Presence."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def beat(self, number: int | None, role: Role, name: str, version: str, broker: Broker) -> int:
        causes = [cause[:_CAUSE] for cause in broker.refused.values()]
        said = (broker.last_error[:500], list(broker.refused), causes, broker.events_refused[:_CAUSE])
        rows = await self._database.fetch("beat_process", number, role, name, version, broker.reachable, *said)
        return int(rows[0]["id"])

    async def leave(self, number: int) -> None:
        await self._database.fetch("end_process", number)
