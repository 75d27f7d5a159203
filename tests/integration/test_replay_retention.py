"""Retention beside replays: what a job has in hand stays until the job is through with it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import asyncpg
import pytest

from libs.common.domain.task import TaskStatus
from libs.common.ports_dead import DeadKind
from services.janitor.sweeps.expiry import Expiry
from services.janitor.sweeps.prune import Prune
from tests.support.graves import Operator, dead_delivery, dead_event, died, work
from tests.support.house import House

DAYS = 30


async def a_dead_task(house: House) -> None:
    await died(house, await house.model())
    await house.sql("UPDATE task SET finished_at = now() - interval '31 days'")
    await house.sql("UPDATE dead_task SET died_at = now() - interval '31 days'")


async def a_dead_event(house: House) -> None:
    await dead_event(house, await house.model())
    await house.sql("UPDATE dead_event SET dead_at = now() - interval '31 days'")


async def a_dead_delivery(house: House) -> None:
    await dead_delivery(house, await house.model())
    await house.sql("DELETE FROM event")
    await house.sql("UPDATE delivery SET dead_at = now() - interval '31 days'")


async def a_dead_message(house: House) -> None:
    await house.sql(
        'INSERT INTO dead_message (topic, "partition", "offset", digest, code, cause, died_at)'
        " VALUES ('t', 0, 1, sha256(''), 'not_json', 'not JSON', now() - interval '31 days')"
    )


async def cleaned(house: House) -> int:
    """A round of all that cleans up after the dead."""
    dead = await Expiry(house.sweeps, house.staging, unfetched_days=0, dead_days=DAYS).dead()
    return dead + await Prune(house.sweeps, dead_days=DAYS).sweep()


@pytest.mark.parametrize(
    ("kind", "one"),
    [
        (DeadKind.TASK, a_dead_task),
        (DeadKind.EVENT, a_dead_event),
        (DeadKind.DELIVERY, a_dead_delivery),
        (DeadKind.MESSAGE, a_dead_message),
    ],
)
async def test_what_a_job_has_in_hand_outlives_its_retention(
    house: House, kind: DeadKind, one: Callable[[House], Awaitable[None]]
) -> None:
    await one(house)
    operator = Operator(house.database)
    job = await operator.order(kind=kind)
    await operator.replays.pause(None, job.id)
    assert await cleaned(house) == 0
    tasks = [row["id"] for row in await house.sql("SELECT id FROM task WHERE finished_at < now() - interval '1 d'")]
    assert await house.clean(*tasks) == [], "nor one that was found before the job was"
    await operator.replays.stop(None, job.id)
    assert await cleaned(house) == 1


async def test_a_task_that_a_replay_ended_anew_since_retention_looked_has_all_its_time(house: House) -> None:
    """Between the two a janitor may be frozen, or wait for a connection."""
    model = await house.model()
    (attempt,) = await died(house, model)
    await house.sql("UPDATE task SET finished_at = now() - interval '31 days'")
    await house.sql("UPDATE dead_task SET died_at = now() - interval '31 days'")
    over = await house.sweeps.dead_over(DAYS, 10)
    assert [task.id for task in over] == [attempt.id]
    await Operator(house.database).order()
    assert await work(house) == 1
    (again,) = await house.start(model, await house.executor(), await house.lease(model))
    assert await house.finish(again)
    await house.sql("DELETE FROM event")
    assert await house.sweeps.delete_tasks(over) == [], "nobody has fetched its result yet"
    assert await house.value("SELECT status FROM task") == TaskStatus.SUCCESS


async def test_what_a_replay_takes_back_while_retention_looks_stays(house: House) -> None:
    await a_dead_delivery(house)
    replaying = await asyncpg.connect(house.database_url, timeout=5)
    try:
        async with replaying.transaction():
            await replaying.execute(
                "UPDATE delivery SET status = 'pending', next_at = now(), ended_at = NULL, dead_at = NULL"
            )
            assert await cleaned(house) == 0
    finally:
        await replaying.close()
    assert await cleaned(house) == 0
    assert await house.value("SELECT count(*) FROM delivery") == 1
