"""Limits, accounts and weights in PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from libs.common.adapters.postgres.database import Database
from libs.common.adapters.postgres.insight import counted
from libs.common.ports_quota import Spent, TenantRecord, TenantUse, UserLimit

#: As many of a tenant's models are counted; the statement counts one more.
_MODELS_LIMIT: Final = 100


class PostgresQuotaBook:
    """Implements ports_quota.QuotaBook; days are those of `time_zone`."""

    def __init__(self, database: Database, time_zone: str) -> None:
        self._database = database
        self._time_zone = time_zone

    async def today(self, tenant_id: int, user: str) -> Spent:
        (row,) = await self._database.query("read_quota", tenant_id=tenant_id, user_name=user, zone=self._time_zone)
        return Spent(row.day, row.used, row.points_per_day, row.own)

    async def limits(self, tenant_id: int, after: str | None, limit: int) -> Sequence[UserLimit]:
        rows = await self._database.query(
            "list_quota_limits", tenant_id=tenant_id, after=after, limit=limit, zone=self._time_zone
        )
        return [UserLimit(row.user_name, row.points_per_day, row.updated_at, row.used) for row in rows]

    async def set_limit(self, tenant_id: int, user: str, points_per_day: int) -> None:
        await self._database.query(
            "set_quota_limit", tenant_id=tenant_id, user_name=user, points_per_day=points_per_day
        )

    async def clear_limit(self, tenant_id: int, user: str) -> bool:
        return bool(await self._database.query("clear_quota_limit", tenant_id=tenant_id, user_name=user))


class PostgresTenants:
    """Implements ports_quota.Tenants; days are those of `time_zone`."""

    def __init__(self, database: Database, time_zone: str) -> None:
        self._database = database
        self._time_zone = time_zone

    async def page(self, after: int | None, limit: int) -> list[TenantUse]:
        rows = await self._database.query("list_tenants", after=after, limit=limit, zone=self._time_zone)
        return [TenantUse(_tenant(row), counted(row.models, _MODELS_LIMIT), row.calls) for row in rows]

    async def find(self, tenant_id: int) -> TenantRecord | None:
        rows = await self._database.query("find_tenant", tenant_id=tenant_id)
        return _tenant(rows[0]) if rows else None

    async def weigh(self, tenant_id: int, weight: int) -> TenantRecord:
        return _tenant((await self._database.query("weigh_tenant", tenant_id=tenant_id, weight=weight))[0])


def _tenant(row: Any) -> TenantRecord:
    return TenantRecord(row.tenant_id, row.weight, row.paused, row.created_at)
