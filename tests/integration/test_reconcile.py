"""An executor against what PostgreSQL says of it."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest

from libs.common.adapters.postgres.attempts import PostgresAttempts, PostgresMembership
from libs.common.domain.errors import DatabaseUnavailable
from libs.common.domain.task import TaskStatus
from libs.common.ports_attempts import Claim, Identity, NamedRow
from services.executor.reconcile import UNKNOWN_LOOKS, Reconcile
from tests.support.executor_rig import Rig, until


async def test_rows_that_name_an_executor_which_knows_nothing_of_them_are_rescued(rig: Rig) -> None:
    model = await rig.make_model(max_concurrency=2)
    running = await rig.executor()
    rig.model.held = asyncio.Event()
    known = await rig.make_tasks(model, 3)
    await rig.take_slots(model, known)
    await rig.dispatch(model)
    await until(lambda: rig.model.running == 2 and len(running.executor.desk.room) == 1, "two run, one is held")
    unknown = await rig.make_tasks(model, 2)
    await rig.sql("UPDATE lane SET window_size = 10")
    await rig.take_slots(model, unknown)
    rows = await rig.lease(model)
    attempts = PostgresAttempts(rig.database, running.number, "UTC")
    (started,) = await attempts.start_many([Claim(rows[0].id, rows[0].lease, uuid4(), 60)])
    await attempts.hold_many([(rows[1].id, rows[1].lease)])

    reconcile = Reconcile(attempts, running.executor.runs, running.executor.desk.room)
    for _ in range(UNKNOWN_LOOKS - 1):
        assert await reconcile.look() == 0, "its start may still be on its way to us"
    assert await reconcile.look() == 2
    assert await reconcile.look() == 0
    named = await rig.sql("SELECT id, coalesce(executor, held_by) AS who, token FROM dispatch ORDER BY id")
    assert [row["who"] for row in named] == [running.number] * 3 + [0, 0]
    assert named[3]["token"] == started.token, "until it is rescued its end would count"

    assert 0 in await rig.sweeps.executors_with_work()
    rescued = await rig.sweeps.rescue([0], 3)
    assert len(rescued) == 2
    (lost,) = await rig.sql("SELECT task_id, error_code, error_message FROM attempt")
    assert (lost["task_id"], lost["error_code"]) == (started.id, "executor_lost")
    assert "knew nothing" in lost["error_message"]
    rig.model.held.set()
    await rig.dispatch(model)
    await rig.ended([*known, *unknown], TaskStatus.SUCCESS)


async def test_what_comes_to_be_known_in_time_is_no_stray(rig: Rig) -> None:
    model = await rig.make_model()
    running = await rig.executor()
    ids = await rig.make_tasks(model)
    (row,) = await rig.lease(model)
    attempts = PostgresAttempts(rig.database, running.number, "UTC")
    reconcile = Reconcile(attempts, running.executor.runs, running.executor.desk.room)
    await attempts.hold_many([(row.id, row.lease)])
    for _ in range(UNKNOWN_LOOKS - 1):
        assert await reconcile.look() == 0
    await attempts.release_held(ids)
    assert await reconcile.look() == 0
    (again,) = await rig.lease(model)
    await attempts.hold_many([(again.id, again.lease)])
    assert await reconcile.look() == 0, "another lease is another story"


class Away(PostgresAttempts):
    """PostgreSQL answers nothing while it is away."""

    away = False

    async def named(self) -> list[NamedRow]:
        if self.away:
            raise DatabaseUnavailable("away")
        return await super().named()


async def test_an_outage_between_two_looks_makes_nothing_a_stray(rig: Rig) -> None:
    """The answer to a start was lost in it, and is read back when it is over."""
    model = await rig.make_model()
    running = await rig.executor()
    await rig.make_tasks(model)
    (row,) = await rig.lease(model)
    attempts = Away(rig.database, running.number, "UTC")
    reconcile = Reconcile(attempts, running.executor.runs, running.executor.desk.room)
    await attempts.start_many([Claim(row.id, row.lease, uuid4(), 60)])
    assert await reconcile.look() == 0
    attempts.away = True
    for _ in range(UNKNOWN_LOOKS):
        with pytest.raises(DatabaseUnavailable):
            await reconcile.look()
    attempts.away = False
    assert await reconcile.look() == 0, "nobody can have read it back meanwhile"


async def test_an_upload_that_is_held_by_who_knows_nothing_of_it_is_rescued(rig: Rig) -> None:
    model = await rig.make_model()
    running = await rig.executor()
    (task,) = await rig.make_tasks(model)
    (row,) = await rig.lease(model)
    attempts = PostgresAttempts(rig.database, running.number, "UTC")
    await attempts.hold_many([(row.id, row.lease)])
    await rig.sql("UPDATE dispatch SET phase = 2, staged = 'local:gone'")
    reconcile = Reconcile(attempts, running.executor.runs, running.executor.desk.room)
    assert [await reconcile.look() for _ in range(UNKNOWN_LOOKS)] == [0] * (UNKNOWN_LOOKS - 1) + [1]
    (rescued,) = await rig.sweeps.rescue([0], 3)
    assert (rescued.moved.id, rescued.token) == (task, None)


async def test_what_runs_here_and_never_began_there_is_aborted(rig: Rig) -> None:
    model = await rig.make_model(max_concurrency=2)
    running = await rig.executor()
    rig.model.held = asyncio.Event()
    known, lost = await rig.make_tasks(model, 2)
    await rig.dispatch(model)
    await until(lambda: rig.model.running == 2, "two run")
    attempts = PostgresAttempts(rig.database, running.number, "UTC")
    reconcile = Reconcile(attempts, running.executor.runs, running.executor.desk.room)
    await reconcile.look()
    await rig.sql("DELETE FROM dispatch WHERE id = $1", lost)
    await reconcile.look()
    assert rig.model.running == 2, "its end might just have been written"
    await reconcile.look()
    await until(lambda: rig.model.running == 1, "the lost one's call is over")
    rig.model.held.set()
    await rig.ended([known], TaskStatus.SUCCESS)


async def test_two_executors_never_beat_under_one_number(rig: Rig) -> None:
    """Numbers begin anew where PostgreSQL goes on from an older state."""
    first, second = PostgresMembership(rig.database), PostgresMembership(rig.database)
    number = await first.join(Identity("one", 1, (), "test", ()))
    await second.join(Identity("two", 1, (), "test", ()))
    second.id = number
    assert await first.beat(0, 0, "reading") is not None
    assert await second.beat(0, 0, "reading") is None
    assert await first.beat(0, 0, "reading") is not None
