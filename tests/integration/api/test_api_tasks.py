"""Reading, awaiting, listing and canceling tasks over REST."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any
from uuid import uuid4

import pytest

from libs.common.runtime import metrics
from tests.support.api import Api, Tenant, running_api, until

pytestmark = pytest.mark.asyncio(loop_scope="package")


async def succeed(api: Api, task_id: str) -> None:
    """What an executor writes at the end of a good attempt."""
    files = [{"url": "file:///r.png", "type": "png", "size": 3, "sha256": "ab", "name": "1-0.png", "index": 0}]
    await api.sql("DELETE FROM dispatch WHERE public_id = $1", task_id)
    await api.sql(
        "UPDATE task SET status = 6, version = 4, attempt = 1, started_at = now(), finished_at = now(),"
        " oss_file = 'file:///r.png', file_type = 'png', file_size = 3, files = $2 WHERE public_id = $1",
        task_id,
        json.dumps(files),
    )


async def start(api: Api, task_id: str) -> None:
    """What an executor writes when it starts an attempt."""
    await api.sql(
        "INSERT INTO executor (id, name, slots) VALUES (1, 'executor-a', 10)"
        " ON CONFLICT (id) DO UPDATE SET name = EXCLUDED.name"
    )
    await api.sql(
        "UPDATE dispatch SET state = 1, lease = 1, executor = 1, token = gen_random_uuid(), started_at = now(),"
        " attempt = 1, version = version + 2 WHERE public_id = $1",
        task_id,
    )


class TestRead:
    async def test_a_running_task_names_its_executor(self, tenant: Tenant) -> None:
        task = await tenant.task()
        await start(tenant.api, task)
        view = (await tenant.call("GET", f"/v1/tasks/{task}")).json()
        assert (view["status"], view["attempt"], view["executor"]) == ("processing", 1, "executor-a")
        assert view["heartbeat_at"]
        assert view["times"]["started_at"]

    async def test_a_success_shows_its_files_and_is_marked_as_fetched_once(self, tenant: Tenant) -> None:
        task = await tenant.task()
        await succeed(tenant.api, task)
        listed = (await tenant.call("GET", "/v1/tasks")).json()["items"][0]
        assert listed["status"] == "success"
        first = (await tenant.call("GET", f"/v1/tasks/{task}")).json()
        assert first["times"]["fetched_at"] is None  # lists do not mark, and the first read answers as it was
        assert first["result"] == {
            "url": "file:///r.png",
            "type": "png",
            "size": 3,
            "files": [
                {"url": "file:///r.png", "type": "png", "size": 3, "sha256": "ab", "name": "1-0.png", "index": 0}
            ],
        }
        second = (await tenant.call("GET", f"/v1/tasks/{task}")).json()
        third = (await tenant.call("GET", f"/v1/tasks/{task}")).json()
        assert second["times"]["fetched_at"] is not None
        assert second["times"]["expire_at"] is not None
        assert third == second

    async def test_etag_spares_the_body_until_something_changes(self, tenant: Tenant) -> None:
        task = await tenant.task()
        first = await tenant.call("GET", f"/v1/tasks/{task}")
        assert first.headers["etag"] == 'W/"1"'
        for tag in ('W/"1"', '"1"', 'W/"0", W/"1"', "*"):
            same = await tenant.call("GET", f"/v1/tasks/{task}", headers={"If-None-Match": tag})
            assert (same.status_code, same.content) == (304, b"")
        await start(tenant.api, task)
        changed = await tenant.call("GET", f"/v1/tasks/{task}", headers={"If-None-Match": 'W/"1"'})
        assert changed.status_code == 200
        assert changed.headers["etag"] == 'W/"3"'

    async def test_several_come_in_order_and_unknown_ones_are_left_out(self, tenant: Tenant) -> None:
        ids = [await tenant.task() for _ in range(3)]
        await succeed(tenant.api, ids[1])
        asked = [ids[2], str(uuid4()), "nonsense", ids[1], ids[2], ids[1].upper()]
        items = (await tenant.call("POST", "/v1/tasks/read", json={"ids": asked})).json()["items"]
        assert [item["id"] for item in items] == [ids[2], ids[1]]
        assert [str(row["public_id"]) for row in await tenant.stored() if row["fetched_at"]] == [ids[1]]
        bad: Any
        for bad in ({"ids": []}, {"ids": ["x"] * 1_001}, {"ids": [1]}, {"ids": "x"}, {}, []):
            assert (await tenant.call("POST", "/v1/tasks/read", json=bad)).status_code == 400

    async def test_attempts_and_history(self, tenant: Tenant) -> None:
        task = await tenant.task()
        await start(tenant.api, task)
        await tenant.api.sql(
            "INSERT INTO attempt (task_id, attempt, outcome, executor, token, started_at, error_code, error_message)"
            " SELECT id, 1, 'failed', 1, token, started_at, 'model_status', 'it answered 503' FROM dispatch"
            " WHERE public_id = $1",
            task,
        )
        await tenant.api.sql(
            "INSERT INTO history (task_id, kind, attempt, version)"
            " SELECT id, 'retry', 1, 4 FROM dispatch WHERE public_id = $1",
            task,
        )
        (attempt,) = (await tenant.call("GET", f"/v1/tasks/{task}/attempts")).json()["items"]
        assert attempt["error"] == {"code": "model_status", "message": "it answered 503"}
        assert (attempt["attempt"], attempt["outcome"], attempt["executor"]) == (1, "failed", "executor-a")
        assert "token" not in attempt
        (line,) = (await tenant.call("GET", f"/v1/tasks/{task}/history")).json()["items"]
        assert (line["kind"], line["attempt"], line["version"], line["detail"]) == ("retry", 1, 4, "")
        for what in ("attempts", "history"):
            assert (await tenant.call("GET", f"/v1/tasks/{uuid4()}/{what}")).status_code == 404

    @pytest.mark.parametrize("bad", ["0", "-1", "9223372036854775808", "1.5", "x" * 36, "%00", "..%2f..", "'"])
    async def test_what_is_no_task_id_is_not_found(self, tenant: Tenant, bad: str) -> None:
        answer = await tenant.call("GET", f"/v1/tasks/{bad}")
        assert answer.status_code == 404
        assert answer.headers["content-type"] == "application/problem+json"


def _seconds(route: str) -> float:
    """What requests of a route took, as metrics tell it."""
    name = f'sluiceway_http_request_seconds_sum{{route="{route}"}} '
    told = [line for line in metrics.exposition().decode().splitlines() if line.startswith(name)]
    return float(told[0].removeprefix(name)) if told else 0.0


class TestWait:
    async def test_an_end_is_told_at_once(self, tenant: Tenant) -> None:
        task = await tenant.task()
        waiting = asyncio.create_task(tenant.call("GET", f"/v1/tasks/{task}", headers={"Prefer": "wait=20"}))
        await until(lambda: tenant.api.waiting() == 1)
        await succeed(tenant.api, task)
        began = time.monotonic()
        answer = await waiting
        assert answer.json()["status"] == "success"
        assert answer.headers["preference-applied"] == "wait=20"
        assert time.monotonic() - began < 10

    async def test_preferences_may_stand_in_headers_of_their_own(self, tenant: Tenant) -> None:
        url = f"/v1/tasks/{await tenant.task()}"
        lines = [("Prefer", "respond-async"), ("Prefer", "wait=1"), ("Authorization", f"Bearer {tenant.key}")]
        answer = await tenant.api.client.get(url, headers=lines)
        assert answer.headers["preference-applied"] == "wait=1"

    async def test_a_create_may_be_waited_for_too(self, tenant: Tenant) -> None:
        creating = asyncio.create_task(tenant.submit(headers={"Prefer": "wait=20"}, payload="x" * 300_000))
        await until(lambda: tenant.api.waiting() == 1)
        (task,) = await tenant.stored_ids()
        await succeed(tenant.api, task)
        answer = await creating
        assert (answer.status_code, answer.headers["location"]) == (202, f"/v1/tasks/{task}")
        assert answer.headers["preference-applied"] == "wait=20"
        view = (await tenant.call("GET", f"/v1/tasks/{task}")).json()
        assert view["status"] == "success"
        assert view["times"]["fetched_at"] is None, "only a read is a first read"
        assert answer.json() == view

    async def test_what_was_waited_for_is_no_latency(self, tenant: Tenant) -> None:
        began, before = time.perf_counter(), _seconds("/v1/tasks")
        creating = asyncio.create_task(tenant.submit(headers={"Prefer": "wait=20"}))
        await until(lambda: tenant.api.waiting() == 1)
        accepted = time.perf_counter()
        (task,) = await tenant.stored_ids()
        reading = asyncio.create_task(tenant.call("GET", f"/v1/tasks/{task}", headers={"Prefer": "wait=20"}))
        await until(lambda: tenant.api.waiting() == 2)
        reads = _seconds("/v1/tasks/{task_id}")
        await succeed(tenant.api, task)
        await asyncio.gather(creating, reading)
        assert 0 < _seconds("/v1/tasks") - before < accepted - began
        assert _seconds("/v1/tasks/{task_id}") == reads
        await tenant.call("GET", f"/v1/tasks/{task}")
        assert _seconds("/v1/tasks/{task_id}") > reads

    async def test_a_create_that_is_not_over_in_time_says_where_it_is(self, tenant: Tenant) -> None:
        answer = await tenant.submit(headers={"Prefer": "wait=1"}, key="k")
        assert (answer.status_code, answer.json()["status"]) == (202, "submitted")
        assert answer.json()["times"]["created_at"]
        again = await tenant.submit(headers={"Prefer": "wait=0"}, key="k")
        assert again.headers["idempotent-replayed"] == "true"
        assert again.headers["preference-applied"] == "wait=0"
        assert again.json() == answer.json()

    async def test_who_may_not_read_hears_that_it_is_accepted(self, api: Api) -> None:
        owner = await api.tenant()
        await owner.model("m")
        writer = Tenant(api, owner.id, await api.key(owner.id, ["submit"]))
        answer = await writer.submit(headers={"Prefer": "wait=20"})
        assert (answer.status_code, answer.json().get("times")) == (202, None)
        assert "preference-applied" not in answer.headers

    async def test_the_present_state_comes_when_time_is_up(self, tenant: Tenant) -> None:
        task = await tenant.task()
        answer = await tenant.call("GET", f"/v1/tasks/{task}", headers={"Prefer": "respond-async, wait=1"})
        assert answer.json()["status"] == "submitted"
        assert answer.headers["preference-applied"] == "wait=1"
        assert tenant.api.waiting() == 0

    async def test_a_retry_ahead_is_no_end(self, tenant: Tenant) -> None:
        task = await tenant.task()
        await tenant.api.sql(
            "UPDATE dispatch SET state = 3, due_at = now() + interval '1 h', attempt = 1,"
            " error_code = 'x' WHERE public_id = $1",
            task,
        )
        answer = await tenant.call("GET", f"/v1/tasks/{task}", headers={"Prefer": "wait=1"})
        assert answer.json()["status"] == "failed"
        assert answer.json()["times"]["due_at"]
        assert answer.elapsed.total_seconds() >= 0.9

    async def test_many_who_wait_share_their_questions(self, tenant: Tenant) -> None:
        ids = [await tenant.task() for _ in range(5)]
        waiting = [
            asyncio.create_task(tenant.call("GET", f"/v1/tasks/{ids[n % 5]}", headers={"Prefer": "wait=20"}))
            for n in range(50)
        ]
        await until(lambda: tenant.api.waiting() == 50)
        for task in ids:
            await succeed(tenant.api, task)
        assert {answer.json()["status"] for answer in await asyncio.gather(*waiting)} == {"success"}

    async def test_who_waits_is_let_go_when_the_process_stops(self, stores: tuple[str, str]) -> None:
        async with running_api(*stores) as stopping:
            tenant = await stopping.tenant()
            await tenant.model("m")
            task = await tenant.task()
            waiting = asyncio.create_task(tenant.call("GET", f"/v1/tasks/{task}", headers={"Prefer": "wait=60"}))
            await until(lambda: stopping.waiting() == 1)
            stopping.health.mark_draining()
            stopping.service.stop()
            answer = await waiting
        assert answer.status_code == 200
        assert answer.json()["status"] == "submitted"

    async def test_who_left_while_waiting_has_fetched_nothing(self, tenant: Tenant) -> None:
        task = await tenant.task()
        waiting = asyncio.create_task(tenant.call("GET", f"/v1/tasks/{task}", headers={"Prefer": "wait=60"}))
        await until(lambda: tenant.api.waiting() == 1)
        waiting.cancel()
        await until(lambda: tenant.api.waiting() == 0)
        await succeed(tenant.api, task)
        await asyncio.sleep(0.7)
        assert (await tenant.call("GET", f"/v1/tasks/{task}")).json()["times"]["fetched_at"] is None

    @pytest.mark.parametrize("prefer", ["wait", "wait=x", "wait=-1", "return=minimal", "wait=0"])
    async def test_a_preference_without_sense_is_no_error(self, tenant: Tenant, prefer: str) -> None:
        task = await tenant.task()
        assert (await tenant.call("GET", f"/v1/tasks/{task}", headers={"Prefer": prefer})).status_code == 200


class TestList:
    async def pages(self, tenant: Tenant, query: str) -> list[list[str]]:
        pages, cursor = [], ""
        while True:
            answer = await tenant.call("GET", f"/v1/tasks?{query}{cursor}")
            assert answer.status_code == 200, answer.text
            page = answer.json()
            pages.append([item["id"] for item in page["items"]])
            if page["next_cursor"] is None:
                return pages
            cursor = f"&cursor={page['next_cursor']}"

    async def test_pages_hold_everything_once_newest_first(self, tenant: Tenant) -> None:
        ids = [await tenant.task() for _ in range(7)]
        pages = await self.pages(tenant, "limit=3")
        assert [len(page) for page in pages] == [3, 3, 1]
        assert [task for page in pages for task in page] == ids[::-1]
        assert await self.pages(tenant, "limit=1000") == [ids[::-1]]

    async def test_filters(self, tenant: Tenant) -> None:
        await tenant.model("other")
        plain, named, elsewhere = await tenant.task(), await tenant.task(biz_name="a%_b"), await tenant.task("other")
        await tenant.call("POST", f"/v1/tasks/{plain}/cancel")
        assert await self.pages(tenant, "model=other") == [[elsewhere]]
        assert await self.pages(tenant, "biz_name=a%25_b") == [[named]]
        assert await self.pages(tenant, "biz_name=a%25") == [[]]
        assert await self.pages(tenant, "status=canceled") == [[plain]]
        assert await self.pages(tenant, "status=submitted,canceled&model=m") == [[named, plain]]
        assert await self.pages(tenant, "model=nothing") == [[]]

    @pytest.mark.parametrize(
        "query",
        ["limit=0", "limit=-1", "limit=1001", "limit=x", "limit=1000000", "limit=1.5", "status=done", "status=",
         "cursor=", "statuses=failed", "cursor=x", "cursor=bW9kZWw6Mw", "cursor=dGFzazoxZTk", "cursor=dGFzazotMQ",
         "model=%00", "biz_name=a%00", "status=failed&status=success", "limit=1&limit=1"],
    )  # fmt: skip
    async def test_refuses_what_makes_no_sense(self, tenant: Tenant, query: str) -> None:
        answer = await tenant.call("GET", f"/v1/tasks?{query}")
        assert answer.status_code == 400, answer.text
        assert "parameter" in answer.json()["errors"][0]


class TestCancel:
    async def verdict(self, tenant: Tenant, task: str) -> tuple[str, str]:
        answer = await tenant.call("POST", f"/v1/tasks/{task}/cancel")
        assert answer.status_code == 200, answer.text
        assert answer.json()["id"] == task
        return answer.json()["verdict"], answer.json()["status"]

    async def test_a_waiting_task_ends_and_its_slot_goes_back(self, tenant: Tenant) -> None:
        task = await tenant.task()
        assert await self.verdict(tenant, task) == ("canceled", "canceled")
        assert await self.verdict(tenant, task) == ("already_final", "canceled")
        assert await tenant.slots() == 0
        assert await tenant.events() == [9]
        view = (await tenant.call("GET", f"/v1/tasks/{task}")).json()
        assert view["error"] == {"code": "canceled", "message": "canceled by the caller"}

    async def test_a_running_task_is_asked_to_stop(self, tenant: Tenant) -> None:
        task = await tenant.task()
        await start(tenant.api, task)
        assert await self.verdict(tenant, task) == ("cancel_requested", "processing")
        assert await self.verdict(tenant, task) == ("cancel_requested", "processing")
        assert (
            len(
                await tenant.api.sql(
                    "SELECT FROM cancel_request c JOIN task t ON t.id = c.task_id WHERE t.tenant_id = $1", tenant.id
                )
            )
            == 1
        )
        assert await tenant.slots() == 1
        (line,) = (await tenant.call("GET", f"/v1/tasks/{task}/history")).json()["items"]
        assert (line["kind"], line["attempt"], line["detail"]) == ("cancel", 1, "asked for while it ran")

    async def test_a_final_task_stays_as_it_is(self, tenant: Tenant) -> None:
        task = await tenant.task()
        await succeed(tenant.api, task)
        assert await self.verdict(tenant, task) == ("already_final", "success")

    async def test_a_task_that_waits_for_its_retry_holds_no_slot(self, tenant: Tenant) -> None:
        task = await tenant.task()
        other = await tenant.task()
        await tenant.api.sql(
            "UPDATE dispatch SET state = 3, due_at = now() + interval '1 h', attempt = 1 WHERE public_id = $1", task
        )
        assert await self.verdict(tenant, task) == ("canceled", "canceled")
        assert await tenant.slots() == 2  # not ours to give back: the failure gave it back
        assert await self.verdict(tenant, other) == ("canceled", "canceled")

    async def test_many_cancels_at_once_end_it_once(self, tenant: Tenant) -> None:
        task = await tenant.task()
        verdicts = await asyncio.gather(*[self.verdict(tenant, task) for _ in range(8)])
        assert sorted(verdict for verdict, _ in verdicts) == ["already_final"] * 7 + ["canceled"]
        assert await tenant.events() == [9]

    async def test_an_unknown_task_is_not_found(self, tenant: Tenant) -> None:
        assert (await tenant.call("POST", f"/v1/tasks/{uuid4()}/cancel")).status_code == 404


async def test_hints_say_what_became_due(api: Api) -> None:
    tenant = await api.tenant()
    heard: list[str] = []

    async def hear() -> None:
        await api.hints.listen(["sw:dispatch", "sw:cancel"], lambda _channel, lines: heard.extend(lines))

    listening = asyncio.create_task(hear())
    try:
        await api.heard_by("sw:dispatch", "sw:cancel")
        await tenant.model("m")
        await until(lambda: "* models" in heard)
        tasks: list[dict[str, Any]] = [{"model": "m", "priority": priority} for priority in (5, 2, 2, 9)]
        await tenant.call("POST", "/v1/tasks/batch", json={"tasks": tasks})
        rows = sorted(await tenant.stored(), key=lambda row: (row["priority"], row["id"]))
        await until(lambda: f"{rows[0]['lane']} 1 2 {rows[0]['id']}" in heard)
        assert len([line for line in heard if " 1 " in line]) == 1  # one line for the whole batch
        await start(api, str(rows[0]["public_id"]))
        await tenant.call("POST", f"/v1/tasks/{rows[0]['public_id']}/cancel")
        await until(lambda: str(rows[0]["id"]) in heard)
        await tenant.call("POST", f"/v1/tasks/{rows[1]['public_id']}/cancel")
        await until(lambda: f"{rows[1]['lane']} room" in heard)
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
