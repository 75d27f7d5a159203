"""Tasks in PostgreSQL, from the API's side."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, Final
from uuid import UUID

import asyncpg

from libs.common.adapters.postgres.database import Database, HotTransaction
from libs.common.adapters.postgres.paging import BEHIND_ALL, page_of
from libs.common.domain.errors import DatabaseUnavailable, OutcomeUnknown, RowsLocked
from libs.common.domain.task import DispatchState, TaskStatus
from libs.common.ports_tasks import (
    CanceledTask,
    Created,
    Creation,
    LaneClosed,
    NewTask,
    OverQuota,
    Repeated,
    TaskFilter,
    TaskView,
)

#: A filtered list looks at this many rows a page.
EXAMINE_LIMIT: Final = 10_000
#: Of a task's attempts, and of its history, so many are told.
STORY_LIMIT: Final = 1_000
_NO_DAYS: Final[Mapping[UUID, date]] = {}
#: How long an answer that was lost is looked for before the caller is told that the outcome is not known.
_READ_BACK_PAUSES: Final = (0.05, 0.2, 0.5, 1.0)


class PostgresTasks:
    """Implements ports_tasks.Tasks."""

    def __init__(self, database: Database, time_zone: str = "UTC") -> None:
        self._database = database
        self._time_zone = time_zone

    async def create_many(self, tasks: Sequence[NewTask]) -> list[Creation]:
        refused: dict[UUID, Creation] = {}
        try:
            if any(task.key or task.points for task in tasks):
                return await self._create_in_steps(tasks, refused)
            rows = await self._database.fetch("create_many", *_columns(tasks))
        except OutcomeUnknown:
            return await self._read_back(tasks, refused)
        return _creations(tasks, rows, {})

    async def locked(self, tasks: Sequence[NewTask]) -> list[bool]:
        priced = [task for task in tasks if task.points]
        rows = await self._database.fetch(
            "locked_accounts", [task.tenant_id for task in priced], [task.creator for task in priced], self._time_zone
        )
        locked = {(row["tenant_id"], row["user_name"]) for row in rows}
        return [bool(task.points) and (task.tenant_id, task.creator) in locked for task in tasks]

    async def _create_in_steps(self, tasks: Sequence[NewTask], refused: dict[UUID, Creation]) -> list[Creation]:
        """Keys first, so that a repeated request costs nothing; then points; then the tasks. Notes who is `refused`."""
        rows: list[asyncpg.Record] = []
        repeated: dict[UUID, Creation] = {}
        async with self._database.transaction() as transaction:
            left = tasks
            while left:
                keyed = [task for task in left if task.key]
                claimed = await _claimed(transaction, keyed)
                fresh = [task for task in left if not task.key or task.public_id in claimed]
                written = await self._write(transaction, fresh, refused)
                rows += written
                unwritten = claimed - {row["public_id"] for row in written}
                if unwritten:
                    await transaction.fetch(
                        "drop_keys", *_keys([task for task in keyed if task.public_id in unwritten])
                    )
                losers = [task for task in keyed if task.public_id not in claimed]
                repeated |= await _owners(transaction, losers)
                # Whoever was faster with the same key was refused: the key is free again.
                left = [task for task in losers if task.public_id not in repeated]
        return _creations(tasks, rows, refused | repeated)

    async def _write(
        self, transaction: HotTransaction, tasks: Sequence[NewTask], refused: dict[UUID, Creation]
    ) -> list[asyncpg.Record]:
        """Write those that their creators can pay; the points of what is not written after all go back."""
        days = await self._reserve(transaction, [task for task in tasks if task.points], refused)
        wanted = [task for task in tasks if task.public_id not in refused]
        rows = await transaction.fetch("create_many", *_columns(wanted, days)) if wanted else []
        written = {row["public_id"] for row in rows}
        unpaid = [task for task in wanted if task.points and task.public_id not in written]
        if unpaid:
            await transaction.fetch("give_back_points", *_accounts(unpaid, days))
        return rows

    async def _reserve(
        self, transaction: HotTransaction, priced: Sequence[NewTask], refused: dict[UUID, Creation]
    ) -> dict[UUID, date]:
        """Reserve the points of each that its creator can pay; on which day, by task."""
        if not priced:
            return {}
        rows = await transaction.fetch(
            "reserve_points",
            [task.tenant_id for task in priced],
            [task.creator for task in priced],
            [task.points for task in priced],
            self._time_zone,
        )
        days = {}
        for row in rows:
            task = priced[row["place"] - 1]
            if row["fits"]:
                days[task.public_id] = row["day"]
            else:
                refused[task.public_id] = OverQuota(row["points_per_day"], row["used"])
        return days

    async def _read_back(self, tasks: Sequence[NewTask], refused: dict[UUID, Creation]) -> list[Creation]:
        """The commit's answer was lost: what stands in the tables is what happened, all rows or none.

        The server may still be committing when it is first looked, so only the last look can say "nothing".
        """
        looked = False
        for pause in _READ_BACK_PAUSES:
            await asyncio.sleep(pause)
            try:
                rows = await self._database.fetch(
                    "written_tasks", [task.tenant_id for task in tasks], [task.public_id for task in tasks]
                )
                keyed = [task for task in tasks if task.key]
                owners = await _owners(self._database, keyed)
            except (DatabaseUnavailable, OutcomeUnknown):
                continue
            looked = True
            # Keys of earlier tasks alone prove nothing about the others: only a row of ours says that we committed.
            if rows or len(owners) == len(tasks):
                return _creations(tasks, rows, refused | owners)
        if looked:
            raise DatabaseUnavailable("the connection broke before the tasks were written")
        raise OutcomeUnknown("PostgreSQL is away since the commit: repeat the request with its Idempotency-Key")

    async def earlier_many(self, tasks: Sequence[NewTask]) -> list[Repeated | None]:
        owners = _repeated(tasks, await self._database.read("read_keys", *_keys(tasks)))
        return [owners.get(task.public_id) for task in tasks]

    async def final_among(self, tasks: Sequence[tuple[int, UUID]]) -> set[UUID]:
        rows = await self._database.fetch(
            "still_open", [tenant_id for tenant_id, _ in tasks], [public_id for _, public_id in tasks]
        )
        return {public_id for _, public_id in tasks} - {row["public_id"] for row in rows}

    async def find_many(self, tenant_id: int, public_ids: Sequence[UUID]) -> list[TaskView]:
        rows = await self._database.query("find_tasks", tenant_id=tenant_id, public_ids=list(public_ids))
        return [_view(row) for row in rows]

    async def list_page(
        self, tenant_id: int, wanted: TaskFilter, before: int | None, limit: int
    ) -> tuple[list[TaskView], int | None]:
        if not await name_was_used(self._database, tenant_id, wanted.model_name):
            return [], None
        start = BEHIND_ALL if before is None else before
        narrowed = wanted != TaskFilter()
        examine = EXAMINE_LIMIT if narrowed else limit + 1
        rows = await self._database.query(
            "list_tasks",
            tenant_id=tenant_id,
            before=start,
            examine=examine,
            model_name=wanted.model_name,
            statuses=None if wanted.statuses is None else [int(status) for status in wanted.statuses],
            biz_name=wanted.biz_name,
            limit=limit + 1,
        )
        views, following = page_of([_view(row) for row in rows], limit)
        if following is not None or not narrowed:
            return views, following
        seen = await self._database.query("examined_until", tenant_id=tenant_id, before=start, examine=examine)
        return views, seen[0].id if seen else None

    async def mark_fetched(self, tenant_id: int, public_ids: Sequence[UUID]) -> set[UUID]:
        asked: dict[str, Any] = {"tenant_id": tenant_id, "public_ids": list(public_ids)}
        try:
            rows = await self._database.query("mark_fetched", **asked)
        except RowsLocked:  # who reads many must not be refused for one of them
            asked["public_ids"] = [row.public_id for row in await self._database.query("free_tasks", **asked)]
            rows = await self._database.query("mark_fetched", **asked)
        return {row.public_id for row in rows}

    async def locked_among(self, ids: Sequence[int]) -> set[int]:
        if not ids:
            return set()
        rows = await self._database.fetch("locked_rows", list(ids))
        rows += await self._database.fetch("locked_payers", list(ids))
        return {row["id"] for row in rows}

    async def cancel_waiting(self, tenant_id: int, public_ids: Sequence[UUID]) -> list[CanceledTask]:
        rows = await self._database.query("cancel_waiting", tenant_id=tenant_id, public_ids=list(public_ids))
        return [CanceledTask(row.public_id, row.lane, row.state != DispatchState.RETRY) for row in rows]

    async def request_cancel(self, tenant_id: int, public_ids: Sequence[UUID]) -> int:
        return len(await self._database.query("request_cancel", tenant_id=tenant_id, public_ids=list(public_ids)))

    async def payload_head(self, tenant_id: int, public_id: UUID, most: int) -> tuple[bytes, int] | None:
        rows = await self._database.query("payload_head", tenant_id=tenant_id, public_id=public_id, most=most)
        return (bytes(rows[0].head), int(rows[0].size)) if rows else None

    async def list_attempts(self, tenant_id: int, public_id: UUID) -> list[dict[str, Any]]:
        rows = await self._database.query("list_attempts", tenant_id=tenant_id, public_id=public_id, limit=STORY_LIMIT)
        return [dict(row._mapping) for row in rows]

    async def list_history(self, tenant_id: int, public_id: UUID) -> list[dict[str, Any]]:
        rows = await self._database.query("list_history", tenant_id=tenant_id, public_id=public_id, limit=STORY_LIMIT)
        return [dict(row._mapping) for row in rows]


async def name_was_used(database: Database, tenant_id: int | None, name: str | None) -> bool:
    """Whether a list that is narrowed to this model (None: to none) can have anything, of a tenant or of all."""
    if name is None:
        return True
    (row,) = await database.query("name_was_used", tenant_id=tenant_id, name=name)
    return bool(row.used)


def _columns(tasks: Sequence[NewTask], days: Mapping[UUID, date] = _NO_DAYS) -> tuple[list[Any], ...]:
    return (
        [task.public_id for task in tasks],
        [task.lane for task in tasks],
        [task.creator for task in tasks],
        [task.biz_name for task in tasks],
        [task.input_ref for task in tasks],
        [task.payload for task in tasks],
        [task.priority for task in tasks],
        [task.not_before for task in tasks],
        [task.start_by for task in tasks],
        [task.deadline for task in tasks],
        [task.output_count for task in tasks],
        [task.trace for task in tasks],
        [task.secret for task in tasks],
        [task.points for task in tasks],
        [days.get(task.public_id) for task in tasks],
        [task.webhook_url for task in tasks],
        [task.webhook_events for task in tasks],
        [task.tenant_id for task in tasks],
    )


def _accounts(tasks: Sequence[NewTask], days: Mapping[UUID, date]) -> tuple[list[Any], ...]:
    return (
        [task.tenant_id for task in tasks],
        [task.creator for task in tasks],
        [days[task.public_id] for task in tasks],
        [task.points for task in tasks],
    )


def _keys(tasks: Sequence[NewTask], *, bodies: bool = False) -> tuple[list[Any], ...]:
    keys = [(task, task.key) for task in tasks if task.key is not None]
    columns: tuple[list[Any], ...] = (
        [task.tenant_id for task, _ in keys],
        [key.route for _, key in keys],
        [key.key_hash for _, key in keys],
    )
    return (*columns, [key.body_hash for _, key in keys], [task.public_id for task, _ in keys]) if bodies else columns


async def _claimed(transaction: HotTransaction, keyed: Sequence[NewTask]) -> set[UUID]:
    if not keyed:
        return set()
    return {row["public_id"] for row in await transaction.fetch("claim_keys", *_keys(keyed, bodies=True))}


async def _owners(source: Database | HotTransaction, losers: Sequence[NewTask]) -> dict[UUID, Repeated]:
    if not losers:
        return {}
    return _repeated(losers, await source.fetch("read_keys", *_keys(losers)))


def _repeated(tasks: Sequence[NewTask], rows: Sequence[asyncpg.Record]) -> dict[UUID, Repeated]:
    """The owners of the tasks' keys, by the task that came too late."""
    found = {row["ordinal"] - 1: row for row in rows}
    return {
        task.public_id: Repeated(found[index]["public_id"], found[index]["body_hash"] == task.key.body_hash)
        for index, task in enumerate(tasks)
        if index in found and task.key
    }


def _creations(
    tasks: Sequence[NewTask], rows: Sequence[asyncpg.Record], otherwise: Mapping[UUID, Creation]
) -> list[Creation]:
    """Answers in order: what was written, what is known of the others, else their lane was closed or is not theirs."""
    written = {row["public_id"]: row for row in rows}
    answers: list[Creation] = []
    for task in tasks:
        row = written.get(task.public_id)
        if row is not None:
            answers.append(Created(row["id"], row["draft"]))
        else:
            answers.append(otherwise.get(task.public_id, LaneClosed()))
    return answers


def _view(row: Any) -> TaskView:
    return TaskView(
        id=row.id,
        public_id=row.public_id,
        model_name=row.model_name,
        status=TaskStatus(row.status),
        attempt=row.attempt,
        version=row.version,
        creator=row.creator,
        biz_name=row.biz_name,
        input_ref=row.input_ref,
        priority=row.priority,
        output_count=row.output_count,
        points=row.points,
        created_at=row.created_at,
        open=row.open,
        due_at=row.due_at,
        not_before=row.not_before,
        start_by=row.start_by,
        deadline=row.deadline,
        entered_at=row.entered_at,
        leased_at=row.leased_at,
        started_at=row.started_at,
        generated_at=row.generated_at,
        migrating_at=row.migrating_at,
        finished_at=row.finished_at,
        fetched_at=row.fetched_at,
        expire_at=row.expire_at,
        executor_name=row.executor_name,
        heartbeat_at=row.heartbeat_at,
        oss_file=row.oss_file,
        file_type=row.file_type,
        file_size=row.file_size,
        files=row.files or [],
        error_code=row.error_code or None,
        error_message=row.error_message or None,
        provider_job_id=row.provider_job_id,
        unit_progress=row.unit_progress if row.open else None,
    )
