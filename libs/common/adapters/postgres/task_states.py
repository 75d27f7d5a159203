"""Where tasks are now, read for those who listen."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg

from libs.common.adapters.postgres.database import Database
from libs.common.adapters.postgres.paging import BEHIND_ALL
from libs.common.domain.task import TaskStatus
from libs.common.ports_push import TaskState

#: The column that says since when a task has had its status.
_SINCE: Final = {
    TaskStatus.SUBMITTED: "entered_at",
    TaskStatus.QUEUED: "leased_at",
    TaskStatus.PROCESSING: "started_at",
    TaskStatus.GENERATED: "generated_at",
    TaskStatus.MIGRATING: "migrating_at",
}
#: The statuses that a provider's news bring about: there it is the newest of them that counts.
_TOLD: Final = (TaskStatus.QUEUED, TaskStatus.PROCESSING)


class PostgresTaskStates:
    """Implements ports_push.TaskStates."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def by_ids(self, tasks: Sequence[tuple[int, int]]) -> list[TaskState]:
        ordered = sorted(tasks, key=lambda task: task[1])
        rows = await self._database.fetch(
            "states_by_id", [tenant_id for tenant_id, _ in ordered], [id_ for _, id_ in ordered]
        )
        return [_state(row) for row in rows]

    async def find(self, tenant_id: int, public_id: UUID) -> TaskState | None:
        rows = await self._database.fetch("state_of_task", tenant_id, public_id)
        return _state(rows[0]) if rows else None

    async def newest(self, tenant_id: int, before: int | None, limit: int) -> list[TaskState]:
        rows = await self._database.fetch("newest_states", tenant_id, BEHIND_ALL if before is None else before, limit)
        return [_state(row) for row in rows]


def _state(row: asyncpg.Record) -> TaskState:
    status = TaskStatus(row["status"])
    return TaskState(
        id=row["id"],
        public_id=row["public_id"],
        tenant_id=row["tenant_id"],
        model_name=row["model_name"],
        status=status,
        version=row["version"],
        attempt=row["attempt"],
        open=row["open"],
        unit_progress=row["unit_progress"] if row["open"] else None,
        job_message=(row["job_message"] or "") if row["open"] else "",
        error_code=row["error_code"] or None,
        error_message=row["error_message"] or None,
        created_at=row["created_at"],
        at=_since(row, status),
        read_at=row["read_at"],
    )


def _since(row: Any, status: TaskStatus) -> datetime:
    since: datetime | None
    if status >= TaskStatus.SUCCESS:
        # What failed and waits for its retry is not finished: it waits since its failure.
        since = row["finished_at"] or row["entered_at"]
    else:
        since = row[_SINCE[status]] if status in _SINCE else row["created_at"]
    told: datetime | None = row["job_told_at"] if status in _TOLD else None
    return max((at for at in (since, told) if at is not None), default=row["created_at"])
