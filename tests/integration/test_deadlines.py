"""Tasks that must have started, or be done, by a time: who comes too late ends as timeout, wherever it stands."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from libs.common.adapters.postgres.provider_jobs import PostgresProviderJobs
from libs.common.domain.model_errors import ModelError, UploadFailed
from libs.common.domain.settle import GiveBack
from libs.common.domain.task import TaskStatus
from libs.common.ports_provider_jobs import JobIntent, JobNews, UnwantedLook
from libs.common.runtime import failpoints
from libs.common.runtime.failpoints import FailpointRaised
from services.executor.jobs.job import intent_key
from services.janitor.sweeps.overdue import Overdue
from services.janitor.sweeps.waits import Deadlines
from tests.support.executor_rig import Rig
from tests.support.house import House


def soon(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


def deadlines(house: House) -> Deadlines:
    return Deadlines(house.sweeps, house.endings)


async def pass_by(house: House, ids: list[int], *names: str) -> None:
    """As if the time that these columns name had come; what comes next is reckoned as on create and start."""
    for name in names:
        await house.sql(f"UPDATE dispatch SET {name} = now() - interval '1 s' WHERE id = ANY ($1::bigint[])", ids)
    await house.sql(
        "UPDATE dispatch SET expires_at = CASE WHEN attempt = 0 THEN least(start_by, deadline) ELSE deadline END"
        " WHERE id = ANY ($1::bigint[])",
        ids,
    )


async def ending(house: House, task: int) -> tuple[Any, ...]:
    row = await house.row(task)
    return row["status"], row["open"], row["error_code"]


async def test_what_waits_at_its_time_ends_wherever_it_waits_and_nothing_else_does(house: House) -> None:
    model = await house.model(max_concurrency=20, retry_times=3)
    executor = await house.executor()
    retry, parked, running = await house.running(model, executor, 3)
    await house.fail(retry, delay=3_600)
    staged = await house.park(parked)
    published, held, ready, unstarted, draft = await house.tasks(model, 5, start_by=soon(60), deadline=soon(900))
    rows = await house.lease(model)
    await house.hold(executor, [row for row in rows if row.id == held])
    await house.unlease([row.id for row in rows if row.id in (ready, unstarted, draft)])
    await house.sql("UPDATE dispatch SET state = 2, due_at = now() + interval '9 days' WHERE id = $1", draft)
    (fresh,) = await house.tasks(model, start_by=soon(60), deadline=soon(900))
    (free,) = await house.tasks(model)
    before = await house.taken(model)
    await pass_by(house, [retry.id, parked.id, running.id, published, held, ready, draft], "deadline")
    await pass_by(house, [unstarted, draft], "start_by")

    failpoints.arm("janitor/before-end-waiting:1:raise")
    with pytest.raises(FailpointRaised):
        await deadlines(house).sweep()
    assert await deadlines(house).sweep() == 7
    assert await deadlines(house).sweep() == 0

    for task in (retry.id, parked.id, published, held, ready):
        assert await ending(house, task) == (TaskStatus.TIMEOUT, False, "deadline_exceeded")
    for task in (unstarted, draft):
        assert await ending(house, task) == (TaskStatus.TIMEOUT, False, "not_started")
    for task in (running.id, fresh, free):
        assert await house.state(task) is not None
    after = await house.taken(model)
    assert before[0] - after[0] == 6, "the retry had no slot"
    assert await house.value("SELECT staged FROM dead_task WHERE task_id = $1", parked.id) == staged.reference
    assert await house.value("SELECT count(*) FROM event WHERE status = 8") == 7


async def test_who_comes_too_late_is_not_started(house: House) -> None:
    model = await house.model(max_concurrency=20)
    executor = await house.executor()
    late, overdue, timely, free = (
        await house.tasks(model, 1, start_by=soon(60))
        + await house.tasks(model, 1, deadline=soon(60))
        + await house.tasks(model, 1, start_by=soon(60), deadline=soon(90))
        + await house.tasks(model)
    )
    rows = await house.lease(model)
    await pass_by(house, [late], "start_by")
    await pass_by(house, [overdue], "deadline")
    started = await house.start(model, executor, rows)
    assert {attempt.id for attempt in started} == {timely, free}
    left = {attempt.id: attempt.deadline_in for attempt in started}
    assert left[free] is None
    assert 80 < (left[timely] or 0) < 91
    until = await house.value("SELECT until - started_at FROM dispatch WHERE id = $1", timely)
    assert until == timedelta(seconds=60), "the model's own time is shorter"
    assert await deadlines(house).sweep() == 2


async def test_a_call_ends_no_later_than_its_task(house: House) -> None:
    model = await house.model()
    deadline = soon(20)
    (task,) = await house.tasks(model, deadline=deadline)
    await house.start(model, await house.executor(), await house.lease(model))
    assert (await house.state(task))["until"] == deadline


async def test_start_by_holds_until_a_call_has_begun(house: House) -> None:
    model = await house.model(max_concurrency=20)
    executor = await house.executor()
    uncalled, called = await house.tasks(model, 2, start_by=soon(60), deadline=soon(600))
    first, second = await house.start(model, executor, await house.lease(model))
    assert (first.id, second.id) == (uncalled, called)
    await pass_by(house, [uncalled, called], "start_by")
    assert await deadlines(house).sweep() == 0, "both have been started"
    back = [(first, GiveBack("drained", 0), False), (second, GiveBack("drained", 0), True)]
    assert len(await house._attempts(executor).release_many(back)) == 2
    assert await deadlines(house).sweep() == 1
    assert await ending(house, uncalled) == (TaskStatus.TIMEOUT, False, "not_started")
    assert await house.state(called) is not None


async def test_a_lost_attempt_counts_as_a_start(house: House) -> None:
    model = await house.model()
    executor = await house.executor()
    (task,) = await house.tasks(model, start_by=soon(60))
    await house.start(model, executor, await house.lease(model))
    await house.sql("UPDATE dispatch SET start_by = now() - interval '1 s'")
    assert len(await house.sweeps.rescue([executor], 3)) == 1
    assert await deadlines(house).sweep() == 0
    assert (await house.state(task))["expires_at"] is None


async def test_what_hangs_past_its_deadline_is_ended_from_outside(house: House) -> None:
    model = await house.model(retry_times=5, max_concurrency=20)
    executor = await house.executor()
    calling, uploading, within = await house.running(model, executor, 3)
    staged = await house.stage(uploading)
    await house.sql("UPDATE dispatch SET deadline = now() - interval '31 s' WHERE id <> $1", within.id)
    await house.sql("UPDATE dispatch SET deadline = now() - interval '29 s' WHERE id = $1", within.id)
    overdue = Overdue(house.sweeps, house.returns, house.wake, house.rng, upload_seconds=86_400)
    assert await overdue.sweep() == 2
    for attempt in (calling, uploading):
        assert await ending(house, attempt.id) == (TaskStatus.TIMEOUT, False, "deadline_exceeded")
    assert await house.value("SELECT staged FROM dead_task WHERE task_id = $1", uploading.id) == staged.reference


async def test_a_running_call_is_aborted_at_the_deadline(rig: Rig) -> None:
    model = await rig.make_model(retry_times=5)
    await rig.executor()
    rig.model.held = asyncio.Event()
    ids = await rig.make_tasks(model, deadline=soon(1.0))
    await rig.take_slots(model, ids)
    await rig.dispatch(model)
    await rig.ended(ids, TaskStatus.TIMEOUT)
    assert (len(rig.model.calls), rig.model.running) == (1, 0)
    (task,) = await rig.sql("SELECT error_code, finished_at >= deadline AS late FROM task")
    assert (task["error_code"], task["late"]) == ("deadline_exceeded", True)
    assert [row["outcome"] for row in await rig.sql("SELECT outcome FROM attempt")] == ["timeout"]
    await rig.nothing_taken(model)


async def test_a_retry_that_cannot_begin_in_time_ends_now(rig: Rig) -> None:
    model = await rig.make_model(retry_times=5)
    await rig.executor()
    rig.model.errors.append(ModelError("model_503", "not now", retryable=True, retry_after=3_600))
    ids = await rig.make_tasks(model, deadline=soon(3_000))
    await rig.dispatch(model)
    await rig.ended(ids, TaskStatus.TIMEOUT)
    (task,) = await rig.sql("SELECT error_code, error_message, now() < deadline AS early FROM task")
    assert (task["error_code"], task["early"]) == ("deadline_exceeded", True)
    assert "not now" in task["error_message"]


async def test_an_upload_ends_at_the_deadline_and_keeps_its_output_for_a_replay(rig: Rig) -> None:
    model = await rig.make_model()
    running = await rig.executor()
    running.results.down = UploadFailed("storage_503", "down", retryable=True)
    ids = await rig.make_tasks(model, deadline=soon(1.0))
    await rig.dispatch(model)
    await rig.ended(ids, TaskStatus.TIMEOUT)
    (dead,) = await rig.sql("SELECT staged, error_code FROM dead_task")
    assert dead["error_code"] == "deadline_exceeded"
    assert list(running.staging.files) == [dead["staged"]]


async def test_a_task_within_its_times_succeeds(rig: Rig) -> None:
    model = await rig.make_model()
    await rig.executor()
    ids = await rig.make_tasks(model, 3, start_by=soon(60), deadline=soon(60))
    await rig.dispatch(model)
    await rig.ended(ids)


async def test_a_job_that_nobody_goes_on_with_ends_all_the_same(house: House) -> None:
    model, executor = await house.model(adapter="test"), await house.executor()
    (task,) = await house.tasks(model, deadline=soon(900))
    (attempt,) = await house.start(model, executor, await house.lease(model))
    jobs = PostgresProviderJobs(house.database)
    await jobs.intend_many([(attempt, JobIntent(intent_key(attempt), "test", True, 60))])
    await jobs.news_many([(attempt, JobNews("p1", "processing", None, "", begun=True))])
    await house.sweeps.rescue([executor], 3)
    await house.sql("UPDATE lane SET paused = true")
    await pass_by(house, [task], "deadline")
    assert await deadlines(house).sweep() == 0, "whoever takes it over looks once more at its provider"
    await house.sql("UPDATE dispatch SET expires_at = now() - interval '1 min'")
    assert await deadlines(house).sweep() == 1
    assert await ending(house, task) == (TaskStatus.TIMEOUT, False, "deadline_exceeded")
    assert await jobs.unwanted_permits(10) == [(attempt.lane, attempt.token)]
    (job,) = await jobs.unwanted(UnwantedLook(10, 10, 60, ["test"], {}))
    assert job.provider_id == "p1"
