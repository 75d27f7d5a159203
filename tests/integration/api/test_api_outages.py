"""Stores that are away: 503 fast, with Retry-After, nothing half done; and everything back without a hand."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from libs.common.adapters.postgres.migrate import upgrade
from libs.common.adapters.redis import keys
from libs.common.embedded.postgres import EmbeddedPostgres
from libs.common.embedded.redis import EmbeddedRedis
from libs.common.runtime import failpoints
from tests.support import servers
from tests.support.api import DEAD_POSTGRES, DEAD_REDIS, Api, Tenant, running_api, until_true

pytestmark = pytest.mark.asyncio(loop_scope="package")


async def assert_unavailable(answer: Any, began: float, code: str = "unavailable") -> None:
    assert (answer.status_code, answer.json()["code"]) == (503, code), answer.text
    assert int(answer.headers["retry-after"]) >= 1
    assert time.monotonic() - began < 5


async def ready(api: Api) -> dict[str, str]:
    answer = await api.client.get("/readyz")
    checks: dict[str, str] = answer.json()["checks"]
    assert (answer.status_code == 200) == all(verdict == "ok" for verdict in checks.values())
    return checks


async def test_without_redis_nothing_is_accepted_and_reading_goes_on(tenant: Tenant, stores: tuple[str, str]) -> None:
    known = await tenant.submit(key="k")
    task = known.json()["id"]
    async with running_api(stores[0], DEAD_REDIS) as api:
        there = Tenant(api, tenant.id, tenant.key)
        began = time.monotonic()
        await assert_unavailable(await there.submit(), began)
        began = time.monotonic()
        whole = await there.call("POST", "/v1/tasks/batch", json={"tasks": [{"model": "m"}] * 3})
        await assert_unavailable(whole, began)
        part = await there.call("POST", "/v1/tasks/batch", json={"tasks": [{"model": "m"}, {"model": "x"}]})
        assert part.status_code == 207
        assert [item["http_status"] for item in part.json()["items"]] == [503, 404]
        assert len(await tenant.stored()) == 1
        assert (await there.call("GET", f"/v1/tasks/{task}")).status_code == 200
        assert (await there.call("GET", "/v1/tasks")).status_code == 200
        # A repeated request was accepted before: Redis is not needed to say so.
        replay = await there.submit(key="k")
        assert (replay.status_code, replay.json()) == (202, known.json())
        # What waits can be canceled; its slot is left to reconcile.
        assert (await there.call("POST", f"/v1/tasks/{task}/cancel")).json()["verdict"] == "canceled"
        assert (await ready(api))["redis"] != "ok"
        assert (await api.client.get("/livez")).status_code == 200
    assert await tenant.slots() == 1


async def test_without_postgres_every_call_is_refused_fast(tenant: Tenant, stores: tuple[str, str]) -> None:
    async with running_api(DEAD_POSTGRES, stores[1], truth=stores[0]) as api:
        there = Tenant(api, tenant.id, tenant.key)
        for method, path in (("POST", "/v1/tasks"), ("GET", "/v1/tasks"), ("GET", "/v1/models/m")):
            began = time.monotonic()
            await assert_unavailable(await there.call(method, path), began)
        assert (await ready(api))["postgres"] != "ok"
        assert (await api.client.get("/livez")).status_code == 200
        assert (await api.client.get("/openapi.json")).status_code == 200


async def test_the_old_routes_say_it_in_their_envelope(tenant: Tenant, stores: tuple[str, str]) -> None:
    async with running_api(DEAD_POSTGRES, stores[1], truth=stores[0]) as api:
        there = Tenant(api, tenant.id, tenant.key)
        for method, path in (
            ("POST", "/task/createTask"),
            ("GET", "/task/getTaskResult"),
            ("PUT", "/model/updateModel"),
        ):
            answer = await there.call(method, path, json={"id": "1", "taskId": str(uuid4()), "modelName": "m"})
            assert (answer.status_code, answer.json()["code"], answer.json()["data"]) == (503, 503, None), path
            assert int(answer.headers["retry-after"]) >= 1
    # The answer of a commit is lost. These routes know no key that a request could be repeated with.
    failpoints.arm("api/after-commit:1:raise")
    try:
        cut = await tenant.call("POST", "/task/createTask", json={"modelName": "m"})
    finally:
        failpoints.arm("")
    assert (cut.status_code, cut.json()["code"]) == (503, 503)
    assert "key" not in cut.json()["message"]
    assert len(await tenant.stored()) == 1
    # The envelope has no place for the trace: the message names it.
    failpoints.arm("api/before-commit:1:raise")
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    try:
        fault = await tenant.call(
            "POST",
            "/task/createTask",
            json={"modelName": "m"},
            headers={"traceparent": f"00-{trace}-00f067aa0ba902b7-01"},
        )
    finally:
        failpoints.arm("")
    assert (fault.status_code, fault.json()["code"]) == (500, 500)
    assert trace in fault.json()["message"]


async def test_a_lane_that_redis_cannot_answer_for_closes_no_other(api: Api) -> None:
    broken, other = await api.tenant(), await api.tenant()
    await broken.model("m")
    await other.model("m")
    ((lane,),) = await api.sql("SELECT id FROM lane WHERE tenant_id = $1", broken.id)
    await api.redis.command_many([("SET", keys.gate(lane), "a string")])
    answers = await asyncio.gather(*(tenant.submit() for _ in range(25) for tenant in (broken, other)))
    assert {answer.status_code for answer in answers[::2]} == {503}
    assert {answer.status_code for answer in answers[1::2]} == {202}
    await api.redis.command_many([("DEL", keys.gate(lane))])
    assert (await broken.submit()).status_code == 202


async def test_postgres_dies_and_comes_back(servers_folder: Path, stores: tuple[str, str]) -> None:
    server = EmbeddedPostgres(servers_folder / "api-postgres")
    await server.start()
    try:
        await upgrade(server.address)
        other_redis = stores[1].rpartition("/")[0] + "/1"  # lanes of another database have the same numbers
        servers.empty_redis(other_redis)
        async with running_api(server.address, other_redis) as api:
            tenant = await api.tenant()
            await tenant.model("m")
            task = await tenant.task()
            assert await tenant.slots() == 1
            await server.kill()
            for _ in range(3):  # the key is remembered, then it is not; both ways
                began = time.monotonic()
                await assert_unavailable(await tenant.submit(), began)
                began = time.monotonic()
                assert (await tenant.call("GET", f"/v1/tasks/{task}")).status_code == 503
                old = await tenant.call("GET", "/task/getTaskResult", params={"taskId": task})
                assert (old.status_code, old.json()["message"].endswith("try again.")) == (503, True), old.text
                assert time.monotonic() - began < 5
            await server.start()

            async def accepts() -> bool:
                return (await tenant.submit()).status_code == 202

            await until_true(accepts, seconds=10)
            await until_true(lambda: _ready(api), seconds=10)
            assert len(await tenant.stored()) == 2
            assert await tenant.slots() == 2  # refused creates gave theirs back
    finally:
        await server.stop()
        server.remove()


async def test_redis_hangs_dies_and_forgets(servers_folder: Path, stores: tuple[str, str]) -> None:
    server = EmbeddedRedis(servers_folder / "api-redis")
    await server.start()
    try:
        async with running_api(stores[0], server.address) as api:
            tenant = await api.tenant()
            await tenant.model("m", queue_limit=3)
            await tenant.task()
            assert server.pid is not None
            os.kill(server.pid, signal.SIGSTOP)
            began = time.monotonic()
            await assert_unavailable(await tenant.submit(), began)
            os.kill(server.pid, signal.SIGCONT)

            async def accepts() -> bool:
                return (await tenant.submit()).status_code == 202

            await until_true(accepts, seconds=10)
            # Its memory is gone, the limit is not: the gate is rebuilt from PostgreSQL before it answers. (Until then
            # the slot of the refused create may be taken: Redis got to it after it woke up. Reconcile's work.)
            await api.redis.command_many([("FLUSHALL",)])
            assert (await tenant.submit()).status_code == 202
            assert (await tenant.submit()).status_code == 429
            assert await tenant.slots() == 3
            await server.kill()
            began = time.monotonic()
            await assert_unavailable(await tenant.submit(), began)
            await server.start()
            await until_true(lambda: _ready(api), seconds=10)
            assert (await tenant.submit()).status_code == 429
    finally:
        await server.stop()


@pytest.mark.parametrize(
    ("fault", "status", "code", "tasks", "slots"),
    [
        ("api/gate-taken:1:raise", 500, "internal", 0, 1),
        ("api/before-commit:1:raise", 500, "internal", 0, 0),
        ("api/before-commit:1:cancel", 503, "outcome_unknown", 0, 1),
        ("api/after-commit:1:raise", 503, "outcome_unknown", 1, 1),
        ("api/after-commit:1:cancel", 503, "outcome_unknown", 1, 1),
    ],
)
async def test_a_create_cut_off_half_way_takes_no_slot_from_a_task_and_its_key_tells_the_truth(
    tenant: Tenant, fault: str, status: int, code: str, tasks: int, slots: int
) -> None:
    failpoints.arm(fault)
    try:
        cut = await tenant.submit(key="k")
        assert (cut.status_code, cut.json()["code"]) == (status, code)
        assert len(await tenant.stored()) == tasks
        assert await tenant.slots() == slots  # one that nobody here can tell about is reconcile's
    finally:
        failpoints.arm("")
    again = await tenant.submit(key="k")
    assert again.status_code == 202
    assert ("idempotent-replayed" in again.headers) == bool(tasks)
    assert len(await tenant.stored()) == 1


async def test_a_lock_held_on_the_table_does_not_hold_the_caller(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.api.task_writer._WRITE_SECONDS", 0.5)
    async with tenant.api.pool.acquire() as connection, connection.transaction():
        await connection.execute("LOCK TABLE task IN SHARE MODE")
        answer = await tenant.submit()
        assert (answer.status_code, answer.json()["code"]) == (503, "outcome_unknown")
    # The write went on without its caller; the slot belongs to the task.

    async def written() -> bool:
        return len(await tenant.stored()) == 1

    await until_true(written)
    assert await tenant.slots() == 1


async def test_nor_does_one_on_the_keys(tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("libs.common.adapters.postgres.database._READ_SECONDS", 0.3)
    fresh = Tenant(tenant.api, tenant.id, await tenant.api.key(tenant.id))
    async with tenant.api.pool.acquire() as connection, connection.transaction():
        await connection.execute("LOCK TABLE api_key IN ACCESS EXCLUSIVE MODE")
        began = time.monotonic()
        await assert_unavailable(await fresh.submit(), began)
    assert (await fresh.submit()).status_code == 202


@pytest.mark.parametrize(("table", "method", "path"), [("api_key", "POST", "/v1/tasks"), ("task", "GET", "/v1/tasks")])
async def test_an_answer_that_is_lost_while_only_reading_leaves_no_doubt(
    tenant: Tenant, table: str, method: str, path: str
) -> None:
    fresh = Tenant(tenant.api, tenant.id, await tenant.api.key(tenant.id))
    async with tenant.api.pool.acquire() as connection, connection.transaction():
        await connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        calling = asyncio.create_task(fresh.call(method, path, json={"model": "m"}))

        async def cut() -> bool:
            return bool(
                await tenant.api.sql(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND wait_event_type = 'Lock'"
                )
            )

        await until_true(cut)
        answer = await calling
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")


async def _ready(api: Api) -> bool:
    return all(verdict == "ok" for verdict in (await ready(api)).values())
