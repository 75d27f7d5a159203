"""PostgreSQL as an auditor reads it: over one connection of its own, planned for the whole."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg
from pydantic import TypeAdapter, ValidationError

from libs.common.adapters.postgres.connection import Connection
from libs.common.adapters.postgres.failures import UNREACHABLE
from libs.common.adapters.postgres.statements import Statements, load_statements
from libs.common.adapters.postgres.way_in import WayIn
from libs.common.domain.errors import DatabaseUnavailable
from libs.common.domain.task import TaskStatus
from libs.common.ports_audit import AuditedLane, Finding, OpenMember, Promise, PromisedFile, Slice, TaskEnd

_CONNECT_SECONDS: Final = 5.0
#: A check over a big database takes a while; nobody waits for it but the operator.
_STATEMENT_SECONDS: Final = 300.0
_SLICE_TASKS: Final = 20_000
_FILES: Final = TypeAdapter(tuple[PromisedFile, ...])


class PostgresAudit:
    """Implements ports_audit.AuditedTasks. Raises DatabaseUnavailable."""

    def __init__(self, connection: Any, statements: Statements, *, slice_tasks: int = _SLICE_TASKS) -> None:
        self._connection = connection
        self._statements = statements
        self._slice_tasks = slice_tasks

    async def slices(self) -> AsyncIterator[Slice]:
        last = (await self._fetch("audit_last_id"))[0]["id"]
        after = 0
        while after < last:
            rows = await self._fetch("audit_next_id", after, self._slice_tasks)
            upto = rows[0]["id"] if rows else last
            yield Slice(after, upto)
            after = upto

    async def counts(self, part: Slice) -> dict[str, int]:
        return dict((await self._fetch("audit_counts", *part))[0])

    async def check_slice(self, name: str, part: Slice, *limits: float) -> list[Finding]:
        return [Finding(**row) for row in await self._fetch(name, *part, *limits)]

    async def check(self, name: str, *limits: float) -> list[Finding]:
        return [Finding(**row) for row in await self._fetch(name, *limits)]

    async def ends(self, part: Slice, since: datetime) -> list[TaskEnd]:
        return [_end(row) for row in await self._fetch("audit_finals", *part, since)]

    async def tasks_now(self, wanted: Sequence[tuple[int, UUID]]) -> list[TaskEnd]:
        tenants, tasks = [tenant for tenant, _ in wanted], [task for _, task in wanted]
        return [_end(row) for row in await self._fetch("audit_tasks_now", tenants, tasks)]

    async def cleaned(self, owners: Sequence[tuple[int, str]]) -> dict[tuple[int, str], int]:
        rows = await self._fetch("audit_cleaned", [tenant for tenant, _ in owners], [creator for _, creator in owners])
        return {(row["tenant_id"], row["creator"]): row["tasks"] for row in rows}

    async def shortest_life_seconds(self) -> int:
        return int((await self._fetch("audit_shortest_life"))[0]["seconds"])

    async def promises(self, part: Slice) -> list[Promise]:
        return [_promise(row) for row in await self._fetch("audit_results", *part)]

    async def lanes(self, after: int, limit: int) -> list[AuditedLane]:
        return [AuditedLane(**row) for row in await self._fetch("audit_lanes", after, limit)]

    async def open_members(self, part: Slice) -> list[OpenMember]:
        return [_member(row) for row in await self._fetch("audit_open_members", *part)]

    async def absent_slots(self, lane: int, members: Sequence[UUID]) -> list[UUID]:
        return [row["member"] for row in await self._fetch("absent_slots", list(members), lane)]

    async def absent_permits(self, lane: int, tokens: Sequence[UUID]) -> list[UUID]:
        return [row["token"] for row in await self._fetch("absent_permits", lane, list(tokens))]

    async def models(self) -> list[tuple[int, str]]:
        return [(row["id"], row["name"]) for row in await self._fetch("audit_model_topics")]

    async def claimed(self, messages: Sequence[tuple[int, int]]) -> set[tuple[int, int]]:
        tasks, leases = [task for task, _ in messages], [lease for _, lease in messages]
        return {(row["task"], row["lease"]) for row in await self._fetch("audit_claimed", tasks, leases)}

    async def buried(self, topic: str, partition: int, offsets: Sequence[int]) -> set[int]:
        return {row["offset"] for row in await self._fetch("audit_buried", topic, partition, list(offsets))}

    async def restore_row(self, task: int) -> tuple[int, str, int] | None:
        rows = await self._fetch("fix_open_without_row", task)
        return (rows[0]["lane"], rows[0]["member"], rows[0]["slot_ttl_ms"]) if rows else None

    async def drop_row(self, task: int) -> tuple[int, UUID] | None:
        rows = await self._fetch("fix_row_without_open", task)
        return (rows[0]["lane"], rows[0]["public_id"]) if rows else None

    async def mend_lane_pause(self, lane: int) -> bool:
        return bool(await self._fetch("fix_lane_pause", lane))

    async def mend_tenant_pause(self, tenant: int) -> bool:
        return bool(await self._fetch("fix_tenant_pause", tenant))

    async def drop_staged_output(self, task: int) -> bool:
        return bool(await self._fetch("drop_staged_output", task))

    async def _fetch(self, name: str, *arguments: Any) -> list[asyncpg.Record]:
        try:
            rows: list[asyncpg.Record] = await self._connection.fetch(self._statements[name], *arguments)
        except UNREACHABLE as error:
            raise DatabaseUnavailable(f"{name}: {type(error).__name__} {error}".rstrip()) from error
        return rows


@asynccontextmanager
async def open_audit_database(database_url: str) -> AsyncIterator[PostgresAudit]:
    """A connection for one audit. Raises DatabaseUnavailable."""
    try:
        connection = await WayIn().connect(
            database_url, timeout=_CONNECT_SECONDS, command_timeout=_STATEMENT_SECONDS, connection_class=Connection
        )
    except UNREACHABLE as error:
        raise DatabaseUnavailable(f"no connection to PostgreSQL: {type(error).__name__} {error}".rstrip()) from error
    try:
        yield PostgresAudit(connection, load_statements())
    finally:
        await connection.close(timeout=_CONNECT_SECONDS)


def _end(row: asyncpg.Record) -> TaskEnd:
    values = dict(row)
    return TaskEnd(**values | {"status": TaskStatus(values["status"])})


def _promise(row: asyncpg.Record) -> Promise:
    try:
        promised = _FILES.validate_json(row["files"] or "[]", strict=True)
    except ValidationError:
        promised = ()  # somebody else wrote them
    return Promise(row["public_id"], row["oss_file"], row["file_size"], row["staged_size"], promised)


def _member(row: asyncpg.Record) -> OpenMember:
    must_hold = row["permit_ttl_ms"] is not None
    return OpenMember(
        row["lane"],
        str(row["public_id"]),
        row["slot_ttl_ms"],
        str(row["token"]) if must_hold else None,
        row["permit_ttl_ms"],
    )
