"""Creating, reading, listing and canceling tasks over REST."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from tests.support.api import Api, Tenant, running_api, until

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
async def api(database_url: str, redis_url: str) -> AsyncIterator[Api]:
    async with running_api(database_url, redis_url) as running:
        yield running


@pytest.fixture
async def tenant(api: Api) -> Tenant:
    caller = await api.tenant(7)
    await caller.model("m")
    return caller


async def slots(api: Api) -> int:
    """How many gate slots are taken, over all lanes."""
    lanes = [row["id"] for row in await api.sql("SELECT id FROM lane")]
    return sum(await api.gate_depths(lanes))


class TestCreate:
    async def test_a_task_is_accepted_and_reads_as_it_was_sent(self, tenant: Tenant) -> None:
        answer = await tenant.submit(
            payload={"text": "hello"}, biz_name="b-1", input_ref="ref", priority=-3, headers={"traceparent": TRACE}
        )
        accepted = answer.json()
        assert answer.status_code == 202
        assert answer.headers["content-type"] == "application/json"
        assert "idempotent-replayed" not in answer.headers
        assert accepted == {"id": accepted["id"], "model": "m", "status": "submitted", "code": 1, "progress": 16.67}
        assert answer.headers["location"] == f"/v1/tasks/{accepted['id']}"

        view = (await tenant.call("GET", answer.headers["location"])).json()
        created_at = view["times"].pop("created_at")
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{1,6}Z", created_at)
        assert set(view["times"].values()) == {None}
        assert view == {
            **accepted,
            "unit_progress": None,
            "result": None,
            "error": None,
            "attempt": 0,
            "executor": None,
            "heartbeat_at": None,
            "provider_job_id": None,
            "times": view["times"],
            "creator": "user-of-7",
            "biz_name": "b-1",
            "input_ref": "ref",
            "priority": -3,
            "version": 1,
        }
        (row,) = await tenant.api.sql("SELECT t.trace, d.priority FROM task t JOIN dispatch d USING (id)")
        assert (row["trace"], row["priority"]) == (TRACE, -3)

    @pytest.mark.parametrize("raw", ["1.0", "1e2", '{"b": 1,\n "a":[1.50 ,2]}', '"\\u00e9é"', "null", "[]", "1" + "0" * 30])
    async def test_a_payload_is_kept_byte_for_byte(self, tenant: Tenant, raw: str) -> None:
        body = f'{{"payload" : {raw} , "model":"m"}}'.encode()
        answer = await tenant.call("POST", "/v1/tasks", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 202, answer.text
        (row,) = await tenant.api.sql("SELECT payload FROM task_input")
        assert row["payload"] == raw.encode()

    async def test_a_payload_may_be_missing(self, tenant: Tenant) -> None:
        answer = await tenant.call("POST", "/v1/tasks", json={"model": "m", "input_ref": "s3://in"})
        assert answer.status_code == 202
        (row,) = await tenant.api.sql("SELECT payload FROM task_input")
        assert row["payload"] == b""

    async def test_a_new_trace_is_made_when_none_or_a_broken_one_comes(self, tenant: Tenant) -> None:
        await tenant.submit()
        await tenant.submit(headers={"traceparent": "00-" + "0" * 32 + "-00f067aa0ba902b7-01"})
        traces = [row["trace"] for row in await tenant.api.sql("SELECT trace FROM task")]
        assert all(re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-00", trace) for trace in traces)
        assert len(set(traces)) == 2

    async def test_a_later_task_is_a_draft_and_holds_its_slot(self, tenant: Tenant) -> None:
        soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
        answer = await tenant.submit(not_before=soon)
        assert answer.json()["status"] == "draft"
        view = (await tenant.call("GET", answer.headers["location"])).json()
        assert (view["status"], view["code"], view["progress"]) == ("draft", 0, 0.0)
        assert datetime.fromisoformat(view["times"]["not_before"]) == datetime.fromisoformat(soon)
        assert await slots(tenant.api) == 1
        far = (datetime.now(UTC) + timedelta(days=400)).isoformat()
        assert (await tenant.submit(not_before=far)).status_code == 400

    async def test_refuses_an_unknown_a_disabled_and_a_deleted_model(self, tenant: Tenant) -> None:
        unknown = await tenant.submit("nothing")
        assert (unknown.status_code, unknown.json()["code"]) == (404, "model_unknown")
        assert unknown.json()["errors"][0]["pointer"] == "/model"
        await tenant.call("PATCH", "/v1/models/m", json={"enabled": False})
        disabled = await tenant.submit()
        assert (disabled.status_code, disabled.json()["code"]) == (409, "model_disabled")
        await tenant.call("DELETE", "/v1/models/m")
        assert (await tenant.submit()).status_code == 404
        assert await slots(tenant.api) == 0

    async def test_a_lane_that_closes_behind_our_back_gives_the_slot_back(self, tenant: Tenant) -> None:
        await tenant.task()
        await tenant.api.sql("UPDATE lane SET closed = true")  # what another process did a moment ago
        answer = await tenant.submit(key="k")
        assert (answer.status_code, answer.json()["code"]) == (404, "model_unknown")
        assert await slots(tenant.api) == 1
        assert not await tenant.api.sql("SELECT FROM idempotency")


class TestGate:
    async def test_a_full_queue_refuses_and_writes_nothing(self, api: Api) -> None:
        tenant = await api.tenant(1)
        await tenant.model("m", queue_limit=2, max_concurrency=1, expected_seconds=7)
        first = await tenant.task()
        await tenant.task()
        refused = await tenant.submit()
        assert (refused.status_code, refused.json()["code"]) == (429, "queue_full")
        assert refused.headers["retry-after"] == "7"
        assert len(await api.sql("SELECT FROM task")) == 2
        # A slot that comes back is used again.
        assert (await tenant.call("POST", f"/v1/tasks/{first}/cancel")).json()["verdict"] == "canceled"
        assert (await tenant.submit()).status_code == 202

    async def test_many_at_once_never_pass_the_limit(self, api: Api) -> None:
        tenant = await api.tenant(1)
        await tenant.model("m", queue_limit=10)
        answers = await asyncio.gather(*[tenant.submit(key=f"k{n}" if n % 2 else None) for n in range(60)])
        assert sorted({answer.status_code for answer in answers}) == [202, 429]
        assert sum(answer.status_code == 202 for answer in answers) == 10
        assert len(await api.sql("SELECT FROM task")) == len(await api.sql("SELECT FROM dispatch")) == 10
        assert await slots(api) == 10


class TestIdempotency:
    async def test_the_same_request_is_made_once(self, tenant: Tenant) -> None:
        first = await tenant.submit(key="order-1", payload={"n": 1})
        second = await tenant.submit(key="order-1", payload={"n": 1})
        assert second.status_code == 202
        assert second.json() == first.json()
        assert second.headers["idempotent-replayed"] == "true"
        assert second.headers["location"] == first.headers["location"]
        assert len(await tenant.api.sql("SELECT FROM task")) == 1
        assert await slots(tenant.api) == 1

    async def test_a_replayed_draft_says_draft(self, tenant: Tenant) -> None:
        soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
        first = await tenant.submit(key="k", not_before=soon)
        await tenant.api.sql("UPDATE dispatch SET state = 0, due_at = NULL")
        assert (await tenant.submit(key="k", not_before=soon)).json() == first.json()

    async def test_another_body_is_refused(self, tenant: Tenant) -> None:
        await tenant.submit(key="k", payload={"n": 1})
        other = await tenant.submit(key="k", payload={"n": 2})
        assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")
        assert await slots(tenant.api) == 1

    async def test_at_the_same_moment_one_wins(self, tenant: Tenant) -> None:
        answers = await asyncio.gather(*[tenant.submit(key="k") for _ in range(20)])
        assert {answer.status_code for answer in answers} == {202}
        assert len({answer.json()["id"] for answer in answers}) == 1
        assert sum("idempotent-replayed" not in answer.headers for answer in answers) == 1
        assert await slots(tenant.api) == 1

    async def test_a_replay_beats_a_full_queue_and_a_disabled_model(self, api: Api) -> None:
        tenant = await api.tenant(1)
        await tenant.model("m", queue_limit=1)
        first = await tenant.submit(key="k")
        assert (await tenant.submit(key="k")).json() == first.json()
        assert (await tenant.submit(key="other")).status_code == 429
        assert (await tenant.submit(key="k", payload=5)).status_code == 422
        await tenant.call("PATCH", "/v1/models/m", json={"enabled": False})
        assert (await tenant.submit(key="k")).json() == first.json()
        assert (await tenant.submit(key="other")).status_code == 409

    async def test_keys_of_tenants_are_their_own(self, tenant: Tenant) -> None:
        other = await tenant.api.tenant(8)
        await other.model("m")
        first, second = await tenant.submit(key="k"), await other.submit(key="k")
        assert first.json()["id"] != second.json()["id"]

    @pytest.mark.parametrize("key", ["", "a b", "x" * 256])
    async def test_a_key_that_cannot_be_used_is_refused(self, tenant: Tenant, key: str) -> None:
        answer = await tenant.submit(key=key)
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_idempotency_key")


class TestBatch:
    async def test_each_gets_its_verdict_in_its_place(self, api: Api) -> None:
        tenant = await api.tenant(1)
        await tenant.model("m", queue_limit=2)
        answer = await tenant.call(
            "POST",
            "/v1/tasks/batch",
            content=b'{"tasks": [{"model":"m","payload":1.0}, {"model":"x"}, {"model":"m","color":"red"}, 5,'
            b'{"model":"m","payload":[1e2]}, {"model":"m"}]}',
        )
        assert answer.status_code == 207
        items = answer.json()["items"]
        assert [item["http_status"] for item in items] == [202, 404, 400, 400, 202, 429]
        assert [item.get("problem", {}).get("code") for item in items] == [
            None, "model_unknown", "invalid", "invalid", None, "queue_full",
        ]  # fmt: skip
        assert items[2]["problem"]["errors"][0]["pointer"] == "/tasks/2/color"
        assert items[0] == {
            "http_status": 202, "id": items[0]["id"], "model": "m", "status": "submitted", "code": 1,
            "progress": 16.67, "replayed": False,
        }  # fmt: skip
        rows = await api.sql("SELECT payload FROM task_input ORDER BY task_id")
        assert [row["payload"] for row in rows] == [b"1.0", b"[1e2]"]
        assert await slots(api) == 2

    async def test_a_thousand_take_few_transactions(self, tenant: Tenant) -> None:
        tasks = [{"model": "m", "payload": {"n": n}} for n in range(1_000)]
        answer = await tenant.call("POST", "/v1/tasks/batch", json={"tasks": tasks})
        assert answer.status_code == 202
        ids = [item["id"] for item in answer.json()["items"]]
        rows = await tenant.api.sql("SELECT public_id, xmin::text AS made_by FROM task ORDER BY id")
        assert [str(row["public_id"]) for row in rows] == ids
        assert len({row["made_by"] for row in rows}) <= 3

    async def test_repeating_a_batch_creates_only_what_is_missing(self, api: Api) -> None:
        tenant = await api.tenant(1)
        await tenant.model("m", queue_limit=2)
        body = {"tasks": [{"model": "m", "payload": n} for n in range(3)]}
        headers = {"Idempotency-Key": "batch-1"}
        first = (await tenant.call("POST", "/v1/tasks/batch", json=body, headers=headers)).json()["items"]
        assert [item["http_status"] for item in first] == [202, 202, 429]
        await tenant.call("PATCH", "/v1/models/m", json={"queue_limit": 9})
        again = (await tenant.call("POST", "/v1/tasks/batch", json=body, headers=headers)).json()["items"]
        assert [item["replayed"] for item in again] == [True, True, False]
        assert [item["id"] for item in again[:2]] == [item["id"] for item in first[:2]]
        body["tasks"][0]["payload"] = "other"
        third = (await tenant.call("POST", "/v1/tasks/batch", json=body, headers=headers)).json()["items"]
        assert [item["http_status"] for item in third] == [422, 202, 202]
        assert len(await api.sql("SELECT FROM task")) == 3

    @pytest.mark.parametrize(
        "body", ["[]", "{}", '{"tasks": []}', '{"tasks": {}}', '{"tasks": [], "more": 1}', '{"tasks": [{}], "tasks": [{}]}']
    )
    async def test_refuses_what_is_no_batch(self, tenant: Tenant, body: str) -> None:
        assert (await tenant.call("POST", "/v1/tasks/batch", content=body)).status_code == 400

    async def test_refuses_more_than_a_thousand(self, tenant: Tenant) -> None:
        answer = await tenant.call("POST", "/v1/tasks/batch", json={"tasks": [{"model": "m"}] * 1_001})
        assert answer.status_code == 400
        assert not await tenant.api.sql("SELECT FROM task")


async def succeed(api: Api, task_id: str) -> None:
    """What an executor writes at the end of a good attempt."""
    files = [{"url": "file:///r.png", "type": "png", "size": 3, "sha256": "ab", "name": "1-0.png"}]
    await api.sql("DELETE FROM dispatch WHERE public_id = $1", task_id)
    await api.sql(
        "UPDATE task SET status = 6, version = 4, attempt = 1, started_at = now(), finished_at = now(),"
        " oss_file = 'file:///r.png', file_type = 'png', file_size = 3, files = $2 WHERE public_id = $1",
        task_id,
        json.dumps(files),
    )


async def start(api: Api, task_id: str) -> None:
    """What an executor writes when it starts an attempt."""
    await api.sql("INSERT INTO executor (id, name, slots) VALUES (1, 'executor-a', 10) ON CONFLICT DO NOTHING")
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
            "url": "file:///r.png", "type": "png", "size": 3,
            "files": [{"url": "file:///r.png", "type": "png", "size": 3, "sha256": "ab", "name": "1-0.png"}],
        }  # fmt: skip
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
        (row,) = await tenant.api.sql("SELECT public_id FROM task WHERE fetched_at IS NOT NULL")
        assert str(row["public_id"]) == ids[1]
        for bad in ({"ids": []}, {"ids": ["x"] * 1_001}, {"ids": [1]}, {"ids": "x"}, {}, []):
            assert (await tenant.call("POST", "/v1/tasks/read", json=bad)).status_code == 400

    async def test_attempts_and_history(self, tenant: Tenant) -> None:
        task = await tenant.task()
        await start(tenant.api, task)
        await tenant.api.sql(
            "INSERT INTO attempt (task_id, attempt, outcome, executor, token, started_at, error_code, error_message)"
            " SELECT id, 1, 'failed', 1, token, started_at, 'model_status', 'it answered 503' FROM dispatch"
        )
        await tenant.api.sql("INSERT INTO history (task_id, kind, attempt, version) SELECT id, 'retry', 1, 4 FROM dispatch")
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
        assert time.monotonic() - began < 3

    async def test_the_present_state_comes_when_time_is_up(self, tenant: Tenant) -> None:
        task = await tenant.task()
        answer = await tenant.call("GET", f"/v1/tasks/{task}", headers={"Prefer": "respond-async, wait=1"})
        assert answer.json()["status"] == "submitted"
        assert answer.headers["preference-applied"] == "wait=1"
        assert tenant.api.waiting() == 0

    async def test_a_retry_ahead_is_no_end(self, tenant: Tenant) -> None:
        task = await tenant.task()
        await tenant.api.sql("UPDATE dispatch SET state = 3, due_at = now() + interval '1 h', attempt = 1, error_code = 'x'")
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

    async def test_who_waits_is_let_go_when_the_process_stops(self, tenant: Tenant) -> None:
        task = await tenant.task()
        waiting = asyncio.create_task(tenant.call("GET", f"/v1/tasks/{task}", headers={"Prefer": "wait=60"}))
        await until(lambda: tenant.api.waiting() == 1)
        tenant.api.health.mark_draining()
        tenant.api.service.stop()
        answer = await waiting
        assert answer.status_code == 200
        assert answer.json()["status"] == "submitted"

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
        ["limit=0", "limit=-1", "limit=1001", "limit=x", "limit=1000000", "limit=1.5", "status=done", "status=", "statuses=failed",
         "cursor=x", "cursor=", "cursor=bW9kZWw6Mw", "cursor=dGFzazoxZTk", "cursor=dGFzazotMQ", "model=%00", "biz_name=a%00"],
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
        assert await slots(tenant.api) == 0
        (event,) = await tenant.api.sql("SELECT status FROM event")
        assert event["status"] == 9
        view = (await tenant.call("GET", f"/v1/tasks/{task}")).json()
        assert view["error"] == {"code": "canceled", "message": "canceled by the caller"}

    async def test_a_running_task_is_asked_to_stop(self, tenant: Tenant) -> None:
        task = await tenant.task()
        await start(tenant.api, task)
        assert await self.verdict(tenant, task) == ("cancel_requested", "processing")
        assert await self.verdict(tenant, task) == ("cancel_requested", "processing")
        assert len(await tenant.api.sql("SELECT FROM cancel_request")) == 1
        assert await slots(tenant.api) == 1

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
        assert await slots(tenant.api) == 2  # not ours to give back: the failure gave it back
        assert await self.verdict(tenant, other) == ("canceled", "canceled")

    async def test_many_cancels_at_once_end_it_once(self, tenant: Tenant) -> None:
        task = await tenant.task()
        verdicts = await asyncio.gather(*[self.verdict(tenant, task) for _ in range(8)])
        assert sorted(verdict for verdict, _ in verdicts) == ["already_final"] * 7 + ["canceled"]
        assert len(await tenant.api.sql("SELECT FROM event")) == 1

    async def test_an_unknown_task_is_not_found(self, tenant: Tenant) -> None:
        assert (await tenant.call("POST", f"/v1/tasks/{uuid4()}/cancel")).status_code == 404


async def test_hints_say_what_became_due(api: Api) -> None:
    tenant = await api.tenant(1)
    heard: list[str] = []

    async def hear() -> None:
        await api.hints.listen(["sw:dispatch", "sw:cancel"], lambda _channel, lines: heard.extend(lines))

    listening = asyncio.create_task(hear())
    try:
        await api.heard_by(2)
        await tenant.model("m")
        await until(lambda: "* models" in heard)
        tasks: list[dict[str, Any]] = [{"model": "m", "priority": priority} for priority in (5, 2, 2, 9)]
        await tenant.call("POST", "/v1/tasks/batch", json={"tasks": tasks})
        rows = await api.sql("SELECT d.id, d.lane, d.priority, d.public_id FROM dispatch d ORDER BY priority, position")
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
