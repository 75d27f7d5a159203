"""What operators change, and the processes' signs of life, in PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping

from libs.common.adapters.postgres.database import Database
from libs.common.ports_insight import ActionRecord, Role

_NEWEST = 2**63 - 1
#: So much of a cause is kept.
_CAUSE = 300


class PostgresControl:
    """Implements ports_insight.Control."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def pause_all(self, by: str, reason: str) -> bool:
        return bool(await self._database.fetch("pause_all", by, reason))

    async def resume_all(self, by: str, reason: str) -> bool:
        return bool(await self._database.fetch("resume_all", by, reason))

    async def pause_tenant(self, tenant_id: int, by: str, reason: str) -> bool | None:
        return await self._of_tenant("pause_tenant", tenant_id, by, reason)

    async def resume_tenant(self, tenant_id: int, by: str, reason: str) -> bool | None:
        return await self._of_tenant("resume_tenant", tenant_id, by, reason)

    async def pause_lane(self, lane: int, by: str, reason: str) -> bool:
        return bool(await self._database.fetch("pause_model", lane, by, reason))

    async def resume_lane(self, lane: int, by: str, reason: str) -> bool:
        return bool(await self._database.fetch("resume_model", lane, by, reason))

    async def _of_tenant(self, statement: str, tenant_id: int, by: str, reason: str) -> bool | None:
        if await self._database.fetch(statement, tenant_id, by, reason):
            return True
        return False if await self._database.fetch("tenant_exists", tenant_id) else None

    async def drain(self, name: str, on: bool, by: str, reason: str) -> list[bool]:
        return [row["news"] for row in await self._database.fetch("drain_executors", name, on, by, reason)]

    async def pause_webhook(self, webhook_id: int, by: str, reason: str) -> bool | None:
        return await self._of_webhook("pause_webhook", webhook_id, by, reason)

    async def resume_webhook(self, webhook_id: int, by: str, reason: str) -> bool | None:
        return await self._of_webhook("resume_webhook", webhook_id, by, reason)

    async def _of_webhook(self, statement: str, webhook_id: int, by: str, reason: str) -> bool | None:
        rows = await self._database.fetch(statement, webhook_id, by, reason)
        return bool(rows[0]["news"]) if rows else None

    async def actions(self, before: int | None, limit: int) -> tuple[list[ActionRecord], int | None]:
        rows = await self._database.fetch("operator_actions", _NEWEST if before is None else before, limit + 1)
        records = [
            ActionRecord(
                row["id"], row["at"], row["done_by"], row["action"], row["tenant_id"], row["subject"], row["reason"]
            )
            for row in rows[:limit]
        ]
        return records, records[-1].id if len(rows) > limit else None


class PostgresPresence:
    """Implements ports_insight.Presence."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def beat(
        self,
        number: int | None,
        role: Role,
        name: str,
        version: str,
        broker_reachable: bool | None,
        last_error: str,
        refused: Mapping[int, str],
        events_refused: str,
    ) -> int:
        causes = [cause[:_CAUSE] for cause in refused.values()]
        said = (broker_reachable, last_error[:500], list(refused), causes, events_refused[:_CAUSE])
        rows = await self._database.fetch("beat_process", number, role, name, version, *said)
        return int(rows[0]["id"])

    async def leave(self, number: int) -> None:
        await self._database.fetch("end_process", number)
