"""Somebody keeps rows of one task locked in a forgotten transaction: the task waits for its end, nobody else does."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import pytest

from libs.common.adapters.postgres.attempts import PostgresAttempts
from libs.common.adapters.postgres.database import Database
from libs.common.adapters.postgres.dispatch_queue import PostgresEvents
from libs.common.adapters.postgres.failures import is_data_error
from libs.common.adapters.postgres.models import PostgresModels
from libs.common.adapters.postgres.provider_jobs import PostgresProviderJobs
from libs.common.adapters.postgres.tasks import PostgresTasks
from libs.common.domain.errors import RowsLocked
from libs.common.domain.model import Model
from libs.common.domain.outcome import ResultFile
from libs.common.domain.settle import LOST_BUDGET, Finish
from libs.common.domain.task import TaskStatus
from libs.common.operations.model_cache import ModelCache
from libs.common.ports_attempts import Attempt, Claim
from libs.common.ports_dispatch import Key, LaneAsk
from libs.common.ports_provider_jobs import JobIntent, JobRow
from libs.common.ports_sweeps import Ending, LostAttempt
from libs.common.ports_tasks import KeyOwner, NewTask
from libs.common.runtime.coalescer import Coalescer
from services.api.reading import Reading
from services.api.submission import Accepted, Order, Submission
from services.api.waiting import WaitRoom
from services.dispatcher.webhook_events import hooked_event
from services.executor import locked_rows
from services.executor.admission.slots import Slot, Slots
from services.executor.figures import Figures
from services.executor.jobs.ledger import JobLedger
from services.executor.locked_rows import LockedRows
from services.executor.recorder import Recorder
from services.executor.runs import Run
from tests.support.house import House
from tests.support.locks import kept_by

FINISH = Finish(TaskStatus.SUCCESS, files=(ResultFile("file:///r", "txt", 3, "00", "r"),))


FAILED = Finish(TaskStatus.FAILED, "http_400", "no", dead=True)


def locked(house: House, task: int, table: str = "dispatch") -> AbstractAsyncContextManager[None]:
    return kept_by(house, f"{table} SET version = version WHERE id = {task}")


def account_locked(house: House, model: Model) -> AbstractAsyncContextManager[None]:
    """Of the one user that has tasks of this model."""
    return kept_by(house, f"quota_usage SET used = used WHERE tenant_id = {model.tenant_id}")


def attempts_of(house: House, executor: int = 1) -> PostgresAttempts:
    return PostgresAttempts(house.database, executor, "UTC")


def run_of(attempt: Attempt) -> Run:
    slots = Slots(1)
    slots.take(attempt.tenant_id)
    return Run(attempt, Model(0, 0, 0, "", ""), False, Slot(slots, attempt.tenant_id, lambda: None), 0.0)


def recorder_of(attempts: PostgresAttempts) -> Recorder:
    return Recorder(
        attempts, Figures(), lambda _: None, LockedRows(attempts), permit_back=lambda _: None, changed=lambda _: None,
        is_data_error=is_data_error,
    )  # fmt: skip


def lost(attempt: Attempt) -> LostAttempt:
    return LostAttempt(
        attempt.id, attempt.public_id, attempt.tenant_id, attempt.lane, attempt.token, canceled=False
    )  # fmt: skip


@pytest.mark.parametrize("table", ["dispatch", "task"])
async def test_other_attempts_end_and_the_tasks_own_ends_when_it_is_free(house: House, table: str) -> None:
    first, stuck, third = await house.running(await house.model(), await house.executor(), 3)
    recorder = recorder_of(attempts_of(house))
    async with locked(house, stuck.id, table):
        ends = [asyncio.create_task(recorder.end(run_of(one), FINISH)) for one in (first, stuck, third)]
        assert await asyncio.wait_for(asyncio.gather(ends[0], ends[2]), 15) == [True, True]
        later = await house.running(await house.model(), await house.executor())
        assert await asyncio.wait_for(recorder.end(run_of(later[0]), FINISH), 15)
        assert not ends[1].done()
    assert await asyncio.wait_for(ends[1], 15)
    await recorder.close(1)
    assert [(await house.row(one.id))["status"] for one in (first, stuck, third)] == [6, 6, 6]
    assert await house.value("SELECT count(*) FROM event") == 4


class Counting(PostgresAttempts):
    """How many ends were written at once, each time."""

    def __init__(self, house: House) -> None:
        super().__init__(house.database, 1, "UTC")
        self.batches: list[int] = []

    async def finish_many(self, rows: Sequence[tuple[Attempt, Finish]]) -> set[int]:
        self.batches.append(len(rows))
        return await super().finish_many(rows)


async def test_who_cannot_get_its_points_back_is_not_tried_meanwhile_and_who_needs_none_ends(house: House) -> None:
    model, executor = await house.model(), await house.executor()
    await house.tasks(model, 2, points=5)
    await house.tasks(model, 2)
    stuck, fine, *others = await house.start(model, executor, await house.lease(model))
    attempts = Counting(house)
    recorder = recorder_of(attempts)
    async with account_locked(house, model):
        ends = [asyncio.create_task(recorder.end(run_of(one), FAILED)) for one in (*others, stuck)]
        ends.insert(0, asyncio.create_task(recorder.end(run_of(fine), FINISH)))
        assert await asyncio.wait_for(asyncio.gather(*ends[:3]), 15) == [True] * 3
        assert attempts.batches == [4, 3]
        assert await attempts.locked([fine.id, stuck.id], giving_back=[stuck.id]) == {stuck.id}
        assert not ends[3].done()
    assert await asyncio.wait_for(ends[3], 15)
    await recorder.close(1)
    assert await house.value("SELECT used FROM quota_usage") == 5


async def test_what_a_neighbour_had_locked_for_a_moment_is_looked_at_soon(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locked_rows, "_RETRY_SECONDS", (0.0, 60.0))
    (attempt,) = await house.running(await house.model(), await house.executor())
    answers = iter((RowsLocked(), None))

    async def write() -> bool:
        if (error := next(answers)) is not None:
            raise error
        return True

    assert await asyncio.wait_for(LockedRows(attempts_of(house)).until_answered(write, attempt), 15)


async def test_waiting_tasks_and_lost_attempts_end_beside_one_whose_account_is_locked(house: House) -> None:
    model = await house.model()
    (stuck,), (other,) = await house.tasks(model, 1, points=5), await house.tasks(model)
    endings = [
        Ending(task, (await house.state(task))["version"], TaskStatus.TIMEOUT, "wait_limit", "no", dead=True)
        for task in (stuck, other)
    ]
    async with account_locked(house, model):
        assert [ended.id for ended in await house.sweeps.end_waiting(endings)] == [other]
    (lives,) = await house.running(await house.model(), await house.executor())
    (waits,) = await house.start(model, await house.executor(), await house.lease(model))
    async with account_locked(house, model):
        ends = [(lost(one), TaskStatus.FAILED, "lost", "no") for one in (lives, waits)]
        assert await house.sweeps.end_running(ends) == {lives.id}


async def test_whose_job_is_locked_is_told_apart(house: House) -> None:
    stuck, other = await house.running(await house.model(adapter="test"), await house.executor(), 2)
    jobs, attempts = PostgresProviderJobs(house.database), attempts_of(house)
    await jobs.intend_many([(one, JobIntent(uuid4(), "test", True, 60)) for one in (stuck, other)])
    async with kept_by(house, f"provider_job SET message = message WHERE task_id = {stuck.id}"):
        assert await attempts.locked([stuck.id, other.id]) == {stuck.id}
    assert await attempts.locked([stuck.id, other.id]) == set()


async def test_creates_of_others_are_not_refused_for_what_their_neighbours_write_just_now(house: House) -> None:
    stuck, other = await house.model(price=1), await house.model(price=1)
    tasks, models = PostgresTasks(house.database), ModelCache(PostgresModels(house.database))
    looked = asyncio.Event()

    async def locked(items: Sequence[NewTask]) -> list[bool]:
        found = await tasks.locked(items)
        looked.set()
        return found

    writes = Coalescer(tasks.create_many, is_data_error=is_data_error, locked=locked)
    submission = Submission(
        models, house.gate, Coalescer(house.gate.take_many), writes, Coalescer(tasks.earlier_many),
        Coalescer(models.look_up), Coalescer(tasks.locked), zone=ZoneInfo("UTC"),
    )  # fmt: skip

    async def create(model: Model) -> Accepted:
        return await submission.submit(KeyOwner(1, model.tenant_id, "c", frozenset()), Order(model.name, b"{}"))

    first = [await create(model) for model in (stuck, other)]
    async with account_locked(house, stuck):
        refused, accepted = [asyncio.create_task(create(model)) for model in (stuck, other)]
        async with account_locked(house, other):  # as a flush of another process has it
            await asyncio.wait_for(looked.wait(), 15)
        assert (await accepted).public_id not in {one.public_id for one in first}
        with pytest.raises(RowsLocked):
            await refused
    await create(stuck)


class Jobs(PostgresProviderJobs):
    """Of which tasks jobs were begun or gone on with at once, each time."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.batches: list[set[int]] = []

    async def intend_many(self, rows: Sequence[tuple[Attempt, JobIntent]]) -> dict[int, float | None]:
        self.batches.append({attempt.id for attempt, _ in rows})
        return await super().intend_many(rows)

    async def resume_many(self, attempts: Sequence[Attempt]) -> dict[int, JobRow]:
        self.batches.append({attempt.id for attempt in attempts})
        return await super().resume_many(attempts)


@pytest.mark.parametrize("table", ["dispatch", "model"])
async def test_jobs_of_others_are_written_down(house: House, table: str) -> None:
    models, executor = [await house.model(adapter="test") for _ in range(2)], await house.executor()
    (stuck,), (other,) = [await house.running(model, executor) for model in models]
    jobs, locks = Jobs(house.database), LockedRows(attempts_of(house))
    ledger = JobLedger(jobs, locks, changed=lambda _: None, is_data_error=is_data_error)
    update = {
        "dispatch": f"dispatch SET version = version WHERE id = {stuck.id}",
        "model": f"model SET adapter = adapter WHERE id = {models[0].id}",
    }
    async with kept_by(house, update[table]):
        intents = [
            asyncio.create_task(ledger.intend(run_of(one), JobIntent(uuid4(), "test", True, 60)))
            for one in (stuck, other)
        ]
        assert await asyncio.wait_for(intents[1], 15) is not None
        assert jobs.batches == [{stuck.id, other.id}, {other.id}]
        assert not intents[0].done()
    assert await asyncio.wait_for(intents[0], 15) is not None
    jobs.batches.clear()
    async with locked(house, stuck.id):
        found = [asyncio.create_task(ledger.resume(run_of(one))) for one in (stuck, other)]
        assert await asyncio.wait_for(found[1], 15) is not None
        assert jobs.batches == [{stuck.id, other.id}, {other.id}]
    assert await asyncio.wait_for(found[0], 15) is not None
    await asyncio.gather(ledger.close(1), locks.close(1))


async def test_what_arrives_with_it_is_started_or_held(house: House) -> None:
    model, executor = await house.model(), await house.executor()
    await house.tasks(model, 4)
    rows = await house.lease(model)
    claims = [Claim(row.id, row.lease, uuid4(), 60) for row in rows]
    attempts = attempts_of(house, executor)
    async with locked(house, rows[1].id):
        messages = [(row.id, row.lease) for row in rows]
        assert await attempts.hold_many(messages) == {messages[n] for n in (0, 2, 3)}
        assert [one.id for one in await attempts.start_many(claims)] == [rows[n].id for n in (0, 2, 3)]
    assert [one.id for one in await attempts.start_many(claims)] == [rows[1].id], "who was left out lost nothing"


async def test_what_waits_for_a_permit_beside_it_goes_back(house: House) -> None:
    model, executor = await house.model(), await house.executor()
    ids = await house.tasks(model, 2)
    await house.hold(executor, await house.lease(model))
    async with locked(house, ids[0]):
        assert [placed.key.position for placed in await attempts_of(house, executor).release_held(ids)] == [ids[1]]


async def test_what_is_unknown_here_beside_it_is_disowned(house: House) -> None:
    executor = await house.executor()
    stuck, _ = await house.running(await house.model(), executor, 2)
    attempts = attempts_of(house, executor)
    async with locked(house, stuck.id):
        await attempts.disown(await attempts.named())
    assert [row.id for row in await attempts.named()] == [stuck.id]


async def test_a_dead_executors_other_work_is_rescued(house: House) -> None:
    model, dead = await house.model(), await house.executor()
    running = await house.running(model, dead, 2)
    held = await house.tasks(model, 2)
    await house.hold(dead, await house.lease(model))
    async with locked(house, running[0].id), locked(house, held[1]):
        rescued = await house.sweeps.rescue([dead], LOST_BUDGET)
        assert {(one.moved.id, one.token) for one in rescued} == {(held[0], None), (running[1].id, running[1].token)}
    assert {one.moved.id for one in await house.sweeps.rescue([dead], LOST_BUDGET)} == {held[1], running[0].id}


async def test_what_was_lost_on_the_road_is_sent_again(house: House) -> None:
    model = await house.model()
    ids = await house.tasks(model, 2)
    await house.lease(model)
    async with locked(house, ids[0]):
        assert [moved.id for moved in await house.sweeps.republish_lost(0, 10)] == [ids[1]]
    assert [moved.id for moved in await house.sweeps.republish_lost(0, 10)] == [ids[0]]


async def test_what_the_broker_did_not_take_beside_it_goes_back_waits_or_ends(house: House) -> None:
    model = await house.model()
    stuck, unsent, *refused = await house.tasks(model, 4)
    lease = (await house.lease(model))[0].lease
    queue = house.queue
    async with locked(house, stuck):
        assert [moved.id for moved in await queue.give_back(lease, [stuck, unsent])] == [unsent]
        sends = await queue.postpone_refused([(id_, lease, 60.0, "too large") for id_ in (stuck, *refused)])
        assert sends == [(id_, 1) for id_ in refused]
    async with locked(house, refused[0]):
        buried = await queue.bury_refused(refused, "too large")
    assert [str(public_id) for public_id, _ in buried] == await house.public(refused[1:])


async def test_turns_go_on_beside_a_lease_that_is_locked_and_it_is_healed_later(house: House) -> None:
    model = await house.model()
    ids = await house.tasks(model, 4)
    (stuck,), (other,) = [await house.lease(model, 1, acknowledged=False) for _ in range(2)]
    async with kept_by(house, f"lease SET taken_at = taken_at WHERE id = {stuck.lease}"):
        ask = LaneAsk(model.lane, 1, 0, Key(-9, 0), Key(-9, 0))
        (third,) = (await house.queue.lease_due([ask], 1, 1, [stuck.lease, other.lease])).rows
        await house.queue.close_leases([stuck.lease, third.lease])
        assert [row["id"] for row in await house.sql("SELECT id FROM lease")] == [stuck.lease]
        await house.lease(model, acknowledged=False)
        assert [moved.id for moved in await house.sweeps.heal_leases(0)] == [ids[3]]
    assert [moved.id for moved in await house.sweeps.heal_leases(0)] == [ids[0]]


async def test_waiting_tasks_and_lost_attempts_end_beside_it(house: House) -> None:
    model = await house.model()
    stuck, other = await house.tasks(model, 2)
    versions = [(await house.state(task))["version"] for task in (stuck, other)]
    endings = [
        Ending(task, version, TaskStatus.TIMEOUT, "wait_limit", "no", dead=True)
        for task, version in zip((stuck, other), versions, strict=True)
    ]
    async with locked(house, stuck):
        assert [ended.id for ended in await house.sweeps.end_waiting(endings)] == [other]
    dead, lives = await house.running(await house.model(), await house.executor(), 2)
    async with locked(house, dead.id):
        ends = [(lost(one), TaskStatus.FAILED, "lost", "no") for one in (dead, lives)]
        assert await house.sweeps.end_running(ends) == {lives.id}


async def test_cancels_of_it_keep_no_connections_from_others(house: House) -> None:
    model = await house.model()
    ids = await house.tasks(model, 2)
    stuck, other = [UUID(public) for public in await house.public(ids)]
    tasks = PostgresTasks(house.database)
    async with locked(house, ids[0]):
        cancels = [asyncio.create_task(tasks.cancel_waiting(model.tenant_id, [stuck])) for _ in range(8)]
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        while await house.value(waiting) < len(cancels) and not any(cancel.done() for cancel in cancels):
            await asyncio.sleep(0.01)
        assert [view.public_id for view in await tasks.find_many(model.tenant_id, [other])] == [other]
        ends = await asyncio.wait_for(asyncio.gather(*cancels, return_exceptions=True), 15)
        assert {type(end) for end in ends} == {RowsLocked}
    assert [one.public_id for one in await tasks.cancel_waiting(model.tenant_id, [stuck])] == [stuck]


async def test_who_reads_others_beside_it_is_answered(house: House) -> None:
    model = await house.model()
    stuck, other = await house.done(model, 2)
    reading = Reading(PostgresTasks(house.database), WaitRoom(PostgresTasks(house.database).final_among))
    caller = KeyOwner(1, model.tenant_id, "c", frozenset())
    fetched = "SELECT array_agg(id) FROM task WHERE fetched_at IS NOT NULL"
    async with locked(house, stuck.id, "task"):
        views = await reading.several(caller, [stuck.public_id, other.public_id])
        assert [view.public_id for view in views] == [stuck.public_id, other.public_id]
        assert await house.value(fetched) == [other.id]
    await reading.several(caller, [stuck.public_id, other.public_id])
    assert set(await house.value(fetched)) == {stuck.id, other.id}


async def test_other_tasks_are_cleaned(house: House) -> None:
    stuck, other = [attempt.id for attempt in await house.done(await house.model(), 2)]
    await house.sql("UPDATE task SET finished_at = now() - interval '1 h', expire_at = now() - interval '1 s'")
    async with locked(house, stuck, "task"):
        assert await house.clean(stuck, other) == [other]
    assert await house.clean(stuck) == [stuck]


async def test_tasks_of_others_are_cleaned_beside_one_that_a_locked_account_paid_for(house: House) -> None:
    model = await house.model()
    (stuck,) = await house.tasks(model, points=5)
    for attempt in await house.start(model, await house.executor(), await house.lease(model)):
        await house.finish(attempt)
    (other,) = [attempt.id for attempt in await house.done(await house.model())]
    await house.sql("UPDATE task SET finished_at = now() - interval '1 h', expire_at = now() - interval '1 s'")
    async with account_locked(house, model):
        assert await house.clean(stuck, other) == [other]
    assert await house.clean(stuck) == [stuck]


async def test_no_page_is_full_of_it(house: House) -> None:
    """Looked for one at a time, as thousands of locked rows fill a page of a thousand."""
    model, executor = await house.model(), await house.executor()
    failed = await house.running(model, executor, 2)
    for attempt in failed:
        await house.fail(attempt)
    overdue = [attempt.id for attempt in await house.running(model, executor, 2)]
    await house.sql("UPDATE dispatch SET until = now() - interval '1 hour' WHERE id = ANY ($1)", overdue)
    expired = await house.tasks(model, 2)
    await house.sql("UPDATE dispatch SET expires_at = now() - interval '1 minute' WHERE id = ANY ($1)", expired)
    await house.sql("INSERT INTO cancel_request (task_id) SELECT unnest($1::bigint[])", expired)
    closed = await house.model()
    waiting = await house.tasks(closed, 2)
    await house.sql("UPDATE lane SET closed = true WHERE id = $1", closed.lane)
    first = [failed[0].id, overdue[0], expired[0], waiting[0]]
    async with kept_by(house, f"dispatch SET version = version WHERE id IN ({', '.join(map(str, first))})", 4):
        assert [one.id for one in await house.sweeps.due_retries(1)] == [failed[1].id]
        assert [one.id for one in await house.sweeps.overdue(0, 0, 1)] == [overdue[1]]
        assert [one.id for one in await house.sweeps.expired_rows(1)] == [expired[1]]
        assert [id_ for id_, _ in await house.sweeps.requested_waiting(1)] == [expired[1]]
        assert [id_ for id_, _ in await house.sweeps.rows_of_closed_lanes(1)] == [waiting[1]]
    assert {one.id for one in await house.sweeps.due_retries(9)} == {one.id for one in failed}
    dead = await house.running(await house.model(), executor, 2)
    for attempt in dead:
        await attempts_of(house, executor).finish_many([(attempt, FAILED)])
    await house.sql("DELETE FROM event")
    await house.sql("UPDATE dead_task SET died_at = now() - interval '9 days' + make_interval(secs => task_id)")
    async with locked(house, dead[0].id, "task"):
        assert [one.id for one in await house.sweeps.dead_over(8, 1)] == [dead[1].id]
    assert [one.id for one in await house.sweeps.dead_over(8, 1)] == [dead[0].id]


async def test_retries_beside_it_are_made(house: House) -> None:
    model = await house.model()
    attempts = await house.running(model, await house.executor(), 2)
    for attempt in attempts:
        await house.fail(attempt)
    due = await house.sweeps.due_retries(10)
    stuck, other = sorted(due, key=lambda retry: retry.id)
    async with locked(house, stuck.id):
        await house.sweeps.put_off([(stuck, 0.0), (other, 0.0)])
        assert [moved.id for moved in await house.sweeps.requeue(due)] == [other.id]


async def test_events_wait_once_for_one_that_cannot_be_deleted(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    for attempt in await house.running(await house.model(), await house.executor(), 3):
        await house.finish(attempt)
    events, asked, fetch = PostgresEvents(house.database), [], house.database.fetch

    async def noted(name: str, *arguments: Any) -> Any:
        asked.append(name)
        return await fetch(name, *arguments)

    stuck, other, new = await events.after(0, 10, [])
    monkeypatch.setattr(house.database, "fetch", noted)
    async with locked(house, stuck.id, "event"):
        assert [row.id for row in await events.after(other.id, 10, [], [stuck.key, other.key])] == [new.id]
    assert asked == ["events_after", "locked_events", "events_after"]


async def test_other_events_that_were_sent_are_deleted(house: House) -> None:
    for attempt in await house.running(await house.model(), await house.executor(), 3):
        await house.finish(attempt)
    events = PostgresEvents(house.database)
    rows = await events.after(0, 10, [])
    async with locked(house, rows[0].id, "event"):
        assert await events.after(rows[2].id, 10, [], [row.key for row in rows[:2]]) == []
        assert [row.id for row in await events.after(0, 10, [])] == [rows[0].id, rows[2].id]
        await events.refused([(rows[0].key, 1.0, "no"), (rows[2].key, 1.0, "no")], 10)
        assert [row["id"] for row in await house.sql("SELECT id FROM event WHERE sends = 1")] == [rows[2].id]
        hooked = [hooked_event(row, "http://here") for row in (rows[0], rows[2])]
        assert await events.hand_over(hooked) == 0, "nobody wants them"
        assert await house.value("SELECT array_agg(id) FROM event") == [rows[0].id]
