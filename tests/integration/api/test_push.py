"""Status changes over SSE and WebSocket, from the tables to the listener."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from libs.common.operations.wake import Wake
from services.janitor.endings import Endings
from services.janitor.sweeps.waits import Deadlines
from tests.integration.api.test_api_tasks import start, succeed
from tests.support.api import Api, Tenant, running_api, until
from tests.support.house import open_house
from tests.support.listeners import Heard, hearing

pytestmark = pytest.mark.asyncio(loop_scope="package")


async def say(tenant: Tenant, *tasks: str) -> None:
    """The hint that a writer gives after its commit."""
    rows = await tenant.api.sql("SELECT id FROM task WHERE public_id = ANY ($1::uuid[])", list(tasks))
    tenant.api.hints.changed([(tenant.id, row["id"]) for row in rows])


async def started(tenant: Tenant, task: str) -> None:
    await start(tenant.api, task)
    await say(tenant, task)


async def succeeded(tenant: Tenant, task: str) -> None:
    await succeed(tenant.api, task)
    await say(tenant, task)


def listening(tenant: Tenant, path: str = "/v1/events", **more: Any) -> Any:
    return hearing(tenant.api.url, tenant.key, path, **more)


def of(task: str) -> str:
    return f"/v1/tasks/{task}/events"


def sequences(heard: Heard, task: str) -> list[int]:
    return [news["sequence"] for news in heard.news if news["id"] == task]


class TestTenantStream:
    async def test_every_change_comes_once_and_in_order(self, tenant: Tenant) -> None:
        async with listening(tenant) as heard:
            tasks = [await tenant.task() for _ in range(5)]
            for task in tasks:
                await heard.says(task, "submitted")
                await started(tenant, task)
                await say(tenant, task)
            for task in tasks:
                await heard.says(task, "processing")
                await succeeded(tenant, task)
                await say(tenant, task)
                await heard.says(task, "success")
            canceled = await tenant.task()
            await heard.says(canceled, "submitted")
            await tenant.call("POST", f"/v1/tasks/{canceled}/cancel")
            await heard.says(canceled, "canceled")
        for task in tasks:
            assert heard.statuses(task) == ["submitted", "processing", "success"]
            assert sequences(heard, task) == [1, 3, 4]
        last = heard.news[-1]
        assert (last["code"], last["progress"], last["final"], last["error_code"]) == (9, 0, True, "canceled")
        assert last["message"] == "canceled by the caller"
        assert heard.headers["content-type"] == "text/event-stream"
        assert heard.headers["cache-control"] == "no-store"

    async def test_who_comes_back_hears_of_open_tasks_and_of_ends_since(self, tenant: Tenant) -> None:
        waiting, old, ended = [await tenant.task() for _ in range(3)]
        await succeed(tenant.api, old)
        await tenant.api.sql("UPDATE task SET finished_at = now() - interval '1 hour' WHERE public_id = $1", old)
        left = datetime.now(UTC).isoformat()
        await succeed(tenant.api, ended)
        async with listening(tenant, headers={"Last-Event-ID": left}) as heard:
            await until(lambda: bool(heard.caught_up))
            assert {news["id"]: news["status"] for news in heard.news} == {waiting: "submitted", ended: "success"}
            assert heard.caught_up == [{"complete": True, "complete_from": None}]
            (place,) = heard.places  # only now: who is cut off while catching up comes again from where he was
            assert datetime.fromisoformat(place) > datetime.fromisoformat(left) - timedelta(seconds=1)
            await started(tenant, waiting)
            await heard.says(waiting, "processing")
            assert len(heard.news) == 3
        async with listening(tenant, params={"last_event_id": heard.places[-1], "task": waiting}) as again:
            await until(lambda: bool(again.caught_up))
            assert [news["id"] for news in again.news] == [waiting]

    async def test_who_is_cut_off_before_the_first_change_comes_back_to_where_he_was(self, tenant: Tenant) -> None:
        async with listening(tenant) as heard:
            await until(lambda: bool(heard.places))
            assert not heard.news
        task = await tenant.task()
        await succeeded(tenant, task)
        async with listening(tenant, headers={"Last-Event-ID": heard.places[-1]}) as again:
            await again.says(task, "success")

    async def test_it_can_be_narrowed_to_models_and_tasks(self, tenant: Tenant) -> None:
        await tenant.model("other")
        here, there, more = await tenant.task(), await tenant.task("other"), await tenant.task("other")
        async with (
            listening(tenant, params={"model": "other"}) as by_model,
            listening(tenant, params=[("task", here), ("task", there), ("model", "other")]) as by_both,
        ):
            for task in (here, there, more):
                await started(tenant, task)
            await by_model.says(there, "processing")
            await by_model.says(more, "processing")
            await by_both.says(there, "processing")
        assert by_model.statuses(here) == []
        assert [news["id"] for news in by_both.news] == [there]

    async def test_nobody_hears_another_tenants_tasks(self, api: Api, tenant: Tenant) -> None:
        other = await api.tenant()
        await other.model("m")
        task = await tenant.task()
        async with listening(other) as heard, listening(tenant) as own:
            (row,) = await api.sql("SELECT id FROM task WHERE public_id = $1", task)
            api.hints.changed([(other.id, row["id"])])  # a hint that names the wrong tenant
            await started(tenant, task)
            await own.says(task, "processing")
            mine = await other.task()
            await heard.says(mine, "submitted")
            assert {news["id"] for news in heard.news} == {mine}
        for path in (of(task), of(str(uuid4())), of("no-id")):
            async with listening(other, path) as refused:
                assert refused.status == 404
                assert json.loads(refused.body)["code"] == "task_unknown"

    async def test_every_end_of_a_sweep_is_told_however_many_and_old(
        self, api: Api, tenant: Tenant, stores: tuple[str, str]
    ) -> None:
        later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
        batch = {
            "tasks": [{"model": "m", "payload": {}, "start_by": later}] * 250
        }  # more than a look at the newest sees
        assert (await tenant.call("POST", "/v1/tasks/batch", json=batch)).status_code == 202
        async with listening(tenant) as heard, open_house(*stores) as house:
            await api.sql(
                "UPDATE dispatch d SET start_by = now(), expires_at = now() FROM task t"
                " WHERE t.id = d.id AND t.tenant_id = $1",
                tenant.id,
            )
            endings = Endings(house.sweeps, house.returns, Wake(api.hints))
            assert await Deadlines(house.sweeps, endings).sweep() == 250
            await until(lambda: len(heard.news) == 250, 2)
        assert {(news["status"], news["error_code"]) for news in heard.news} == {("timeout", "not_started")}


class TestTaskStream:
    async def test_it_begins_with_what_is_and_ends_after_the_end(self, tenant: Tenant) -> None:
        task = await tenant.task()
        async with listening(tenant, of(task)) as heard:
            await heard.says(task, "submitted")
            await started(tenant, task)
            await heard.says(task, "processing")
            await succeeded(tenant, task)
            await until(lambda: heard.ended)
        assert heard.statuses(task) == ["submitted", "processing", "success"]
        assert heard.places == [f"{task}:{version}" for version in (1, 3, 4)]
        assert [news["final"] for news in heard.news] == [False, False, True]

    async def test_a_failure_before_its_retry_is_no_end(self, tenant: Tenant) -> None:
        task = await tenant.task()
        async with listening(tenant, of(task)) as heard:
            await tenant.api.sql(
                "UPDATE dispatch SET state = 3, due_at = now(), attempt = 1, version = version + 3,"
                " error_code = 'model_error', error_message = 'status 500' WHERE public_id = $1",
                task,
            )
            await say(tenant, task)
            await heard.says(task, "failed")
            failed = heard.news[-1]
            assert (failed["final"], failed["error_code"], failed["message"]) == (False, "model_error", "status 500")
            await tenant.api.sql(
                "UPDATE dispatch SET state = 0, due_at = NULL, version = version + 1 WHERE public_id = $1", task
            )
            await say(tenant, task)
            await until(lambda: heard.statuses(task) == ["submitted", "failed", "submitted"])
            assert not heard.ended

    async def test_who_comes_back_hears_what_is_new_and_an_end_only_once(self, tenant: Tenant) -> None:
        task = await tenant.task()
        async with listening(tenant, of(task), headers={"Last-Event-ID": f"{task}:1"}) as heard:
            await started(tenant, task)
            await heard.says(task, "processing")
            assert heard.statuses(task) == ["processing"]
        await succeeded(tenant, task)
        async with listening(tenant, of(task), headers={"Last-Event-ID": heard.places[-1]}) as again:
            await until(lambda: again.ended)
            assert again.statuses(task) == ["success"]
        async with listening(tenant, of(task), headers={"Last-Event-ID": again.places[-1]}) as over:
            assert (over.status, over.body) == (204, b"")  # browsers stop coming

    async def test_listening_fetches_nothing(self, tenant: Tenant) -> None:
        task = await tenant.task()
        await succeed(tenant.api, task)
        async with listening(tenant, of(task)) as heard:
            await until(lambda: heard.ended)
        (row,) = await tenant.stored()
        assert row["fetched_at"] is None


class TestLostHints:
    async def test_a_change_that_nobody_hinted_at_is_found(self, tenant: Tenant) -> None:
        task = await tenant.task()
        async with listening(tenant) as heard, listening(tenant, of(task)) as one:
            await start(tenant.api, task)
            await heard.says(task, "processing", 10)
            await one.says(task, "processing", 10)
            await tenant.api.sql(
                "INSERT INTO task (public_id, tenant_id, model_id, lane, status)"
                " SELECT gen_random_uuid(), tenant_id, model_id, lane, 1 FROM task WHERE public_id = $1",
                task,
            )
            unheard = (await tenant.stored_ids())[-1]
            await heard.says(unheard, "submitted", 10)
            assert sequences(heard, task) == [3]

    async def test_a_broken_connection_to_redis_loses_nothing(self, tenant: Tenant) -> None:
        task = await tenant.task()
        async with listening(tenant) as heard:
            await started(tenant, task)
            await heard.says(task, "processing")
            (killed,) = await tenant.api.redis.command_many([("CLIENT", "KILL", "TYPE", "pubsub")])
            assert killed
            await succeed(tenant.api, task)
            await heard.says(task, "success", 10)
            next_task = await tenant.task()
            await heard.says(next_task, "submitted", 10)
            assert heard.statuses(task) == ["processing", "success"]


class TestRefusals:
    @pytest.mark.parametrize(
        ("path", "parameters", "headers"),
        [
            ("/v1/events", {"since": "yesterday"}, {}),
            ("/v1/events", {"task": ""}, {}),
            ("/v1/events", {"model": [""] * 101}, {}),
            ("/v1/events", {"task": "no-id"}, {}),
            ("/v1/events", {"model": ["m"] * 101}, {}),
            ("/v1/events", {"model": ["m"] * 300}, {}),
            ("/v1/events", {"model": "m" * 501}, {}),
            ("/v1/events", {}, {"Last-Event-ID": "yesterday"}),
            ("/v1/events", {}, {"Last-Event-ID": "2026-11-23T09:00:00"}),
            ("/v1/events", {"last_event_id": "9" * 90}, {}),
            ("/v1/tasks/{task}/events", {"model": "m"}, {}),
            ("/v1/tasks/{task}/events", {}, {"Last-Event-ID": "7"}),
            ("/v1/tasks/{task}/events", {}, {"Last-Event-ID": "01939d5c-6f3e-7b1a-9c55-2f6f0b6f7a10:1"}),
            ("/v1/tasks/{task}/events", {}, {"Last-Event-ID": "{task}:-1"}),
        ],
    )
    async def test_what_makes_no_sense_is_said(
        self, tenant: Tenant, path: str, parameters: dict[str, Any], headers: dict[str, str]
    ) -> None:
        task = await tenant.task()
        headers = {name: value.format(task=task) for name, value in headers.items()}
        answer = await tenant.call("GET", path.format(task=task), params=parameters, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid")

    async def test_what_is_no_task_id_is_not_called_too_many(self, tenant: Tenant) -> None:
        answer = await tenant.call("GET", "/v1/events?task=mine")
        assert answer.json()["errors"] == [{"parameter": "task", "detail": "is no task id"}]

    async def test_query_bytes_that_are_no_text_are_refused(self, tenant: Tenant) -> None:
        answer = await tenant.call("GET", "/v1/events?model=%ff%fe")
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid")

    async def test_a_key_is_needed_and_its_right_to_read(self, api: Api) -> None:
        submitter = await api.tenant(scopes=("submit",))
        assert (await submitter.call("GET", "/v1/events")).json()["code"] == "forbidden"
        async with hearing(api.url, "sw_wrong", "/v1/events") as refused:
            assert refused.status == 401
        posted = await submitter.call("POST", "/v1/events")
        assert (posted.status_code, posted.headers["allow"]) == (405, "GET")

    async def test_one_tenant_opens_half_of_the_streams_and_all_together_no_more_than_set(
        self, stores: tuple[str, str]
    ) -> None:
        async with running_api(*stores, push_connections=3) as api:
            first, second, third = [await api.tenant() for _ in range(3)]
            async with listening(first), listening(second):
                answer = await first.call("GET", "/v1/events")
                assert (answer.status_code, answer.json()["code"]) == (429, "too_many_streams")
                assert answer.headers["retry-after"] == "5"
                async with listening(third) as heard:
                    assert heard.status == 200
                    assert (await (await api.tenant()).call("GET", "/v1/events")).status_code == 429
            await until(lambda: api.service.hub.open == 0)
            async with listening(first) as heard:
                assert heard.status == 200


async def test_who_does_not_read_is_dropped_and_holds_up_nobody(api: Api) -> None:
    tenant = await api.tenant()
    await tenant.model("m", queue_limit=100_000)
    parts = urlsplit(api.url)
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        deaf.connect((parts.hostname, parts.port))
        deaf.sendall(f"GET /v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {tenant.key}\r\n\r\n".encode())
        await until(lambda: api.service.hub.open == 1)
        async with listening(tenant) as heard:
            body = {"tasks": [{"model": "m", "payload": {}}] * 1_000}
            told = 0
            while api.service.hub.open == 2 and told < 10_000:
                assert (await tenant.call("POST", "/v1/tasks/batch", json=body)).status_code == 202
                told += 1_000
                # The listener shares this loop: two batches at once would leave it behind, too.
                await until(lambda so_far=told: len(heard.news) == so_far)
            await until(lambda: api.service.hub.open == 1)  # the deaf one is gone, the other is not
            assert not heard.ended
            assert {news["id"] for news in heard.news} == {str(row["public_id"]) for row in await tenant.stored()}
        with suppress(ConnectionResetError):
            deaf.settimeout(10)
            while deaf.recv(65_536):
                pass


async def test_a_stopping_process_lets_its_listeners_go(stores: tuple[str, str]) -> None:
    async with running_api(*stores) as api:
        tenant = await api.tenant()
        async with listening(tenant) as heard, socket_of(tenant, "/v1/events") as listener:
            api.service.stop()
            await until(lambda: heard.ended)
            with pytest.raises(ConnectionClosed) as closed:
                await listener.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1012


def socket_of(tenant: Tenant, path: str, **more: Any) -> Any:
    """A WebSocket with the tenant's key in its header."""
    headers = {"Authorization": f"Bearer {tenant.key}"} if "subprotocols" not in more else {}
    return connect(f"ws{tenant.api.url[4:]}{path}", additional_headers=headers, proxy=None, **more)


async def next_of(listener: ClientConnection) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(await asyncio.wait_for(listener.recv(), 5))
    return message


class TestWebSocket:
    async def test_a_tenants_changes_with_the_place_of_each(self, tenant: Tenant) -> None:
        async with socket_of(tenant, "/v1/events") as listener:
            await listener.send("nobody hears this")
            task = await tenant.task()
            first = await next_of(listener)
            await started(tenant, task)
            second = await next_of(listener)
        assert [(one["id"], one["status"]) for one in (first, second)] == [(task, "submitted"), (task, "processing")]
        await succeed(tenant.api, task)
        async with socket_of(tenant, f"/v1/events?last_event_id={second['event_id']}") as listener:
            assert (await next_of(listener))["status"] == "success"
            assert (await next_of(listener))["event"] == "caught_up"

    async def test_a_task_until_its_end(self, tenant: Tenant) -> None:
        task = await tenant.task()
        async with socket_of(tenant, of(task)) as listener:
            assert (await next_of(listener))["event_id"] == f"{task}:1"
            await succeeded(tenant, task)
            assert (await next_of(listener))["final"]
            with pytest.raises(ConnectionClosed) as closed:
                await next_of(listener)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1000
        async with socket_of(tenant, f"{of(task)}?last_event_id={task}:4") as over:
            with pytest.raises(ConnectionClosed):
                await next_of(over)

    async def test_a_browser_shows_its_key_as_a_subprotocol(self, tenant: Tenant) -> None:
        offered = ["sluiceway.v1", f"sluiceway.key.{tenant.key}"]
        host = tenant.api.url.replace("localhost", "127.0.0.1")
        async with socket_of(tenant, "/v1/events", subprotocols=offered, origin=host) as listener:
            assert listener.subprotocol == "sluiceway.v1"
            task = await tenant.task()
            assert (await next_of(listener))["id"] == task

    async def test_refusals_are_problems(self, api: Api, tenant: Tenant) -> None:
        other = await api.tenant()
        task = await other.model("m") and await other.task()
        wrong = ["sluiceway.v1", f"sluiceway.key.sw_{'x' * 43}"]
        cases: list[tuple[str, dict[str, Any], int, str]] = [
            ("/v1/events", {"subprotocols": wrong}, 401, "unauthenticated"),
            ("/v1/events", {"subprotocols": ["sluiceway.v1"]}, 401, "unauthenticated"),
            ("/v1/events", {"origin": "https://evil.example"}, 403, "forbidden"),
            ("/v1/events?since=1", {}, 400, "invalid"),
            (of(task), {}, 404, "task_unknown"),
            ("/v1/tasks", {}, 404, "not_found"),
            ("/nothing", {}, 404, "not_found"),
        ]
        for path, more, status, code in cases:
            with pytest.raises(InvalidStatus) as refused:
                async with socket_of(tenant, path, **more):
                    pass
            assert refused.value.response.status_code == status, path
            assert json.loads(refused.value.response.body)["code"] == code

    async def test_pages_of_listed_origins_may_listen(self, stores: tuple[str, str]) -> None:
        async with running_api(*stores, push_origins="https://shop.example, https://app.example:8443") as api:
            tenant = await api.tenant()
            async with socket_of(tenant, "/v1/events", origin="https://app.example:8443"):
                pass
            with pytest.raises(InvalidStatus):
                async with socket_of(tenant, "/v1/events", origin="https://app.example"):
                    pass
