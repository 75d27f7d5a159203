"""Rows of the old routes, from PostgreSQL."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from libs.common.adapters.postgres.database import Database
from libs.common.adapters.postgres.models import model_of
from libs.common.domain.task import DispatchState, TaskStatus
from libs.common.ports_legacy import ModelRow, StatRow, StatSearch, TaskRow, TaskSearch

#: Payloads that one page shows: a thousand large ones would not fit into an answer.
PAGE_PAYLOAD_BYTES: Final = 16 * 2**20


class PostgresLegacyRows:
    """Implements ports_legacy.LegacyRows."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def model(self, tenant_id: int, model_id: int) -> ModelRow | None:
        rows = await self._database.query("find_model_by_id", tenant_id=tenant_id, id=model_id)
        return _model(rows[0]) if rows else None

    async def models(self, tenant_id: int, name_part: str, offset: int, limit: int) -> tuple[list[ModelRow], int]:
        rows = await self._database.query(
            "legacy_models", tenant_id=tenant_id, name_part=name_part, offset=offset, limit=limit
        )
        return [_model(row) for row in rows if row.id is not None], rows[0].total

    async def task(self, tenant_id: int, public_id: UUID) -> TaskRow | None:
        rows = await self._database.query("legacy_task", tenant_id=tenant_id, public_id=public_id)
        return _task(rows[0]) if rows else None

    async def tasks(self, tenant_id: int, wanted: TaskSearch, offset: int, limit: int) -> tuple[list[TaskRow], int]:
        rows = await self._database.query(
            "legacy_tasks",
            tenant_id=tenant_id,
            model_name=wanted.model_name,
            task_id=wanted.task_id,
            statuses=None if wanted.statuses is None else [int(status) for status in wanted.statuses],
            fetched=wanted.fetched,
            payload_bytes=PAGE_PAYLOAD_BYTES,
            offset=offset,
            limit=limit,
        )
        return [_task(row) for row in rows if row.id is not None], rows[0].total

    async def statistics(self, wanted: StatSearch, offset: int, limit: int) -> tuple[list[StatRow], int]:
        rows = await self._database.query(
            "legacy_statistics",
            tenant_id=wanted.tenant_id,
            start_day=wanted.start_day,
            end_day=wanted.end_day,
            creator=wanted.creator,
            model_name=wanted.model_name,
            offset=offset,
            limit=limit,
        )
        return [_stat(row) for row in rows if row.day is not None], rows[0].total


def _model(row: Any) -> ModelRow:
    return ModelRow(model_of(row), row.creator, row.updater, row.created_at, row.updated_at)


def _task(row: Any) -> TaskRow:
    return TaskRow(
        id=row.id,
        tenant_id=row.tenant_id,
        public_id=row.public_id,
        model_name=row.model_name,
        status=TaskStatus(row.status),
        creator=row.creator,
        biz_name=row.biz_name,
        input_ref=row.input_ref,
        payload=row.payload,
        oss_file=row.oss_file,
        file_type=row.file_type,
        file_size=row.file_size,
        error_message=row.error_message,
        # The old gateway counted a retry when it went back into the queue; ours is counted when it is decided.
        retries=row.retries - (row.dispatch_state == DispatchState.RETRY),
        created_at=row.created_at,
        entered_at=row.entered_at,
        started_at=row.started_at or row.failed_from,
        finished_at=row.finished_at or row.failed_at,
        fetched_at=row.fetched_at,
        expire_at=row.expire_at,
    )


def _stat(row: Any) -> StatRow:
    return StatRow(
        row.day, row.tenant_id, row.creator, row.model_name, row.request_count, row.created_at, row.updated_at
    )
