"""Somebody keeps old rows locked in a forgotten transaction: they are cleaned later, all others now."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest

from libs.common.adapters.postgres.control import PostgresPresence
from libs.common.adapters.postgres.series import PostgresSeries
from libs.common.ports_insight import NO_BROKER
from services.janitor.sweeps.expiry import Expiry
from services.janitor.sweeps.prune import Prune
from tests.support.graves import died
from tests.support.house import House
from tests.support.locks import kept_by


async def test_other_dead_tasks_are_cleaned_whichever_of_its_rows_is_locked(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.janitor.sweeps.expiry._SLICE", 1)
    first, second, other = [attempt.id for attempt in await died(house, await house.model(), 3)]
    await house.sql("UPDATE task SET finished_at = now() - interval '31 days'")
    await house.sql("UPDATE dead_task SET died_at = now() - interval '40 days' + make_interval(secs => task_id)")
    expiry = Expiry(house.sweeps, house.staging, unfetched_days=90, dead_days=30)
    kept = f"dead_task SET version = version WHERE task_id = {second}"
    async with kept_by(house, f"task SET version = version WHERE id = {first}"), kept_by(house, kept):
        assert await expiry.dead() == 1
        assert {row["id"] for row in await house.sql("SELECT id FROM task")} == {first, second}, other
    assert await expiry.dead() == 2


#: Two rows of each kind that are pruned, and how the first of them is found.
OLD_ROWS = {
    "cancel_request": ("(task_id) SELECT 99990 + n", "task_id = 99991"),
    "dead_event": (
        "(id, task_id, tenant_id, model_id, version, status, attempt, finished_at, sends, last_error, dead_at)"
        " SELECT n, n, 1, 1, 1, 6, 1, now(), 20, 'no', now() - interval '31 days'",
        "id = 1",
    ),
    "dead_message": (
        '(topic, "partition", "offset", digest, cause, died_at)'
        " SELECT 't', 0, n, '', 'c', now() - interval '31 days'",
        '"offset" = 1',
    ),
    "delivery": (
        "(tenant_id, webhook_id, line, url, task_id, message_id, type, body, status, next_at, ended_at, dead_at)"
        " SELECT 1, n, '', '', gen_random_uuid(), '', '', '', s, NULL, at, CASE s WHEN 'dead' THEN at END"
        " FROM (SELECT now() - interval '31 days' AS at, unnest('{delivered,dead}'::text[]) AS s) x,",
        "webhook_id = 1",
    ),
    "executor": ("(id, name, slots, stopped_at) SELECT 990 + n, n, 1, now() - interval '31 days'", "id = 991"),
    "idempotency": (
        "(tenant_id, route, key_hash, body_hash, public_id, created_at)"
        " SELECT n, 'r', '', '', gen_random_uuid(), now() - interval '25 h'",
        "tenant_id = 1",
    ),
    "job_callback": ("(task_id, attempt, headers, body) SELECT n, 1, '{}', ''", "task_id = 1"),
    "op_log": ("(tenant_id, success, created_at) SELECT n, false, now() - interval '31 days'", "tenant_id = 1"),
    "pause": ("(scope, tenant_id, paused_by, ended) SELECT 'tenant', n, 'p', '2001-01-01'", "tenant_id = 1"),
    "quota_usage": ("(tenant_id, user_name, day) SELECT n, 'u', '2001-01-01'", "tenant_id = 1"),
    "series": (
        "(scope, subject, step, at, success, failed, timeout, canceled, lost, wait_at, wait_n, run_at, run_n)"
        " SELECT 2, n, 60, '2001-01-01', 0, 0, 0, 0, 0, '{}', '{}', '{}', '{}'",
        "subject = 1",
    ),
    "webhook": (
        "(tenant_id, kind, url, secrets, deleted_at) SELECT n, 'endpoint', 'u', '', '2001-01-01'",
        "tenant_id = 1",
    ),
}


async def test_other_old_rows_are_pruned(house: House) -> None:
    prune, series = Prune(house.sweeps, dead_days=30), PostgresSeries(house.database)
    async with AsyncExitStack() as locks:
        for table, (rows, first) in OLD_ROWS.items():
            of_two = "generate_series(1, 2) n"
            await house.sql(f"INSERT INTO {table} {rows} {of_two if rows.endswith(',') else 'FROM ' + of_two}")
            kept = await house.value(f"SELECT count(*) FROM {table} WHERE {first}")
            column = first.split(" = ")[0]
            await locks.enter_async_context(kept_by(house, f"{table} SET {column} = {column} WHERE {first}", kept))
        await prune.sweep()
        await house.sweeps.prune_operations(30, 0, 10)
        await series.prune(48, 400, 10)
        for table, (_, first) in OLD_ROWS.items():
            left = [row["first"] for row in await house.sql(f"SELECT {first} AS first FROM {table}")]
            assert left, table
            assert all(left), table
    await prune.sweep()
    await house.sweeps.prune_operations(30, 0, 10)
    await series.prune(48, 400, 10)
    assert [table for table in OLD_ROWS if await house.value(f"SELECT count(*) FROM {table}")] == []


async def test_processes_say_that_they_live_beside_a_locked_one_that_is_long_gone(house: House) -> None:
    presence = PostgresPresence(house.database)
    gone = await presence.beat(None, "janitor", "gone", "test", NO_BROKER)
    await house.sql("UPDATE process SET beat_at = now() - interval '2 days'")
    async with kept_by(house, f"process SET version = version WHERE id = {gone}"):
        number = await presence.beat(None, "janitor", "here", "test", NO_BROKER)
        assert await presence.beat(number, "janitor", "here", "test", NO_BROKER) == number
    await presence.beat(number, "janitor", "here", "test", NO_BROKER)
    assert [row["id"] for row in await house.sql("SELECT id FROM process")] == [number]
