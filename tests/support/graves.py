"""Operators and the processes that work off their replay jobs, over the stores of a test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

from libs.common.adapters.postgres.database import Database
from libs.common.adapters.postgres.dead import PostgresDead, PostgresReplayJobs
from libs.common.adapters.postgres.dispatch_queue import PostgresEvents
from libs.common.adapters.postgres.failures import is_data_error
from libs.common.adapters.postgres.operations import PostgresOperations
from libs.common.adapters.postgres.replay import PostgresReplayWork
from libs.common.domain.model import Model
from libs.common.operations.dead import Dead
from libs.common.operations.replay import ReplayRequest, Replays
from libs.common.operations.replay_run import Flush, MessageReplays, OutboxReplays, ReplayRunner, TaskReplays
from libs.common.operations.wake import Wake
from libs.common.ports import QueueGate
from libs.common.ports_attempts import Attempt
from libs.common.ports_dead import Action, DeadKind, Job
from libs.common.ports_dispatch import Carrier, EventKey
from tests.support.house import House

USUAL = ReplayRequest(Action.REPLAY, DeadKind.TASK, "the provider is back", "tester")


class Operator:
    """Orders and steers, within a reach."""

    def __init__(self, database: Database, reach: int | None = None) -> None:
        rows = PostgresDead(database)
        self.reach = reach
        self.dead = Dead(rows, PostgresOperations(database))
        self.replays = Replays(rows, PostgresReplayJobs(database))

    async def order(self, **changes: Any) -> Job:
        """A job of everything, unless narrowed."""
        return (await self.replays.start(self.reach, replace(USUAL, **changes))).job

    async def job(self, job: Job) -> Job:
        """As it is now."""
        return await self.replays.show(self.reach, job.id)

    async def results(self, job: Job) -> dict[str, str | None]:
        """By id."""
        items, _ = await self.replays.items(self.reach, job.id, None, 100_000)
        return {item.id: item.result for item in items}


async def _nothing_waits() -> bool:
    return True


def janitor_of(database: Database, gate: QueueGate, wake: Wake, flush: Flush = _nothing_waits) -> ReplayRunner:
    """What a janitor runs every second."""
    work = PostgresReplayWork(database, "UTC")
    tasks, outbox = TaskReplays(work, gate, flush, wake, Random(7)), OutboxReplays(work, wake)
    handlers = {DeadKind.TASK: tasks, DeadKind.EVENT: outbox, DeadKind.DELIVERY: outbox}
    return ReplayRunner(work, handlers, is_data_error)


def dispatcher_of(database: Database, carrier: Carrier) -> ReplayRunner:
    """What a dispatcher runs every second."""
    work = PostgresReplayWork(database, "UTC")
    return ReplayRunner(work, {DeadKind.MESSAGE: MessageReplays(work, carrier, Random(7))}, is_data_error)


async def save_up(database: Database, seconds: float = 60) -> None:
    """As if no running job had been looked at for so long, and nobody had any in hand."""
    connection = await database.acquire()
    try:
        await connection.execute(
            "UPDATE replay_job SET paced_at = paced_at - make_interval(secs => $1), runner_until = NULL"
            " WHERE state = 'running'",
            seconds,
        )
    finally:
        await database.pool.release(connection)


async def died(house: House, model: Model, count: int = 1, code: str = "http_400") -> list[Attempt]:
    """Tasks that failed for good; their events have left."""
    attempts = await house.running(model, await house.executor(), count)
    assert len(attempts) == count, "the window is too narrow"
    for attempt in attempts:
        await house.bury(attempt, code)
    await house.sql("DELETE FROM event")
    return attempts


async def work(house: House, seconds: float = 60) -> int:
    """A round of a janitor that was away for so long."""
    await save_up(house.database, seconds)
    return await janitor_of(house.database, house.gate, house.wake).round()


def ids_of(attempts: Sequence[Attempt]) -> list[str]:
    return [str(attempt.public_id) for attempt in attempts]


async def dead_event(house: House, model: Model) -> tuple[Attempt, int]:
    """An event that the broker refused for good."""
    (attempt,) = await house.running(model, await house.executor())
    await house.finish(attempt)
    await house.sql("UPDATE event SET sends = 19")
    ((number, ended),) = await house.sql("SELECT id, finished_at FROM event")
    refused = [(EventKey(number, ended), 1.0, "too large")]
    assert await PostgresEvents(house.database).refused(refused, 20) == [number]
    return attempt, number


async def dead_delivery(house: House, model: Model) -> int:
    """A webhook delivery that was given up."""
    (attempt,) = await house.running(model, await house.executor())
    await house.finish(attempt)
    return int(
        await house.value(
            "WITH w AS (INSERT INTO webhook (tenant_id, kind, url, secrets) VALUES ($1, 'endpoint', 'https://x', '')"
            " RETURNING id) INSERT INTO delivery (tenant_id, webhook_id, line, url, task_id, message_id, type, body,"
            " status, attempts, next_at, last_code, last_error, ended_at, dead_at)"
            " SELECT $1, id, 'l', 'https://hook.example/x?token=canary', $2::uuid,"
            " 'msg', 't', '{}', 'dead', 9, NULL, 500, 'no', now(), now() FROM w RETURNING id",
            model.tenant_id, attempt.public_id,
        )
    )  # fmt: skip
