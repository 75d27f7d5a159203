"""Operators and the processes that work off their replay jobs, over the stores of a test."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

from libs.common.adapters.postgres.database import Database, is_data_error
from libs.common.adapters.postgres.dead import PostgresDead, PostgresReplayJobs
from libs.common.adapters.postgres.operations import PostgresOperations
from libs.common.adapters.postgres.replay import PostgresReplayWork
from libs.common.operations.dead import Dead
from libs.common.operations.replay import ReplayRequest, Replays
from libs.common.operations.replay_run import MessageReplays, OutboxReplays, ReplayRunner, TaskReplays
from libs.common.operations.wake import Wake
from libs.common.ports import QueueGate
from libs.common.ports_dead import Action, DeadKind, Job
from libs.common.ports_dispatch import Carrier

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


def janitor_of(database: Database, gate: QueueGate, wake: Wake) -> ReplayRunner:
    """What a janitor runs every second."""
    work = PostgresReplayWork(database, "UTC")
    tasks, outbox = TaskReplays(work, gate, wake, Random(7)), OutboxReplays(work, wake)
    handlers = {DeadKind.TASK: tasks, DeadKind.EVENT: outbox, DeadKind.DELIVERY: outbox}
    return ReplayRunner(work, handlers, is_data_error)


def dispatcher_of(database: Database, carrier: Carrier) -> ReplayRunner:
    """What a dispatcher runs every second."""
    work = PostgresReplayWork(database, "UTC")
    return ReplayRunner(work, {DeadKind.MESSAGE: MessageReplays(work, carrier, Random(7))}, is_data_error)


async def save_up(database: Database, seconds: float = 60) -> None:
    """As if no running job had been looked at for so long, and nobody had any in hand."""
    async with database.pool.acquire() as connection:
        await connection.execute(
            "UPDATE replay_job SET paced_at = paced_at - make_interval(secs => $1), runner_until = NULL"
            " WHERE state = 'running'",
            seconds,
        )
