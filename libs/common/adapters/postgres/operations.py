"""The operation log in PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import asyncpg

from libs.common.adapters.postgres.database import Database
from libs.common.adapters.postgres.paging import BEHIND_ALL, page_of
from libs.common.adapters.postgres.tasks import EXAMINE_LIMIT
from libs.common.ports_operations import Operation, OperationFilter, OperationView

#: Entries that are written later than this after the fact say so; the others get the time of the flush.
_PUNCTUAL_SECONDS: Final = 1.0
_AGE: Final = Operation._fields.index("age")
_COLUMNS: Final = (
    "tenant_id", "creator", "ip", "user_agent", "api_path", "http_method", "biz_name", "model_name", "task_id",
    "success", "replayed", "error_msg", "cost_ms", "request_payload", "response_payload",
)  # fmt: skip


class PostgresOperations:
    """Implements ports_operations.Operations."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add_many(self, operations: Sequence[Operation]) -> None:
        if all(operation.age < _PUNCTUAL_SECONDS for operation in operations):
            try:
                # COPY, because every create pays for it: 10 us a row, a multi-row INSERT 14 and with ON CONFLICT 20.
                await self._database.copy(
                    "op_log", _COLUMNS, [operation[:_AGE] + operation[_AGE + 1 :] for operation in operations]
                )
            except asyncpg.UniqueViolationError:
                pass  # the janitor was faster, or this is the second time: row by row, then
            else:
                return
        await self._database.fetch("add_operations_once", *zip(*operations, strict=True))

    async def list_page(
        self, tenant_id: int, wanted: OperationFilter, before: int | None, limit: int
    ) -> tuple[list[OperationView], int | None]:
        start = BEHIND_ALL if before is None else before
        asked = {"tenant_id": tenant_id, "before": start, "biz_name": wanted.biz_name, "limit": limit + 1}
        if wanted.task_id is not None:
            return _page(await self._database.query("list_operations_of_task", task_id=wanted.task_id, **asked), limit)
        examine = limit + 1 if wanted.biz_name is None else EXAMINE_LIMIT
        views, following = _page(await self._database.query("list_operations", examine=examine, **asked), limit)
        if following is not None or wanted.biz_name is None:
            return views, following
        seen = await self._database.query(
            "operations_examined_until", tenant_id=tenant_id, before=start, examine=examine
        )
        return views, seen[0].id if seen else None


def _page(rows: Sequence[Any], limit: int) -> tuple[list[OperationView], int | None]:
    return page_of([_view(row) for row in rows], limit)


def _view(row: Any) -> OperationView:
    return OperationView(
        id=row.id,
        at=row.created_at,
        creator=row.creator,
        ip=row.ip,
        user_agent=row.user_agent,
        path=row.api_path,
        method=row.http_method,
        biz_name=row.biz_name,
        model=row.model_name,
        task_id=row.task_id,
        type=row.op_type,
        success=row.success,
        replayed=row.replayed,
        error=row.error_msg,
        cost_ms=row.cost_ms,
        request=row.request_payload,
        response=row.response_payload,
    )
