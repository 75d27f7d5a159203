"""Whoever ends a task whose job is still at its provider leaves the mark by which the provider is told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from random import Random

import pytest

from libs.common.adapters.postgres.provider_jobs import PostgresProviderJobs
from libs.common.adapters.postgres.tasks import PostgresTasks
from libs.common.domain.settle import Finish, GiveBack, Retry
from libs.common.domain.task import TaskStatus
from libs.common.ports_attempts import Attempt
from libs.common.ports_provider_jobs import JobIntent, JobNews, UnwantedJob, UnwantedLook
from services.executor.jobs.job import intent_key
from services.janitor.beats import BeatWatch
from services.janitor.sweeps.overdue import Overdue
from services.janitor.sweeps.rescue import Rescue
from services.janitor.sweeps.waits import Cancels, ClosedLanes
from tests.support.house import House


async def submitted(house: House, status: str = "processing") -> Attempt:
    """An attempt whose job is at its provider."""
    model = await house.model(adapter="test", retry_times=3)
    (attempt,) = await house.running(model, await house.executor())
    jobs = PostgresProviderJobs(house.database)
    assert await jobs.intend_many([(attempt, JobIntent(intent_key(attempt), "test", True, 60))])
    assert await jobs.news_many([(attempt, JobNews("p1", status, 10.0, "", begun=True))]) == {attempt.id: ""}
    return attempt


async def unwanted(jobs: PostgresProviderJobs) -> list[UnwantedJob]:
    return await jobs.unwanted(UnwantedLook(10, 10, 60, ["test"], {}))


async def rescued(house: House, attempt: Attempt) -> None:
    row = await house.state(attempt.id)
    assert [one.token for one in await house.sweeps.rescue([row["executor"]], 3)] == [None]  # the permit stays taken
    assert (await house.state(attempt.id))["phase"] == 1


async def canceled_by_its_executor(house: House, attempt: Attempt) -> None:
    await house._attempts(0).finish_many([(attempt, Finish(TaskStatus.CANCELED, "canceled", "m"))])


async def failed_and_retried(house: House, attempt: Attempt) -> None:
    await house._attempts(0).retry_many([(attempt, Retry("c", "m", 1.0, True, timed_out=False))])


async def overdue(house: House, attempt: Attempt) -> None:
    await house.sql("UPDATE dispatch SET until = now() - interval '1 h'")
    sweep = Overdue(house.sweeps, house.returns, house.wake, Random(1), upload_seconds=60)
    assert await sweep.sweep() == 1
    row = await house.row(attempt.id)
    assert (row["status"], row["error_code"]) == (TaskStatus.TIMEOUT, "job_timeout")


async def canceled_while_nobody_ran_it(house: House, attempt: Attempt) -> None:
    await rescued(house, attempt)
    assert await PostgresTasks(house.database).cancel_waiting(attempt.tenant_id, [attempt.public_id])


async def canceled_after_its_rescue(house: House, attempt: Attempt) -> None:
    await rescued(house, attempt)
    await house.sql("INSERT INTO cancel_request (task_id) VALUES ($1)", attempt.id)
    assert await Cancels(house.sweeps, house.endings).sweep() == 1


async def canceled_instead_of_a_rescue(house: House, attempt: Attempt) -> None:
    await house.sql("INSERT INTO cancel_request (task_id) VALUES ($1)", attempt.id)
    await house.sql("UPDATE executor SET stopped_at = now()")
    rescue = Rescue(house.sweeps, house.returns, house.wake, BeatWatch(), house.clock)
    assert await rescue.look() == 1


async def its_model_is_deleted(house: House, attempt: Attempt) -> None:
    await rescued(house, attempt)
    await house.sql("UPDATE lane SET closed = true")
    assert await ClosedLanes(house.sweeps, house.endings).sweep() == 1


async def refused_by_the_broker(house: House, attempt: Attempt) -> None:
    await rescued(house, attempt)
    await house.sql("UPDATE dispatch SET sends = 20, state = 2, due_at = now(), error_code = 'publish_refused'")
    await house.database.fetch("bury_refused", [attempt.id], "m")


ENDS: list[Callable[[House, Attempt], Awaitable[None]]] = [
    canceled_by_its_executor,
    failed_and_retried,
    overdue,
    canceled_while_nobody_ran_it,
    canceled_after_its_rescue,
    canceled_instead_of_a_rescue,
    its_model_is_deleted,
    refused_by_the_broker,
]


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
async def test_the_job_is_closed_and_its_provider_is_to_be_told(
    house: House, end: Callable[[House, Attempt], Awaitable[None]]
) -> None:
    attempt = await submitted(house)
    await end(house, attempt)
    jobs = PostgresProviderJobs(house.database)
    assert await house.value("SELECT count(*) FROM provider_job WHERE ended_at IS NULL") == 0
    assert await jobs.unwanted_permits(10) == [(attempt.lane, attempt.token)]
    assert await jobs.unwanted_permits(10) == []
    (job,) = await unwanted(jobs)
    assert (job.provider_id, job.lane, job.tries) == ("p1", attempt.lane, 1)
    assert 0 <= job.ended_for < 60
    assert await unwanted(jobs) == []  # others leave it alone meanwhile
    await jobs.told([job])
    assert await house.value("SELECT count(*) FROM provider_job WHERE cancel_at IS NOT NULL") == 0


async def test_an_id_that_becomes_known_while_nobody_could_be_told_is_told(house: House) -> None:
    model = await house.model(adapter="test", retry_times=3)
    (attempt,) = await house.running(model, await house.executor())
    jobs = PostgresProviderJobs(house.database)
    await jobs.intend_many([(attempt, JobIntent(intent_key(attempt), "test", True, 60))])
    await canceled_by_its_executor(house, attempt)
    (nameless,) = await unwanted(jobs)
    assert await jobs.named_late(nameless.key, "p1")  # the answer to the submit comes while its provider is looked up
    await jobs.told([nameless])  # that nobody can be told is written after it
    (named,) = await unwanted(jobs)
    assert named.provider_id == "p1"
    await jobs.told([named])
    assert await house.value("SELECT count(*) FROM provider_job WHERE cancel_at IS NOT NULL") == 0


async def test_who_made_no_job_says_nothing_of_one_that_was_named_late(house: House) -> None:
    model = await house.model(adapter="test", retry_times=3)
    (attempt,) = await house.running(model, await house.executor())
    jobs = PostgresProviderJobs(house.database)
    await jobs.intend_many([(attempt, JobIntent(intent_key(attempt), "test", True, 60))])
    assert await jobs.named_late(intent_key(attempt), "p1")  # from an executor that was frozen
    assert await jobs.news_many([(attempt, JobNews("", "failed", None, "", begun=False))]) == {attempt.id: ""}
    await failed_and_retried(house, attempt)
    assert [job.provider_id for job in await unwanted(jobs)] == ["p1"]


async def test_a_job_that_is_over_there_leaves_nobody_to_tell(house: House) -> None:
    attempt = await submitted(house, "failed")
    await failed_and_retried(house, attempt)
    assert await unwanted(PostgresProviderJobs(house.database)) == []


async def test_a_job_that_was_never_made_is_withdrawn_with_its_attempt(house: House) -> None:
    attempt = await submitted(house)
    await house._attempts(0).release_many([(attempt, GiveBack("full", 0.0), False)])
    assert await house.value("SELECT count(*) FROM provider_job") == 0
    row = await house.state(attempt.id)
    assert (row["phase"], row["attempt"]) == (0, 0)
    assert await house.value("SELECT sum(calls)::int FROM stat_delta") == 0


async def test_who_lost_the_attempt_writes_nothing_of_its_job(house: House) -> None:
    attempt = await submitted(house)
    await rescued(house, attempt)
    jobs = PostgresProviderJobs(house.database)
    assert await jobs.news_many([(attempt, JobNews("p2", "queued", 50.0, "", begun=False))]) == {}
    assert await jobs.intend_many([(attempt, JobIntent(intent_key(attempt), "test", True, 60))]) == {}
    assert await jobs.resume_many([attempt]) == {}
    assert await jobs.own_permits([attempt]) == set()
    row = await house.sql("SELECT provider_id, status, unit_progress FROM provider_job")
    assert [tuple(one) for one in row] == [("p1", "processing", 10.0)]


async def test_what_has_ended_says_when_it_was_generated_and_no_percentage_of_the_past(house: House) -> None:
    attempt = await submitted(house)
    await house.stage_several(attempt, b"one")
    (running,) = await PostgresTasks(house.database).find_many(attempt.tenant_id, [attempt.public_id])
    assert running.generated_at
    assert running.unit_progress == 10.0
    assert await house.finish(attempt)
    (ended,) = await PostgresTasks(house.database).find_many(attempt.tenant_id, [attempt.public_id])
    assert (ended.generated_at, ended.unit_progress) == (running.generated_at, None)
