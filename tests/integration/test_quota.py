"""Points of users: reserved with the create, given back once at an end without success, and never counted wrong."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from libs.common.adapters.postgres.audit import open_audit_database
from libs.common.adapters.postgres.models import PostgresModels
from libs.common.adapters.postgres.quota import PostgresQuotaBook, PostgresTenants
from libs.common.adapters.postgres.statements import load_statements
from libs.common.adapters.postgres.tasks import PostgresTasks
from libs.common.domain.model import Model
from libs.common.domain.task import TaskStatus
from libs.common.ports_sweeps import Ending, LostAttempt
from libs.common.ports_tasks import Created, IdempotencyKey, LaneClosed, NewTask, OverQuota, Repeated
from services.janitor.sweeps.prune import Prune
from tests.support.house import House


@pytest.fixture
async def books(house: House) -> AsyncIterator[House]:
    """A house whose accounts are in order at the end of every test."""
    yield house
    async with open_audit_database(house.database_url) as audit:
        assert await audit.check("audit_quota", 300) == []


async def limit(house: House, model: Model, points: int, user: str = "c") -> None:
    await house.sql(
        "INSERT INTO quota_limit (tenant_id, user_name, points_per_day) VALUES ($1, $2, $3)",
        model.tenant_id, user, points,
    )  # fmt: skip


async def used(house: House, user: str = "c") -> list[int]:
    rows = await house.sql("SELECT used FROM quota_usage WHERE user_name = $1 ORDER BY day, tenant_id", user)
    return [row["used"] for row in rows]


def priced(model: Model, points: int, **fields: Any) -> NewTask:
    return NewTask(uuid4(), model.tenant_id, model.lane, b"{}", **{"creator": "c", "points": points, **fields})


async def create(house: House, tasks: Sequence[NewTask]) -> list[str]:
    return [type(one).__name__ for one in await PostgresTasks(house.database).create_many(tasks)]


async def test_points_are_reserved_with_the_task_and_noted_on_it(books: House) -> None:
    model = await books.model()
    assert await create(books, [priced(model, 3), priced(model, 4), priced(model, 0)]) == ["Created"] * 3
    assert await used(books) == [7]
    rows = await books.sql("SELECT points, quota_day = (now() AT TIME ZONE 'UTC')::date AS today FROM task ORDER BY id")
    assert [tuple(row) for row in rows] == [(3, True), (4, True), (0, None)]


async def test_of_a_batch_those_that_fit_are_written_and_the_others_leave_nothing(books: House) -> None:
    model, other = await books.model(), await books.model()
    await limit(books, model, 10)
    batch = [priced(model, points) for points in (6, 5, 4, 1)]
    answers = await PostgresTasks(books.database).create_many([*batch, priced(other, 99)])
    assert isinstance(answers[0], Created)
    assert answers[1] == OverQuota(limit=10, used=6)
    assert isinstance(answers[2], Created)
    assert answers[3] == OverQuota(limit=10, used=10)
    assert isinstance(answers[4], Created), "another tenant's user of that name has no limit"
    assert await books.value("SELECT count(*) FROM dispatch") == 3
    assert sorted(await used(books)) == [10, 99]


async def test_a_tenants_limit_holds_for_who_has_none_of_its_own(books: House) -> None:
    model = await books.model()
    await limit(books, model, 5, user="")
    await limit(books, model, 7)
    tasks = [
        priced(model, 6),
        priced(model, 6, creator="d"),
        priced(model, 5, creator="d"),
        priced(model, 6, creator=""),
    ]
    assert await create(books, tasks) == ["Created", "OverQuota", "Created", "OverQuota"]


async def test_an_account_is_one_users_of_one_tenant_and_of_today(house: House) -> None:
    book = PostgresQuotaBook(house.database, "UTC")
    mine, theirs = 1_500_000, 1_500_001
    points = {(mine, "ann", 0): 3, (mine, "bob", 0): 5, (theirs, "ann", 0): 7, (mine, "ann", 1): 11}
    for (tenant, user, days), spent in points.items():
        await house.sql(
            "INSERT INTO quota_usage (tenant_id, user_name, day, used)"
            " VALUES ($1, $2, (now() AT TIME ZONE 'UTC')::date - $3::int, $4)",
            tenant, user, days, spent,
        )  # fmt: skip
    for tenant, user, most in ((mine, "ann", 30), (mine, "", 50), (theirs, "ann", 70)):
        await book.set_limit(tenant, user, most)

    async def told(tenant: int, user: str) -> tuple[int, int | None, bool]:
        spent = await book.today(tenant, user)
        return spent.used, spent.points_per_day, spent.own

    assert await told(mine, "ann") == (3, 30, True)
    assert await told(mine, "bob") == (5, 50, False)
    assert await told(mine, "carl") == (0, 50, False)
    assert await told(theirs, "ann") == (7, 70, True)
    assert await told(theirs, "bob") == (0, None, False)
    assert [(one.user, one.used) for one in await book.limits(mine, None, 9)] == [("", 0), ("ann", 3)]
    assert [one.user for one in await book.limits(mine, "", 9)] == ["ann"]
    assert await book.clear_limit(mine, "ann")
    assert not await book.clear_limit(mine, "ann")
    assert await told(mine, "ann") == (3, 50, False)
    assert await told(theirs, "ann") == (7, 70, True)


async def test_nothing_fits_into_a_limit_of_none(books: House) -> None:
    model = await books.model()
    await limit(books, model, 0)
    assert await create(books, [priced(model, 1), priced(model, 0)]) == ["OverQuota", "Created"]


async def test_many_at_once_never_pass_the_limit(books: House) -> None:
    model = await books.model()
    await limit(books, model, 100)
    batches = [[priced(model, 3, creator=user) for user in ("c", "d", "c")] for _ in range(30)]
    answers = await asyncio.gather(*(create(books, batch) for batch in batches))
    made = [answer for batch in answers for answer in (batch[0], batch[2])]
    assert made.count("Created") == 33
    assert await used(books) == [99]
    assert await used(books, "d") == [90]


async def test_of_two_requests_with_one_key_the_second_is_judged_by_itself_when_the_first_is_refused(
    books: House,
) -> None:
    model = await books.model()
    await limit(books, model, 5)
    dear, cheap = (IdempotencyKey("r", b"1", body) for body in (b"dear", b"cheap"))
    twins = [priced(model, 6, key=dear), priced(model, 6, key=dear)]
    assert await create(books, twins) == ["OverQuota"] * 2
    others = [priced(model, 6, key=dear), priced(model, 5, key=cheap), priced(model, 5, key=cheap)]
    assert await create(books, others) == ["OverQuota", "Created", "Repeated"]
    assert await used(books) == [5]


async def test_a_repeated_request_is_not_charged_and_a_refused_one_may_come_again(books: House) -> None:
    model = await books.model()
    await limit(books, model, 5)
    key, late = (IdempotencyKey("r", name, b"body") for name in (b"1", b"2"))
    tasks = PostgresTasks(books.database)
    first = priced(model, 5, key=key)
    await tasks.create_many([first])
    again, refused = await tasks.create_many([priced(model, 5, key=key), priced(model, 1, key=late)])
    assert again == Repeated(first.public_id, same_body=True)
    assert refused == OverQuota(limit=5, used=5)
    assert await used(books) == [5]
    await books.sql("UPDATE quota_limit SET points_per_day = 6")
    assert isinstance((await tasks.create_many([priced(model, 1, key=late)]))[0], Created)


async def test_a_task_whose_lane_closed_costs_nothing(books: House) -> None:
    model = await books.model()
    await books.sql("UPDATE lane SET closed = true")
    assert (await PostgresTasks(books.database).create_many([priced(model, 5)])) == [LaneClosed()]
    assert await used(books) == [0]


async def test_days_are_those_of_the_time_zone(books: House) -> None:
    model = await books.model()
    for zone in ("Pacific/Kiritimati", "Etc/GMT+12"):  # 26 hours apart: never the same day
        await PostgresTasks(books.database, zone).create_many([priced(model, 2)])
    assert await used(books) == [2, 2]


async def test_an_end_without_success_gives_back_once_and_to_the_day_of_the_create(books: House) -> None:
    model = await books.model(max_concurrency=20, retry_times=3)
    executor = await books.executor()
    ids = await books.tasks(model, 8, points=5)
    await books.sql("UPDATE task SET quota_day = quota_day - 1")
    await books.sql("UPDATE quota_usage SET day = day - 1")
    rows = await books.lease(model)
    by_id = {attempt.id: attempt for attempt in await books.start(model, executor, rows[:5])}
    success, failed, again, lost, parked = (by_id[row.id] for row in rows[:5])
    waiting, refused, closed = (row.id for row in rows[5:])
    await books.unlease([waiting, refused, closed])
    tasks = PostgresTasks(books.database)

    assert await books.finish(success)
    await books.bury(failed)
    await books.bury(failed)  # a second time nothing is there
    assert await used(books) == [35]
    await books.fail(again, delay=60)
    assert await used(books) == [35], "a retry keeps its points"
    assert await books.sweeps.end_running([(LostAttempt(lost.id, lost.public_id, lost.tenant_id, lost.lane, lost.token),
                                            TaskStatus.FAILED, "executor_lost", "")])  # fmt: skip
    await books.park(parked)
    public = [(await books.public([one]))[0] for one in (again.id, parked.id, waiting)]
    assert len(await tasks.cancel_waiting(model.tenant_id, public)) == 3
    assert not await tasks.cancel_waiting(model.tenant_id, public)
    assert await used(books) == [15]
    await books.sql(
        "UPDATE dispatch SET sends = 20, state = 2, due_at = now(), error_code = 'publish_refused' WHERE id = $1",
        refused,
    )
    assert len(await books.queue.bury_refused([refused, closed], "no")) == 1
    version = (await books.state(closed))["version"]
    ending = Ending(closed, version, TaskStatus.FAILED, "model_deleted", "", dead=True)
    assert len(await books.sweeps.end_waiting([ending])) == 1
    assert await used(books) == [5], "the success costs"
    assert sorted(ids) == sorted(row.id for row in rows)


async def test_an_account_that_was_changed_by_hand_holds_no_end_up(house: House) -> None:
    model = await house.model()
    await house.tasks(model, points=5)
    (attempt,) = await house.start(model, await house.executor(), await house.lease(model))
    await house.sql("UPDATE quota_usage SET used = 1")
    await house.bury(attempt)
    assert await used(house) == [0], "never below zero"
    assert (await house.row(attempt.id))["status"] == TaskStatus.FAILED


async def test_cleaned_successes_stay_counted_and_old_accounts_go(books: House) -> None:
    model = await books.model()
    executor = await books.executor()
    await books.tasks(model, 2, points=5)
    good, bad = await books.start(model, executor, await books.lease(model))
    await books.finish(good)
    await books.bury(bad)
    await books.sql("DELETE FROM event")
    assert len(await books.clean(good.id, bad.id)) == 2
    assert [tuple(row) for row in await books.sql("SELECT used, cleaned FROM quota_usage")] == [(5, 5)]
    prune = Prune(books.sweeps, dead_days=30)
    await prune.sweep()
    assert await used(books) == [5]
    await books.sql("UPDATE quota_usage SET day = day - 402")
    assert await prune.sweep() == 1
    assert await used(books) == []


async def test_unlike_orders_of_users_do_not_lock_each_other_out(books: House) -> None:
    model = await books.model()
    users = [f"u{number}" for number in range(20)]
    forth = [priced(model, 1, creator=user) for user in users]
    back = [priced(model, 1, creator=user) for user in reversed(users)]
    answers = await asyncio.gather(*(create(books, batch) for batch in (forth, back)))
    assert answers == [["Created"] * 20] * 2
    again = [[priced(model, 1, creator=user) for user in order] for order in (users, users[::-1]) * 8]
    await asyncio.gather(*(create(books, batch) for batch in again))
    assert {row["used"] for row in await books.sql("SELECT used FROM quota_usage")} == {18}


def test_every_statement_that_ends_tasks_gives_points_back_in_the_same_words() -> None:
    ends, words = set(), set()
    for name, text in load_statements().items():
        if "UPDATE task t SET status" in text and "INSERT INTO event" in text:
            ends.add(name)
            found = re.search(r"\), given_back AS \((.*?)\n\),", text, re.DOTALL)
            words.add(" ".join(found[1].split()) if found else f"{name} gives nothing back")
    assert {"finish_many", "end_waiting", "cancel_waiting", "bury_refused"} <= ends
    assert len(words) == 1, words


async def test_a_new_weight_reaches_dispatchers_with_all_lanes_of_its_tenant(house: House) -> None:
    first = await house.model()
    second, other = await house.model(tenant=first.tenant_id), await house.model()
    gone = await house.model(tenant=first.tenant_id)
    await PostgresModels(house.database).delete(gone.tenant_id, gone.id, "")
    everything = await house.queue.lanes_changed(None)
    since = max(info.changed_at for info in everything) + timedelta(microseconds=1)
    assert await house.queue.lanes_changed(since) == []
    await PostgresTenants(house.database, "UTC").weigh(first.tenant_id, 7)
    changed = await house.queue.lanes_changed(since)
    assert {(info.lane, info.weight) for info in changed} == {(first.lane, 7), (second.lane, 7)}
    again = await house.queue.lanes_changed(None)
    assert {info.lane: info.weight for info in again} == {first.lane: 7, second.lane: 7, other.lane: 1, gone.lane: 7}
