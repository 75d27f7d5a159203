"""What a janitor keeps in order: real tables and a real gate, with tasks brought to any point of their life."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any
from uuid import uuid4

import asyncpg

from libs.common.adapters.postgres.attempts import PostgresAttempts, PostgresMembership
from libs.common.adapters.postgres.connection import Connection
from libs.common.adapters.postgres.database import Database, open_database
from libs.common.adapters.postgres.dispatch_queue import PostgresDispatchQueue
from libs.common.adapters.postgres.models import PostgresModels
from libs.common.adapters.postgres.sweeps import PostgresOpenTasks, PostgresSweeps
from libs.common.adapters.postgres.tasks import PostgresTasks
from libs.common.adapters.redis.connection import RedisServer, open_redis
from libs.common.adapters.redis.permits import RedisPermits
from libs.common.adapters.redis.queue_gate import RedisQueueGate
from libs.common.adapters.redis.rebuild import open_rebuilder
from libs.common.domain.model import Model
from libs.common.domain.outcome import ResultFile
from libs.common.domain.output import StagedFile
from libs.common.domain.settle import Finish, Park, Retry
from libs.common.domain.task import TaskStatus
from libs.common.operations.wake import Wake
from libs.common.ports import PermitRequest, SlotRequest
from libs.common.ports_attempts import Attempt, Claim, Identity
from libs.common.ports_dispatch import Key, LaneAsk, LeasedRow
from libs.common.ports_sweeps import OverTask
from libs.common.ports_tasks import Created, NewTask
from services.janitor.endings import Endings
from services.janitor.returns import Returns
from tests.support.fakes_redis import FakeHints

_START = Key(-32768, 0)
_numbers = itertools.count(1)
SLOT_MS = 3_600_000


@dataclass
class FakeStagingListing:
    """A staging store in memory, as the janitor and the auditor see it."""

    entries_: list[Any] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)

    async def entries(self) -> Sequence[Any]:
        return list(self.entries_)

    async def remove(self, reference: str) -> None:
        self.removed.append(reference)
        self.entries_ = [entry for entry in self.entries_ if entry.reference != reference]


class Clock:
    """Monotonic seconds that a test moves by hand."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class House:
    """One janitor's view of the stores; several may share them."""

    database_url: str
    database: Database
    auditor: Any  #: a plain connection, for what tests look at and break
    redis: RedisServer
    gate: RedisQueueGate
    permits: RedisPermits
    hints: FakeHints = field(default_factory=FakeHints)
    clock: Clock = field(default_factory=Clock)
    staging: FakeStagingListing = field(default_factory=FakeStagingListing)

    def __post_init__(self) -> None:
        self.sweeps = PostgresSweeps(self.database)
        self.source = PostgresOpenTasks(self.database)
        self.queue = PostgresDispatchQueue(self.database)
        self.returns = Returns(self.gate, self.permits, self.sweeps.absent_slots)
        self.wake = Wake(self.hints)
        self.endings = Endings(self.sweeps, self.returns, self.wake)
        self.rng = Random(7)
        self._asking = asyncio.Lock()
        self._members: dict[int, PostgresMembership] = {}

    @property
    def hinted(self) -> list[str]:
        """The lines that dispatchers heard."""
        return [line for channel, line in self.hints.lines if channel == "sw:dispatch"]

    async def empty(self) -> None:
        """Forget everything that tests before this one wrote."""
        tables = await self.sql(
            "SELECT relname FROM pg_stat_user_tables WHERE relname NOT IN ('lane', 'model', 'alembic_version')"
        )
        await self.sql(
            "WITH " + ", ".join(f"{row['relname']}_ AS (DELETE FROM {row['relname']})" for row in tables)
            + " DELETE FROM lane"
        )  # fmt: skip
        await self.sql("DELETE FROM model")

    # what callers and dispatchers do

    async def model(self, **fields: Any) -> Model:
        tenant = fields.pop("tenant", None) or 1_000 + next(_numbers)
        named = {"name": f"m{next(_numbers)}", "base_url": "http://127.0.0.1:1", "max_concurrency": 4} | fields
        return await PostgresModels(self.database).create(tenant, "tester", named)

    async def tasks(self, model: Model, count: int = 1, *, slots: bool = True, **fields: Any) -> list[int]:
        """Tasks as the API accepts them; internal ids in order."""
        new = [NewTask(uuid4(), model.tenant_id, model.lane, b"{}", creator="c", **fields) for _ in range(count)]
        if slots:
            await self.gate.take_many(
                [SlotRequest(model.lane, str(task.public_id), 1_000_000, SLOT_MS) for task in new]
            )
        created = await PostgresTasks(self.database).create_many(new)
        return [one.id for one in created if isinstance(one, Created)]

    async def public(self, ids: Sequence[int]) -> list[str]:
        rows = await self.sql("SELECT id, public_id FROM task WHERE id = ANY ($1::bigint[])", list(ids))
        found = {row["id"]: str(row["public_id"]) for row in rows}
        return [found[id_] for id_ in ids]

    async def lease(self, model: Model, count: int = 500, *, acknowledged: bool = True) -> list[LeasedRow]:
        """Take ready rows as a dispatcher's turn does."""
        turn = await self.queue.lease_due([LaneAsk(model.lane, count, 0, _START, _START)], count, 1, [])
        if acknowledged:
            await self.queue.close_leases(list({row.lease for row in turn.rows}))
        return list(turn.rows)

    async def unlease(self, ids: Sequence[int]) -> None:
        """As if these had never been taken."""
        await self.sql(
            "UPDATE dispatch SET state = 0, lease = NULL, leased_at = NULL WHERE id = ANY ($1::bigint[])", list(ids)
        )

    # what executors do

    async def executor(self, *, reading: bool = True) -> int:
        """A new executor that has beaten once."""
        membership = PostgresMembership(self.database)
        number = await membership.join(Identity(f"e{next(_numbers)}", 100, ("local",), "test", ("plain-http", "test")))
        await membership.beat(0, 0, "reading" if reading else "crowded")
        self._members[number] = membership
        return number

    async def beat(self, executor: int) -> bool:
        """One heartbeat; False when it was presumed dead."""
        return await self._members[executor].beat(0, 0, "reading") is not None

    async def start(self, model: Model, executor: int, rows: Sequence[LeasedRow]) -> list[Attempt]:
        """Claim and start rows, permits included."""
        claims = [Claim(row.id, row.lease, uuid4(), 60) for row in rows]
        await self.permits.acquire_many(
            [PermitRequest(model.lane, str(claim.token), 1_000_000, SLOT_MS) for claim in claims]
        )
        return await self._attempts(executor).start_many(claims)

    async def running(self, model: Model, executor: int, count: int = 1) -> list[Attempt]:
        """New tasks in the middle of their calls."""
        ids = await self.tasks(model, count)
        rows = [row for row in await self.lease(model) if row.id in ids]
        return await self.start(model, executor, rows)

    async def hold(self, executor: int, rows: Sequence[LeasedRow]) -> None:
        await self._attempts(executor).hold_many([(row.id, row.lease) for row in rows])

    async def stage(self, attempt: Attempt, content: bytes = b"out") -> StagedFile:
        """The output of an attempt is staged and recorded."""
        return (await self.stage_several(attempt, content))[0]

    async def stage_several(self, attempt: Attempt, *contents: bytes) -> list[StagedFile]:
        """An output of several files is staged and recorded."""
        staged = [
            StagedFile(
                f"local:{attempt.public_id.hex}-{attempt.number}-{index:08x}",
                len(content),
                hashlib.sha256(content).digest(),
                "txt",
                "text/plain",
            )
            for index, content in enumerate(contents)
        ]
        await self._attempts(0).generated_many([(attempt, staged)])
        return staged

    async def park(self, attempt: Attempt) -> StagedFile:
        """The upload of an attempt waits."""
        staged = await self.stage(attempt)
        await self._attempts(0).park_many([(attempt, Park("upload_failed", "no", 3_600))])
        await self.permits.release_many([(attempt.lane, str(attempt.token))])
        return staged

    async def fail(self, attempt: Attempt, *, delay: float = 0, head: bool = True) -> None:
        """The attempt failed, a retry follows; slot and permit are back."""
        retry = Retry("http_503", "no", delay, head, timed_out=False)
        assert await self._attempts(0).retry_many([(attempt, retry)])
        await self._give_back(attempt)

    async def finish(self, attempt: Attempt, *files: ResultFile) -> bool:
        """The attempt succeeded; False when it is not ours any more."""
        if not files:
            files = (ResultFile("file:///r", "txt", 3, "00", "r"),)
        ended = await self._attempts(0).finish_many([(attempt, Finish(TaskStatus.SUCCESS, files=files))])
        await self._give_back(attempt)
        return bool(ended)

    async def bury(self, attempt: Attempt, code: str = "http_400") -> None:
        """The attempt failed for good."""
        await self._attempts(0).finish_many([(attempt, Finish(TaskStatus.FAILED, code, "no", dead=True))])
        await self._give_back(attempt)

    async def done(self, model: Model, count: int = 1) -> list[Attempt]:
        """Successful tasks whose events have left."""
        attempts = await self.running(model, await self.executor(), count)
        for attempt in attempts:
            await self.finish(attempt)
        await self.sql("DELETE FROM event")
        return attempts

    async def _give_back(self, attempt: Attempt) -> None:
        await self.gate.release_many([(attempt.lane, str(attempt.public_id))])
        await self.permits.release_many([(attempt.lane, str(attempt.token))])

    def _attempts(self, executor: int) -> PostgresAttempts:
        return PostgresAttempts(self.database, executor, "UTC")

    # what a test looks at

    async def sql(self, query: str, *arguments: Any) -> list[Any]:
        async with self._asking:
            return list(await self.auditor.fetch(query, *arguments))

    async def clean(self, *ids: int) -> list[int]:
        """Delete these tasks, looked at just now; those that went."""
        rows = await self.sql("SELECT id, version FROM task WHERE id = ANY ($1::bigint[])", list(ids))
        return await self.sweeps.delete_tasks([OverTask(*row) for row in rows])

    async def value(self, query: str, *arguments: Any) -> Any:
        """The one value that a query gives."""
        ((value,),) = await self.sql(query, *arguments)
        return value

    async def row(self, task: int) -> Any:
        """A task as callers see it, with its dispatch row's state."""
        (row,) = await self.sql("SELECT * FROM task_face WHERE id = $1", task)
        return row

    async def state(self, task: int) -> Any:
        """Its dispatch row, None when there is none."""
        rows = await self.sql("SELECT * FROM dispatch WHERE id = $1", task)
        return rows[0] if rows else None

    async def taken(self, model: Model) -> tuple[int, int]:
        """Gate slots and permits of the model's lane that are taken."""
        return (await self.gate.depths([model.lane]))[0], (await self.permits.in_use([model.lane]))[0]

    async def members(self, model: Model) -> set[str]:
        return set((await self.gate.members(model.lane, 0, 100_000))[1])

    async def make_overdue(self, ids: Sequence[int]) -> None:
        """Whatever these wait for is due."""
        await self.sql("UPDATE dispatch SET due_at = now() - interval '1 s' WHERE id = ANY ($1::bigint[])", list(ids))


@asynccontextmanager
async def open_house(database_url: str, redis_url: str) -> AsyncIterator[House]:
    """A janitor's view of one database and one Redis."""
    async with (
        open_database(database_url, hot_connections=4) as database,
        open_redis(redis_url, seconds=5.0) as redis,
        open_rebuilder(redis, PostgresOpenTasks(database), second_pass_seconds=3_600) as rebuilder,
    ):
        gate, permits = RedisQueueGate(redis, rebuilder), RedisPermits(redis, rebuilder)
        auditor = await asyncpg.connect(database_url, timeout=10, connection_class=Connection)
        try:
            yield House(database_url, database, auditor, redis, gate, permits)
        finally:
            await auditor.close(timeout=5)
