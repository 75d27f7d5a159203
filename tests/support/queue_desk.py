"""A lane or several in a real database, and the repositories that move their tasks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from libs.common.adapters.postgres.attempts import PostgresAttempts
from libs.common.adapters.postgres.connection import Connection
from libs.common.adapters.postgres.database import Database, open_database
from libs.common.adapters.postgres.dispatch_queue import PostgresDispatchQueue
from libs.common.adapters.postgres.models import PostgresModels
from libs.common.adapters.postgres.sweeps import PostgresSweeps
from libs.common.adapters.postgres.tasks import PostgresTasks
from libs.common.domain.model import Model
from libs.common.ports_attempts import Attempt, Claim
from libs.common.ports_dispatch import Key, LaneAsk, LeasedRow
from libs.common.ports_sweeps import OverTask
from libs.common.ports_tasks import Created, NewTask

FIRST = Key(-(2**15), -(2**63))
TENANT = 42


@dataclass
class QueueDesk:
    """One dispatcher, one executor and one janitor as far as their statements go."""

    database: Database
    url: str
    lanes: dict[int, Model] = field(default_factory=dict)
    leases: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.queue = PostgresDispatchQueue(self.database)
        self.tasks = PostgresTasks(self.database)
        self.models = PostgresModels(self.database)
        self.sweeps = PostgresSweeps(self.database)
        self.executor = PostgresAttempts(self.database, 7, "UTC")

    async def lane(self, *, concurrency: int = 2, tenant: int = TENANT, **fields: Any) -> int:
        """A new model; its lane. Its window is twice a concurrency of up to 64."""
        values = {"name": f"m{len(self.lanes)}", "base_url": "http://model", "max_concurrency": concurrency, **fields}
        model = await self.models.create(tenant, "tester", values)
        self.lanes[model.lane] = model
        return model.lane

    async def create(self, lane: int, count: int = 1, **fields: Any) -> list[int]:
        """New tasks, oldest first."""
        tasks = [NewTask(uuid4(), self.lanes[lane].tenant_id, lane, b"{}", **fields) for _ in range(count)]
        made = await self.tasks.create_many(tasks)
        return sorted(task.id for task in made if isinstance(task, Created))

    async def lease(
        self, lanes: int | Sequence[int], batch: int = 500, *, done: Sequence[int] = (), quantum: int = 500
    ) -> list[int]:
        """The ids that one turn takes, in the order of their lanes' queues."""
        asked = [lanes] if isinstance(lanes, int) else lanes
        asks = [LaneAsk(lane, quantum, 0, FIRST, FIRST) for lane in asked]
        turn = await self.queue.lease_due(asks, batch, 1, done)
        self.leases |= {row.id: row.lease for row in turn.rows}
        return [row.id for row in sorted(turn.rows, key=_place)]

    async def start(self, ids: Sequence[int], *, leases: Sequence[int] | None = None) -> list[Attempt]:
        """Started by the executor, with the lease numbers of their last turn or others."""
        numbers = leases if leases is not None else [self.leases[id_] for id_ in ids]
        claims = [Claim(id_, lease, uuid4(), 60) for id_, lease in zip(ids, numbers, strict=True)]
        started = {attempt.id: attempt for attempt in await self.executor.start_many(claims)}
        return [started[id_] for id_ in ids if id_ in started]

    async def sql(self, statement: str, *arguments: Any) -> list[asyncpg.Record]:
        """Rows of any statement, beside the product."""
        connection = await asyncpg.connect(self.url, connection_class=Connection)
        try:
            rows: list[asyncpg.Record] = await connection.fetch(statement, *arguments)
            return rows
        finally:
            await connection.close()

    async def clean(self, *ids: int) -> list[int]:
        """Delete these tasks, looked at just now; those that went."""
        rows = await self.sql("SELECT id, version FROM task WHERE id = ANY ($1::bigint[])", list(ids))
        return await self.sweeps.delete_tasks([OverTask(*row) for row in rows])

    async def row(self, id_: int) -> asyncpg.Record | None:
        """The task's dispatch row."""
        rows = await self.sql("SELECT * FROM dispatch WHERE id = $1", id_)
        return rows[0] if rows else None

    async def public_id(self, id_: int) -> UUID:
        value: UUID = (await self.sql("SELECT public_id FROM task WHERE id = $1", id_))[0]["public_id"]
        return value

    async def history(self, id_: int) -> list[str]:
        rows = await self.sql("SELECT kind FROM history WHERE task_id = $1 ORDER BY id", id_)
        return [row["kind"] for row in rows]


def _place(row: LeasedRow) -> tuple[int, int, Key]:
    return row.lane, row.klass, row.key


@asynccontextmanager
async def open_desk(url: str, *, connections: int = 8) -> AsyncIterator[QueueDesk]:
    async with open_database(url, hot_connections=connections) as database:
        yield QueueDesk(database, url)
