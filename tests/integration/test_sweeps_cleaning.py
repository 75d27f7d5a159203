"""What goes when its time is over, and what is counted: expiry, statistics, pruning, stray files."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from uuid import UUID, uuid4

import pytest

from libs.common.adapters.postgres.tasks import PostgresTasks
from libs.common.runtime import failpoints
from libs.common.runtime.failpoints import FailpointRaised
from services.janitor.sweeps.expiry import Expiry
from services.janitor.sweeps.prune import Prune
from services.janitor.sweeps.statistics import Statistics
from services.janitor.sweeps.strays import Strays
from tests.support.house import House, open_house


def expiry_of(house: House, *, unfetched_days: int = 90, dead_days: int = 30) -> Expiry:
    return Expiry(house.sweeps, house.staging, unfetched_days=unfetched_days, dead_days=dead_days)


async def stored(house: House) -> set[int]:
    return {row["id"] for row in await house.sql("SELECT id FROM task")}


async def test_fetched_tasks_go_when_their_time_is_over_with_all_that_is_theirs(house: House) -> None:
    model = await house.model()
    over, young, unsent = (await house.done(model, 2)) + (await house.done(model, 1))
    await house.sql("UPDATE task SET expire_at = now() - interval '1 s', fetched_at = now() WHERE id <> $1", young.id)
    await house.sql("UPDATE task SET expire_at = now() + interval '1 h' WHERE id = $1", young.id)
    await house.sql("UPDATE task SET finished_at = now() - interval '1 h' WHERE id = $1", over.id)
    # this one's event has not left: nothing that ended about then is deleted
    await house.sql(
        "INSERT INTO event (task_id, version, status, attempt) SELECT id, version, 6, 1 FROM task WHERE id = $1",
        unsent.id,
    )
    failpoints.arm("janitor/before-delete:1:raise")
    with pytest.raises(FailpointRaised):
        await expiry_of(house).fetched()
    assert await expiry_of(house).fetched() == 1
    assert await stored(house) == {young.id, unsent.id}
    for table, column in (("attempt", "task_id"), ("task_input", "task_id"), ("history", "task_id")):
        assert await house.value(f"SELECT count(*) FROM {table} WHERE {column} = $1", over.id) == 0
    await house.sql("DELETE FROM event")
    assert await expiry_of(house).fetched() == 1
    (cleaned,) = await house.sql("SELECT tasks, calls FROM cleaned")
    assert tuple(cleaned) == (2, 2)


async def test_events_that_died_keep_their_tasks_and_stop_no_other(house: House) -> None:
    model = await house.model()
    first, second = await house.done(model, 2)
    await house.sql("UPDATE task SET expire_at = now() - interval '1 s', finished_at = now() - interval '1 h'")
    await house.sql(
        "INSERT INTO dead_event (id, task_id, tenant_id, model_id, version, status, attempt, finished_at, sends,"
        " last_error, dead_at) SELECT 1, id, tenant_id, model_id, 9, 6, 1, now() - interval '40 days', 20, 'no',"
        " now() - interval '40 days' FROM task WHERE id = $1",
        first.id,
    )
    assert await expiry_of(house).fetched() == 1
    assert await stored(house) == {first.id}
    assert await house.clean(first.id, second.id) == []
    assert await Prune(house.sweeps, dead_days=50).sweep() == 0
    assert await Prune(house.sweeps, dead_days=30).sweep() == 1
    assert await expiry_of(house).fetched() == 1


async def test_very_many_tasks_whose_events_died_hold_up_no_other(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.janitor.sweeps.expiry._SLICE", 2)
    monkeypatch.setattr("services.janitor.sweeps.expiry._SLICES", 2)
    model = await house.model()
    *stay, last = [attempt.id for attempt in await house.done(model, 7)]
    await house.sql("UPDATE task SET finished_at = now() - interval '1 h', expire_at = now() - interval '1 s'")
    await house.sql("UPDATE task SET expire_at = now() - interval '1 h' WHERE id <> $1", last)
    await house.sql(
        "INSERT INTO dead_event (id, task_id, tenant_id, model_id, version, status, attempt, finished_at, sends,"
        " last_error) SELECT id, id, tenant_id, model_id, 9, 6, 1, now(), 20, 'no' FROM task WHERE id <> $1",
        last,
    )
    expiry = expiry_of(house)
    assert [await expiry.fetched() for _ in range(2)] == [0, 1]
    assert await stored(house) == set(stay)
    await house.sql("DELETE FROM dead_event")
    assert sum([await expiry.fetched() for _ in range(3)]) == len(stay)


async def test_an_open_task_is_never_deleted(house: House) -> None:
    model = await house.model()
    (attempt,) = await house.running(model, await house.executor())
    assert await house.clean(attempt.id) == []


async def test_successes_that_nobody_fetched_and_canceled_tasks_go_after_their_days(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.janitor.sweeps.expiry._SLICE", 2)
    model = await house.model()
    attempts = await house.done(model, 4)
    ids = [attempt.id for attempt in attempts]
    await house.sql("UPDATE task SET created_at = now() - interval '91 days', finished_at = now() - interval '91 days'")
    await house.sql("UPDATE task SET fetched_at = now() WHERE id = $1", ids[1])
    await house.sql("UPDATE task SET status = 9, files = NULL WHERE id = $1", ids[2])
    await house.sql("UPDATE task SET created_at = now(), finished_at = now() WHERE id = $1", ids[3])
    assert await expiry_of(house, unfetched_days=0, dead_days=99).unfetched() == 0
    never = expiry_of(house, unfetched_days=0)
    assert await never.unfetched() + await never.unfetched() == 1, "a canceled task goes as the dead do"
    assert await stored(house) == {ids[0], ids[1], ids[3]}
    expiry = expiry_of(house)
    assert await expiry.unfetched() + await expiry.unfetched() + await expiry.unfetched() == 1
    assert await stored(house) == {ids[1], ids[3]}


async def test_a_success_that_is_fetched_at_the_last_moment_has_its_time_from_then_on(house: House) -> None:
    model = await house.model()
    (attempt,) = await house.done(model)
    await house.sql("UPDATE task SET created_at = now() - interval '91 days', finished_at = now() - interval '91 days'")
    over, _ = await house.sweeps.unfetched_page(90, 30, 0, 10)
    assert [task.id for task in over] == [attempt.id]
    assert await PostgresTasks(house.database).mark_fetched(model.tenant_id, [attempt.public_id])
    assert await house.sweeps.delete_tasks(over) == []
    await house.sql("UPDATE task SET expire_at = now()")
    assert await house.sweeps.delete_tasks(over) == [attempt.id]


async def test_the_walk_over_what_is_kept_does_not_rest_at_each_page(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it takes months over what nobody fetched within them."""
    monkeypatch.setattr("services.janitor.sweeps.expiry._SLICE", 2)
    *kept, canceled = await house.done(await house.model(), 8)
    await house.sql("UPDATE task SET created_at = now() - interval '40 days', finished_at = now() - interval '40 days'")
    await house.sql("UPDATE task SET status = 9, files = NULL WHERE id = $1", canceled.id)
    assert await expiry_of(house).unfetched() == 1
    assert await stored(house) == {attempt.id for attempt in kept}


async def test_a_round_cleans_more_than_is_made_between_two(house: House) -> None:
    (done,) = await house.done(await house.model(), 1)
    await house.sql("UPDATE task SET expire_at = now() - interval '1 s', finished_at = now() - interval '1 h'")
    await house.sql(
        "INSERT INTO task (id, public_id, tenant_id, model_id, lane, status, created_at, finished_at, expire_at)"
        " SELECT nextval('task_ids'), gen_random_uuid(), tenant_id, model_id, lane, 6, created_at, finished_at,"
        " expire_at FROM task, generate_series(1, 20000) WHERE id = $1",
        done.id,
    )
    assert await expiry_of(house).fetched() == 20_001


async def test_what_was_taken_over_is_found_behind_younger_tasks_of_ours(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tasks of an old gateway keep their ids, which are larger than those of all that ours had made before."""
    monkeypatch.setattr("services.janitor.sweeps.expiry._SLICE", 2)
    ours, taken = (await house.done(await house.model(), 4)), (await house.done(await house.model(), 1))[0]
    await house.sql("UPDATE task SET created_at = now() - interval '91 days', finished_at = now() - interval '91 days'")
    await house.sql("UPDATE task SET created_at = now(), finished_at = now() WHERE id <> $1", taken.id)
    expiry = expiry_of(house)
    assert sum([await expiry.unfetched() for _ in range(5)]) == 0
    await house.sql("INSERT INTO legacy_import VALUES ('old', 'asynch_task', $1, 1)", taken.id)
    expiry = expiry_of(house)
    assert sum([await expiry.unfetched() for _ in range(5)]) == 1
    assert await stored(house) == {attempt.id for attempt in ours}


async def test_dead_tasks_go_after_their_days_and_then_their_files(house: House) -> None:
    model = await house.model()
    old, young = await house.running(model, await house.executor(), 2)
    files = [await house.stage_several(attempt, b"one", b"two") for attempt in (old, young)]
    for attempt in (old, young):
        await house.bury(attempt)
    await house.sql("DELETE FROM event")
    await house.sql("UPDATE task SET finished_at = now() - interval '31 days' WHERE id = $1", old.id)
    await house.sql("UPDATE dead_task SET died_at = now() - interval '31 days' WHERE task_id = $1", old.id)
    assert await expiry_of(house).dead() == 1
    assert await expiry_of(house).dead() == 0
    assert await stored(house) == {young.id}
    assert house.staging.removed == [file.reference for file in files[0]]


async def test_counts_are_folded_once_by_two_janitors(house: House, redis_url: str) -> None:
    model = await house.model()
    await house.running(model, await house.executor(), 3)
    await house.sql(
        "INSERT INTO stat_delta (day, tenant_id, creator, model_id, calls)"
        " SELECT '2026-01-01', tenant_id, creator, model_id, 1 FROM stat_delta"
    )
    failpoints.arm("janitor/before-statistics:1:raise")
    with pytest.raises(FailpointRaised):
        await Statistics(house.sweeps).sweep()
    async with open_house(house.database_url, redis_url) as other:
        moved = await asyncio.gather(Statistics(house.sweeps).sweep(), Statistics(other.sweeps).sweep())
    assert sum(moved) == 2
    rows = await house.sql("SELECT day::text, request_count, creator FROM model_stat ORDER BY day")
    assert [(row["request_count"], row["creator"]) for row in rows] == [(1, "c"), (3, "c")]
    await house.running(model, await house.executor(), 1)
    assert await Statistics(house.sweeps).sweep() == 1
    assert await house.value("SELECT sum(request_count) FROM model_stat") == 5
    assert await Statistics(house.sweeps).sweep() == 0


async def test_old_rows_are_pruned(house: House) -> None:
    model = await house.model()
    (running,) = await house.running(model, await house.executor())
    await house.sql(
        "INSERT INTO idempotency (tenant_id, route, key_hash, body_hash, public_id, created_at)"
        " SELECT 1, 'r', int8send(n), '', $1,"
        " now() - CASE WHEN n > 2 THEN interval '25 h' ELSE interval '23 h' END FROM generate_series(1, 5) n",
        uuid4(),
    )
    await house.sql("INSERT INTO cancel_request (task_id) VALUES ($1), (999999)", running.id)
    await house.sql(
        'INSERT INTO dead_message (topic, partition, "offset", digest, cause, died_at)'
        " VALUES ('t', 0, 1, '', 'c', now() - interval '31 days'), ('t', 0, 2, '', 'c', now() - interval '29 days')"
    )
    await house.sql(
        "INSERT INTO executor (id, name, slots, stopped_at) VALUES (777, 'old', 1, now() - interval '31 days')"
    )
    failpoints.arm("janitor/before-prune:1:raise")
    with pytest.raises(FailpointRaised):
        await Prune(house.sweeps, dead_days=30).sweep()
    assert await Prune(house.sweeps, dead_days=30).sweep() == 4
    assert await house.value('SELECT array_agg("offset") FROM dead_message') == [2]
    assert await house.value("SELECT count(*) FROM idempotency") == 2
    assert await house.value("SELECT array_agg(task_id) FROM cancel_request") == [running.id]
    assert await house.value("SELECT count(*) FROM executor WHERE id = 777") == 0


async def test_each_kind_of_old_rows_is_pruned_as_fast_as_tasks_can_make_them(house: House) -> None:
    (done,) = await house.done(await house.model(), 1)
    await house.sql("TRUNCATE delivery, delivery_try")
    await house.sql(
        "INSERT INTO delivery (tenant_id, webhook_id, line, url, task_id, message_id, type, body, status, next_at,"
        " ended_at) SELECT 1, 1, '', '', gen_random_uuid(), '', '', '', 'delivered', NULL, now() - interval '15 days'"
        " FROM generate_series(1, 2500)"
    )
    await house.sql(
        "INSERT INTO dead_event (id, task_id, tenant_id, model_id, version, status, attempt, finished_at, sends,"
        " last_error, dead_at) SELECT n, id, tenant_id, model_id, n, 6, 1, now(), 20, 'no', now() - interval '31 days'"
        " FROM task, generate_series(1, 2500) n WHERE id = $1",
        done.id,
    )
    assert await Prune(house.sweeps, dead_days=30).sweep() == 5_000


@dataclass(frozen=True)
class Entry:
    reference: str
    task: UUID
    age: float
    finished: bool


async def test_staged_files_of_nobody_go_and_those_of_open_and_dead_tasks_stay(house: House) -> None:
    model = await house.model()
    open_, dead, done = await house.running(model, await house.executor(), 3)
    files = {attempt.id: await house.stage_several(attempt, b"one", b"two") for attempt in (dead, done)}
    await house.bury(dead)
    await house.finish(done)
    stray = f"local:{uuid4().hex}-1-00000000"
    house.staging.entries_ = [
        *(Entry(file.reference, dead.public_id, 9_999, True) for file in files[dead.id]),
        *(Entry(file.reference, done.public_id, 9_999, True) for file in files[done.id]),
        Entry("local:unrecorded", open_.public_id, 9_999, True),
        Entry(stray, uuid4(), 9_999, True),
        Entry("local:young", uuid4(), 50, True),
        Entry("local:growing", open_.public_id, 80_000, False),
        Entry("local:left", uuid4(), 61, False),
    ]
    assert await Strays(house.sweeps, house.staging).sweep() == 4
    assert set(house.staging.removed) == {file.reference for file in files[done.id]} | {stray, "local:left"}
