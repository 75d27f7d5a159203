"""Whole lives of tasks at a steady pace, straight on the repositories: no REST, no broker, no model."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast
from uuid import uuid4

import asyncpg

from benchmarks.cpu import cpu_seconds
from libs.common.adapters.postgres.attempts import PostgresAttempts
from libs.common.adapters.postgres.database import Database, open_database
from libs.common.adapters.postgres.dispatch_queue import PostgresDispatchQueue, PostgresEvents
from libs.common.adapters.postgres.models import PostgresModels
from libs.common.adapters.postgres.tasks import PostgresTasks
from libs.common.domain.outcome import ResultFile
from libs.common.domain.settle import Finish
from libs.common.domain.task import TaskStatus
from libs.common.ports_attempts import Attempt, Claim
from libs.common.ports_dispatch import EventKey, Key, LaneAsk, LeasedRow, Turn
from libs.common.ports_tasks import Created, NewTask
from services.dispatcher.lanes import LaneBook
from services.dispatcher.relay import Relay

_TENANT = 1
_BATCH = 200
_END = Finish(TaskStatus.SUCCESS, files=(ResultFile("file:///result", "txt", 3, "00", "result"),))


@dataclass
class Reading:
    """What the backend of the turns had done by a moment."""

    turns: int
    rows: int
    ended: int
    cpu: float
    buffers: int
    at: float

    def since(self, before: Reading) -> dict[str, float]:
        """What happened between two readings, per turn and per second."""
        turns, seconds = max(self.turns - before.turns, 1), self.at - before.at
        return {
            "tasks_per_second": (self.ended - before.ended) / seconds,
            "turns_per_second": (self.turns - before.turns) / seconds,
            "rows_per_turn": (self.rows - before.rows) / turns,
            "cpu_ms_per_turn": (self.cpu - before.cpu) / turns * 1e3,
            "buffers_per_turn": (self.buffers - before.buffers) / turns,
        }


class TurnQueue(PostgresDispatchQueue):
    """The queue with a connection for turns alone, so that what they cost can be read from its backend."""

    def __init__(self, turns: Database, rest: Database) -> None:
        super().__init__(turns)
        self._rest = PostgresDispatchQueue(rest)
        self.turns = self.rows = 0

    async def lease_due(
        self, asks: Sequence[LaneAsk], batch: int, dispatcher: int, acknowledged: Sequence[int]
    ) -> Turn:
        turn = await super().lease_due(asks, batch, dispatcher, acknowledged)
        self.turns += 1
        self.rows += len(turn.rows)
        return turn

    async def lanes_with_work(self) -> list[int]:
        return await self._rest.lanes_with_work()

    async def close_leases(self, leases: Sequence[int]) -> None:
        await self._rest.close_leases(leases)


class _Road:
    """A broker that takes everything at once."""

    reachable = True

    def __init__(self) -> None:
        self.out: deque[LeasedRow] = deque()

    async def publish(self, rows: Sequence[LeasedRow]) -> list[Any]:
        self.out += rows
        return []


class Churn:
    """Creates tasks at a pace and carries each to its end and its event, as the services do."""

    def __init__(self, queue: TurnQueue, database: Database, backend: int, model_seconds: float) -> None:
        self._queue = queue
        self._backend = backend
        self._model_seconds = model_seconds
        self._models, self._tasks = PostgresModels(database), PostgresTasks(database)
        self._attempts, self._events = PostgresAttempts(database, 1, "UTC"), PostgresEvents(database)
        self._database = database
        self._book, self._road = LaneBook(), _Road()
        road = cast(Any, self._road)
        self._relay = Relay(queue, road, road, self._book, road, random.Random())
        self._running: deque[tuple[float, Attempt]] = deque()
        self._ended = 0
        self.lanes: list[int] = []

    async def prepare(self, lanes: int, concurrency: int, waiting: int) -> None:
        """Models, and tasks that wait from the start."""
        for number in range(lanes):
            fields = {"name": f"m{number}", "base_url": "http://127.0.0.1:1", "max_concurrency": concurrency}
            self.lanes.append((await self._models.create(_TENANT, "bench", fields)).lane)
        self._book.learn(await self._queue.lanes_changed(None))
        self._book.open(self.lanes)
        for _ in range(0, waiting, _BATCH):
            await self.create(_BATCH)

    async def create(self, count: int) -> None:
        """New tasks in all lanes, with their hints."""
        new = [NewTask(uuid4(), _TENANT, random.choice(self.lanes), b"{}", creator="bench") for _ in range(count)]
        for task, creation in zip(new, await self._tasks.create_many(new), strict=True):
            if isinstance(creation, Created):
                self._book.work(task.lane, 1, Key(0, creation.id))
        self._relay.wake()

    async def reading(self) -> Reading:
        """What the backend of the turns has done by now."""
        rows = await self._database.query_text(
            "SELECT coalesce(sum(hits + reads), 0) FROM pg_stat_get_backend_io(:pid) WHERE object = 'relation'",
            pid=self._backend,
        )
        cpu = cpu_seconds(self._backend)
        return Reading(self._queue.turns, self._queue.rows, self._ended, cpu, int(rows[0][0]), time.monotonic())

    async def run(self, per_second: float) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            for story in (self._relay.run(), self._arrive(per_second), self._start(), self._finish(), self._announce()):
                group.create_task(story)

    async def _arrive(self, per_second: float) -> None:
        began, created = time.monotonic(), 0
        while True:
            due = int((time.monotonic() - began) * per_second) - created
            if due > 0:
                await self.create(min(due, _BATCH))
                created += min(due, _BATCH)
            await asyncio.sleep(0.01)

    async def _start(self) -> None:
        out = self._road.out
        while True:
            if not out:
                await asyncio.sleep(0.003)
                continue
            rows = [out.popleft() for _ in range(min(len(out), _BATCH))]
            claims = [Claim(row.id, row.lease, uuid4(), 60) for row in rows]
            due = time.monotonic() + self._model_seconds
            self._running += [(due, attempt) for attempt in await self._attempts.start_many(claims)]

    async def _finish(self) -> None:
        running = self._running
        while True:
            ends: list[Attempt] = []
            while running and running[0][0] <= time.monotonic() and len(ends) < _BATCH:
                ends.append(running.popleft()[1])
            if not ends:
                await asyncio.sleep(0.003)
                continue
            await self._attempts.finish_many([(attempt, _END) for attempt in ends])
            self._ended += len(ends)
            for attempt in ends:
                self._book.room(attempt.lane)
            self._relay.wake()

    async def _announce(self) -> None:
        cursor, sent = 0, list[EventKey]()
        while True:
            rows = await self._events.after(cursor, 500, [], sent)
            sent = [row.key for row in rows]
            cursor = max([cursor, *(row.id for row in rows)])
            if len(rows) < 500:
                await asyncio.sleep(0.05)


@asynccontextmanager
async def open_churn(url: str, *, model_seconds: float) -> AsyncIterator[Churn]:
    """A churn over a migrated database, with one backend that runs turns and nothing else."""
    async with open_database(url, hot_connections=1) as turns, open_database(url) as rest:
        connection = await turns.acquire()
        backend = await connection.fetchval("SELECT pg_backend_pid()")
        await turns.pool.release(connection)
        yield Churn(TurnQueue(turns, rest), rest, backend, model_seconds)


@asynccontextmanager
async def forgotten_transaction(url: str) -> AsyncIterator[None]:
    """Somebody opens a transaction, writes, and goes home."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("SET idle_in_transaction_session_timeout = 0")
        await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        await connection.fetchval("SELECT pg_current_xact_id()::text")
        yield
    finally:
        await connection.close()
