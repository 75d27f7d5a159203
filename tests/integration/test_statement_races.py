"""Two statements on one dispatch row at the same moment: the second sees what the first has made of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar
from uuid import uuid4

import asyncpg
import pytest

from libs.common.adapters.postgres.provider_jobs import PostgresProviderJobs
from libs.common.domain.errors import Conflict
from libs.common.domain.output import StagedFile
from libs.common.domain.settle import CallAgain, Finish, GiveBack
from libs.common.domain.task import TaskStatus
from libs.common.ports_attempts import Attempt, Claim
from libs.common.ports_provider_jobs import JobIntent, JobNews
from libs.common.ports_sweeps import Ending, LostAttempt, OverdueAttempt
from tests.support.queue_desk import TENANT, QueueDesk, open_desk

Answer = TypeVar("Answer")
Second = Callable[[QueueDesk, Attempt], Coroutine[Any, Any, object]]
#: A statement's name and its arguments.
Call = tuple[Any, ...]

EXECUTOR = 7
STAGED = StagedFile("local:/a/b", 10, b"h" * 32, "png", "image/png")


@pytest.fixture
async def desk(database_url: str) -> AsyncIterator[QueueDesk]:
    async with open_desk(database_url) as desk:
        yield desk


async def overtaken(desk: QueueDesk, second: Coroutine[Any, Any, Answer], statement: Call) -> Answer:
    """Run `statement`, and before it is committed `second`, which must wait for it; the answer of `second`."""
    async with desk.database.transaction() as first:
        await first.fetch(*statement)
        waiting = asyncio.create_task(second)
        async with asyncio.timeout(5):
            while not await _somebody_waits(desk):
                assert not waiting.done(), f"it did not wait: {await waiting}"
    return await asyncio.wait_for(waiting, 5)


async def passed_over(desk: QueueDesk, sweep: Callable[[], Coroutine[Any, Any, list[Answer]]], statement: Call) -> None:
    """Run `statement`, and before it is committed `sweep`, which waits for nobody's row and takes none of it."""
    async with desk.database.transaction() as first:
        await first.fetch(*statement)
        assert await sweep() == []  # it would fail after 2 s if it waited


async def _somebody_waits(desk: QueueDesk) -> bool:
    return bool(
        await desk.sql(
            "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' LIMIT 1"
        )
    )


async def leased(desk: QueueDesk, count: int = 1) -> list[int]:
    lane = await desk.lane(concurrency=count)
    await desk.create(lane, count)
    return await desk.lease(lane)


async def running(desk: QueueDesk) -> Attempt:
    """A task whose only attempt runs."""
    (attempt,) = await desk.start(await leased(desk))
    return attempt


def start_of(desk: QueueDesk, id_: int) -> Call:
    return "start_many", [id_], [desk.leases[id_]], [uuid4()], [60], EXECUTOR, "UTC", [0]


def success_of(attempt: Attempt) -> Call:
    one: list[object] = [None]
    return (
        "finish_many",
        [attempt.id],
        [attempt.token],
        [6],
        one,
        one,
        ["u"],
        ["png"],
        [1],
        one,
        [False],
        [True],
        "UTC",
    )


def staged_of(attempt: Attempt) -> Call:
    return (
        "generated_many",
        [attempt.id],
        [attempt.token],
        ["local:/a/b"],
        [1],
        [b"h"],
        ["png image/png"],
        [None],
        [None],
    )


async def _retry_overdue(desk: QueueDesk, attempt: Attempt) -> object:
    overdue = OverdueAttempt(
        attempt.id,
        attempt.public_id,
        attempt.tenant_id,
        attempt.lane,
        attempt.token,
        attempt.phase,
        retries=0,
        lost=0,
        age=9.0,
        upload_age=0.0,
        retry_times=1,
        retry_queue_max_seconds=0,
    )
    return await desk.sweeps.retry_running([(overdue, 1.0, True, "timeout", "too long")])


async def _end_lost(desk: QueueDesk, attempt: Attempt) -> object:
    lost = LostAttempt(attempt.id, attempt.public_id, attempt.tenant_id, attempt.lane, attempt.token)
    return await desk.sweeps.end_running([(lost, TaskStatus.FAILED, "executor_lost", "gone")])


async def _hand_back(desk: QueueDesk, attempt: Attempt) -> object:
    return await desk.executor.release_many([(attempt, GiveBack("drain", 0.0), False)])


async def _end_again(desk: QueueDesk, attempt: Attempt) -> object:
    return await desk.executor.finish_many([(attempt, Finish(TaskStatus.CANCELED, "canceled", "by the caller"))])


@pytest.mark.parametrize("second", [_retry_overdue, _end_lost, _hand_back, _end_again])
async def test_the_first_end_wins_and_is_announced_once(desk: QueueDesk, second: Second) -> None:
    attempt = await running(desk)
    answer = await overtaken(desk, second(desk, attempt), success_of(attempt))
    assert not answer
    await _ended_once(desk, attempt)


async def test_an_end_that_a_rescue_meets_wins_and_is_announced_once(desk: QueueDesk) -> None:
    attempt = await running(desk)
    await passed_over(desk, lambda: desk.sweeps.rescue([EXECUTOR], 3), success_of(attempt))
    assert await desk.sweeps.rescue([EXECUTOR], 3) == []
    await _ended_once(desk, attempt)


async def _ended_once(desk: QueueDesk, attempt: Attempt) -> None:
    assert await desk.row(attempt.id) is None
    assert [row["outcome"] for row in await desk.sql("SELECT outcome FROM attempt")] == ["success"]
    assert [row["status"] for row in await desk.sql("SELECT status FROM event")] == [6]
    assert [row["calls"] for row in await desk.sql("SELECT calls FROM stat_delta")] == [1]
    assert await desk.history(attempt.id) == []


async def test_a_rescue_keeps_the_output_that_was_staged_at_that_moment(desk: QueueDesk) -> None:
    attempt = await running(desk)
    await passed_over(desk, lambda: desk.sweeps.rescue([EXECUTOR], 3), staged_of(attempt))
    (rescued,) = await desk.sweeps.rescue([EXECUTOR], 3)
    assert rescued.token == attempt.token
    row = await desk.row(attempt.id)
    assert row is not None
    assert (row["state"], row["phase"], row["staged"], row["lost"], row["token"]) == (0, 2, "local:/a/b", 0, None)
    assert await desk.sql("SELECT * FROM attempt") == [], "the attempt goes on where it is"


@pytest.mark.parametrize("runs", [True, False])
async def test_a_rescue_that_meets_a_move_leaves_what_another_has_by_then(desk: QueueDesk, runs: bool) -> None:
    (id_,) = await leased(desk)
    if runs:
        await desk.start([id_])
    else:
        await desk.executor.hold_many([(id_, desk.leases[id_])])
    has = "executor = 8, token = gen_random_uuid()" if runs else "held_by = 8"
    connection = await asyncpg.connect(desk.url)
    try:
        async with connection.transaction():
            await connection.execute(f"UPDATE dispatch SET lease = lease + 1, {has}")
            assert await desk.sweeps.rescue([EXECUTOR], 3) == []
        assert await desk.sweeps.rescue([EXECUTOR], 3) == []
    finally:
        await connection.close()
    row = await desk.row(id_)
    assert row is not None
    assert (row["state"], row["executor"] if runs else row["held_by"]) == (1, 8)


async def test_an_attempt_that_is_overdue_keeps_the_output_that_was_staged_at_that_moment(desk: QueueDesk) -> None:
    attempt = await running(desk)
    assert await overtaken(desk, _retry_overdue(desk, attempt), staged_of(attempt)) == set()
    row = await desk.row(attempt.id)
    assert row is not None
    assert (row["phase"], row["staged"], row["token"]) == (2, "local:/a/b", attempt.token)
    assert await desk.sql("SELECT * FROM attempt") == []


async def test_a_cancel_that_meets_a_start_becomes_a_request(desk: QueueDesk) -> None:
    (id_,) = await leased(desk)
    public_id = await desk.public_id(id_)
    assert await overtaken(desk, desk.tasks.cancel_waiting(TENANT, [public_id]), start_of(desk, id_)) == []
    assert await desk.tasks.request_cancel(TENANT, [public_id]) == 1
    row = await desk.row(id_)
    assert row is not None
    assert row["token"] is not None


async def test_a_request_to_cancel_that_meets_a_move_records_what_it_came_to(desk: QueueDesk) -> None:
    attempt = await running(desk)
    ask = desk.tasks.request_cancel
    back = ("release_started", [attempt.id], [attempt.token], [0.0], [False], ["staging_full"], "UTC")
    assert await overtaken(desk, ask(TENANT, [attempt.public_id]), back) == 0, "nobody runs it any more"
    assert await desk.sql("SELECT 1 FROM cancel_request") == []
    (again,) = await desk.start(await desk.lease(attempt.lane))
    ((version,),) = await desk.sql("SELECT version FROM dispatch")
    assert await overtaken(desk, ask(TENANT, [attempt.public_id]), staged_of(again)) == 1
    steps = await desk.sql("SELECT kind, version FROM history ORDER BY id")
    assert [row["kind"] for row in steps] == ["release", "cancel"]
    assert steps[1]["version"] == version + 1


async def test_a_start_that_meets_an_end_starts_and_counts_nothing(desk: QueueDesk) -> None:
    (id_,) = await leased(desk)
    row = await desk.row(id_)
    assert row is not None
    end = ("end_waiting", [id_], [row["version"]], [8], ["wait_timeout"], ["too long"], [True])
    assert await overtaken(desk, desk.start([id_]), end) == []
    assert await desk.sql("SELECT * FROM stat_delta") == []
    assert await desk.sql("SELECT * FROM attempt") == []


async def test_a_row_that_is_being_started_or_held_is_neither_given_back_nor_published_again(desk: QueueDesk) -> None:
    first, second, third = await leased(desk, 3)
    lease = desk.leases[first]
    hold = ("hold_many", [second], [lease], EXECUTOR)
    assert await overtaken(desk, desk.queue.give_back(lease, [first]), start_of(desk, first)) == []
    assert await overtaken(desk, desk.queue.give_back(lease, [second]), hold) == []
    await desk.queue.close_leases([lease])
    await passed_over(desk, lambda: desk.sweeps.republish_lost(0.0, 10), start_of(desk, third))
    assert await desk.sweeps.republish_lost(0.0, 10) == [], "the second is held"
    assert [row["kind"] for row in await desk.sql("SELECT kind FROM history")] == []


@pytest.mark.parametrize("statement", ["start_many", "hold_many"])
async def test_a_send_that_was_refused_and_arrived_all_the_same_is_not_put_off(desk: QueueDesk, statement: str) -> None:
    (id_,) = await leased(desk)
    lease = desk.leases[id_]
    arrived: Call = start_of(desk, id_) if statement == "start_many" else (statement, [id_], [lease], EXECUTOR)
    refused = desk.queue.postpone_refused([(id_, lease, 60.0, "not enough replicas")])
    assert await overtaken(desk, refused, arrived) == []
    row = await desk.row(id_)
    assert row is not None
    assert (row["state"], row["lease"], row["due_at"]) == (1, lease, None)


async def test_healing_waits_for_nobodys_row(desk: QueueDesk) -> None:
    # It takes rows in another order than batches by id do: waiting, the two could deadlock.
    busy, idle = await leased(desk, 2)
    async with desk.database.transaction() as other:
        await other.fetch(*start_of(desk, busy))
        healed = await asyncio.wait_for(desk.sweeps.heal_leases(0.0), 2)
    assert [row.id for row in healed] == [idle]
    row = await desk.row(busy)
    assert row is not None
    assert row["token"] is not None


async def test_a_row_that_healing_left_is_published_again(desk: QueueDesk) -> None:
    (id_,) = await leased(desk)
    other = await asyncpg.connect(desk.url)
    try:
        async with other.transaction():
            await other.execute("SELECT 1 FROM dispatch WHERE id = $1 FOR UPDATE", id_)
            assert await desk.sweeps.heal_leases(0.0) == []
    finally:
        await other.close()
    assert [row.id for row in await desk.sweeps.republish_lost(0.0, 10)] == [id_]


async def test_one_message_twice_in_a_batch_starts_and_counts_once(desk: QueueDesk) -> None:
    (id_,) = await leased(desk)
    claims = [Claim(id_, lease, uuid4(), 60) for lease in (desk.leases[id_], desk.leases[id_], desk.leases[id_] - 1)]
    (attempt,) = await desk.executor.start_many(claims)
    assert attempt.number == 1
    assert [row["calls"] for row in await desk.sql("SELECT calls FROM stat_delta")] == [1]


async def test_what_is_handed_back_for_a_while_is_no_draft(desk: QueueDesk) -> None:
    attempt = await running(desk)
    await desk.sql("UPDATE dispatch SET entered_at = now() - interval '1 hour'")
    await desk.executor.release_many([(attempt, GiveBack("staging_full", 5.0), False)])
    (view,) = await desk.tasks.find_many(TENANT, [attempt.public_id])
    assert view.status is TaskStatus.QUEUED, "as far as it had come before"
    (row,) = await desk.sweeps.waiting_page(0, 10, 86_400)
    assert not row.draft
    await desk.sql("UPDATE dispatch SET due_at = now()")
    await desk.sweeps.promote_due(10)
    (row,) = await desk.sweeps.waiting_page(0, 10, 86_400)
    assert row.waited >= 3600, "its wait goes on"


async def test_a_cancel_that_the_janitor_carries_out_is_remembered(desk: QueueDesk) -> None:
    attempt = await running(desk)
    assert await desk.tasks.request_cancel(TENANT, [attempt.public_id]) == 1
    await desk.executor.release_many([(attempt, GiveBack("staging_full", 5.0), False)])
    ((id_, version),) = await desk.sweeps.requested_waiting(10)
    ending = Ending(id_, version, TaskStatus.CANCELED, "canceled", "canceled by the caller", dead=False)
    assert len(await desk.sweeps.end_waiting([ending])) == 1
    assert await desk.history(id_) == ["cancel", "release", "cancel"], "asked for, and carried out"


async def test_attempts_have_one_row_each_however_long_a_task_lives(desk: QueueDesk) -> None:
    lane = await desk.lane()
    (id_,) = await desk.create(lane)
    versions = [1]

    async def again() -> Attempt:
        assert await desk.lease(lane) == [id_]
        (attempt,) = await desk.start([id_])
        versions.extend(row["version"] for row in await desk.sql("SELECT version FROM dispatch"))
        return attempt

    await again()
    await desk.sweeps.rescue([EXECUTOR], 3)  # 1 is lost
    handed_back = await again()
    await desk.executor.release_many([(handed_back, GiveBack("drain", 0.0), False)])  # 2 never was
    staged = await again()  # 2
    await desk.executor.generated_many([(staged, [STAGED])])
    await desk.sweeps.rescue([EXECUTOR], 3)  # 2 goes on
    staging_lost = await again()
    await desk.executor.call_again_many([(staging_lost, CallAgain("gone"))])  # 2 is over
    drained = await again()
    await desk.executor.release_many([(drained, GiveBack("drain", 0.0), True)])  # 3 was called
    last = await again()  # 4
    await desk.executor.finish_many([(last, Finish(TaskStatus.SUCCESS))])
    rows = await desk.sql("SELECT attempt, outcome FROM attempt ORDER BY attempt")
    assert [tuple(row) for row in rows] == [(1, "lost"), (2, "staging_lost"), (4, "success")]
    (task,) = await desk.sql("SELECT attempt, version FROM task WHERE id = $1", id_)
    calls = await desk.sql("SELECT sum(calls) AS calls FROM stat_delta")
    assert task["attempt"] == calls[0]["calls"] == 4
    versions.append(task["version"])
    assert versions == sorted(set(versions))


async def test_of_two_first_reads_at_once_one_is_the_first(desk: QueueDesk) -> None:
    attempt = await running(desk)
    await desk.executor.finish_many([(attempt, Finish(TaskStatus.SUCCESS))])
    reads = await asyncio.gather(*(desk.tasks.mark_fetched(TENANT, [attempt.public_id]) for _ in range(4)))
    assert sorted(map(len, reads)) == [0, 0, 0, 1]
    (task,) = await desk.sql("SELECT expire_at - fetched_at AS kept FROM task")
    assert task["kept"].total_seconds() == 86_400


async def test_a_job_is_begun_by_no_adapter_that_its_model_had_until_just_now(desk: QueueDesk) -> None:
    attempt = await running_job(desk)
    jobs, intent = PostgresProviderJobs(desk.database), JobIntent(uuid4(), "test", True, 60)
    connection = await asyncpg.connect(desk.url)
    try:
        async with connection.transaction():
            await connection.execute("UPDATE model SET adapter = 'cog'")
            intending = asyncio.create_task(jobs.intend_many([(attempt, intent)]))
            async with asyncio.timeout(5):
                while not await _somebody_waits(desk):
                    assert not intending.done()
        assert await intending == {attempt.id: None}
    finally:
        await connection.close()
    row = await desk.row(attempt.id)
    assert row is not None
    assert (row["phase"], row["token"]) == (0, attempt.token)
    assert await desk.sql("SELECT 1 FROM provider_job") == []


async def test_a_model_keeps_its_adapter_when_a_job_is_just_being_begun(desk: QueueDesk) -> None:
    attempt = await running_job(desk)
    (model,) = desk.lanes.values()
    intent = "intend_jobs", [attempt.id], [attempt.token], [uuid4()], ["test"], [True], [60], 600
    with pytest.raises(Conflict, match="its adapter 'test'") as refused:
        await overtaken(desk, desk.models.update(model, "x", {"adapter": "cog"}), intent)
    assert refused.value.code == "model_jobs_open"
    assert [tuple(row) for row in await desk.sql("SELECT adapter, version FROM model")] == [("test", model.version)]
    assert await desk.models.update(model, "x", {"poll_seconds": 9}) is not None


@pytest.mark.parametrize("end", [_retry_overdue, _end_lost])
async def test_a_job_that_is_just_being_begun_ends_with_its_attempt(desk: QueueDesk, end: Second) -> None:
    attempt = await running_job(desk)
    intent = "intend_jobs", [attempt.id], [attempt.token], [uuid4()], ["test"], [True], [60], 600
    assert await overtaken(desk, end(desk, attempt), intent) == {attempt.id}
    (job,) = await desk.sql("SELECT ended_at IS NULL AS open, cancel_at IS NOT NULL AS unwanted FROM provider_job")
    assert tuple(job) == (False, True), "else nobody ever tells its provider, and its permit is never free"


@pytest.mark.parametrize(("named", "told", "then"), [("p2", "p1", ("p2", "queued")), ("", "", ("p1", "intended"))])
async def test_who_writes_of_a_job_sees_that_it_is_just_being_named_by_another(
    desk: QueueDesk, named: str, told: str, then: tuple[str, str]
) -> None:
    attempt, jobs, key = await running_job(desk), PostgresProviderJobs(desk.database), uuid4()
    await jobs.intend_many([(attempt, JobIntent(key, "test", True, 60))])
    news = JobNews(named, "queued", None, "", begun=False)
    assert await overtaken(desk, jobs.news_many([(attempt, news)]), ("job_named_late", key, "p1")) == {attempt.id: told}
    (row,) = await desk.sql("SELECT provider_id, status FROM provider_job")
    assert tuple(row) == then


async def running_job(desk: QueueDesk) -> Attempt:
    """A running attempt of a model with an adapter of jobs."""
    lane = await desk.lane(adapter="test")
    await desk.create(lane)
    (id_,) = await desk.lease(lane)
    (attempt,) = await desk.executor.start_many([Claim(id_, desk.leases[id_], uuid4(), 60, job=True)])
    return attempt


async def _lost(desk: QueueDesk, id_: int) -> Call:
    return "rescue_running", [EXECUTOR], 3


async def _ended_from_outside(desk: QueueDesk, id_: int) -> Call:
    (row,) = await desk.sql("SELECT token FROM dispatch WHERE id = $1", id_)
    one: list[object] = [None]
    return "finish_many", [id_], [row["token"]], [8], ["c"], ["m"], one, one, one, one, [True], [True], "UTC"


async def _retried_from_outside(desk: QueueDesk, id_: int) -> Call:
    (row,) = await desk.sql("SELECT token FROM dispatch WHERE id = $1", id_)
    return "retry_many", [id_], [row["token"]], [1.0], [True], ["c"], ["m"], [True], [True], "UTC"


@pytest.mark.parametrize(
    ("end", "staged"),
    [(_lost, False), (_ended_from_outside, False), (_ended_from_outside, True), (_retried_from_outside, False)],
)
async def test_an_attempt_that_goes_on_while_a_janitor_begins_to_end_it_ends_after_all_that_it_did(
    desk: QueueDesk, end: Callable[[QueueDesk, int], Coroutine[Any, Any, Call]], staged: bool
) -> None:
    (id_,) = await leased(desk)
    async with desk.database.transaction() as janitor:
        await janitor.fetch("hold_attempts", [])  # its instant is this one
        (attempt,) = await desk.start([id_])
        if staged:
            await desk.database.fetch(*staged_of(attempt))
        await janitor.fetch(*await end(desk, id_))
    disorder = "SELECT 1 FROM attempt WHERE started_at > ended_at OR generated_at > ended_at"
    assert await desk.sql(disorder) == [], "the audit takes it for a broken invariant"
