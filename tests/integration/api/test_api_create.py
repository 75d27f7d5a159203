"""Creating tasks over REST, alone and in batches."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta

import pytest

from tests.support.api import Api, Tenant, until_true

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


pytestmark = pytest.mark.asyncio(loop_scope="package")


class TestCreate:
    async def test_a_task_is_accepted_and_reads_as_it_was_sent(self, tenant: Tenant) -> None:
        answer = await tenant.submit(
            payload={"text": "hello"}, biz_name="b-1", input_ref="ref", priority=-3.0, headers={"traceparent": TRACE}
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
            "creator": f"user-of-{tenant.id}",
            "biz_name": "b-1",
            "input_ref": "ref",
            "priority": -3,
            "output_count": 1,
            "points": 0,
            "version": 1,
        }
        (row,) = await tenant.stored()
        assert (row["trace"], row["priority"]) == (TRACE, -3)

    @pytest.mark.parametrize(
        "raw", ["1.0", "1e2", '{"b": 1,\n "a":[1.50 ,2]}', '"\\u00e9é"', "null", "[]", "1" + "0" * 30]
    )
    async def test_a_payload_is_kept_byte_for_byte(self, tenant: Tenant, raw: str) -> None:
        body = f'{{"payload" : {raw} , "model":"m"}}'.encode()
        answer = await tenant.call("POST", "/v1/tasks", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 202, answer.text
        (row,) = await tenant.stored()
        assert row["payload"] == raw.encode()

    async def test_a_payload_may_be_missing(self, tenant: Tenant) -> None:
        answer = await tenant.call("POST", "/v1/tasks", json={"model": "m", "input_ref": "s3://in"})
        assert answer.status_code == 202
        (row,) = await tenant.stored()
        assert row["payload"] == b""

    async def test_a_new_trace_is_made_when_none_or_a_broken_one_comes(self, tenant: Tenant) -> None:
        await tenant.submit()
        await tenant.submit(headers={"traceparent": "00-" + "0" * 32 + "-00f067aa0ba902b7-01"})
        traces = [row["trace"] for row in await tenant.stored()]
        assert all(re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-00", trace) for trace in traces)
        assert len(set(traces)) == 2

    async def test_a_later_task_is_a_draft_and_holds_its_slot(self, tenant: Tenant) -> None:
        soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
        answer = await tenant.submit(not_before=soon)
        assert answer.json()["status"] == "draft"
        view = (await tenant.call("GET", answer.headers["location"])).json()
        assert (view["status"], view["code"], view["progress"]) == ("draft", 0, 0.0)
        assert datetime.fromisoformat(view["times"]["not_before"]) == datetime.fromisoformat(soon)
        assert await tenant.slots() == 1
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
        assert await tenant.slots() == 0

    async def test_a_lane_that_closes_behind_our_back_gives_the_slot_back(self, tenant: Tenant) -> None:
        await tenant.task()
        await tenant.api.sql(
            "UPDATE lane SET closed = true WHERE tenant_id = $1", tenant.id
        )  # what another process did a moment ago
        answer = await tenant.submit(key="k")
        assert (answer.status_code, answer.json()["code"]) == (404, "model_unknown")
        assert await tenant.slots() == 1
        assert not await tenant.api.sql("SELECT FROM idempotency WHERE tenant_id = $1", tenant.id)


class TestGate:
    async def test_a_full_queue_refuses_and_writes_nothing(self, api: Api) -> None:
        tenant = await api.tenant()
        await tenant.model("m", queue_limit=2, max_concurrency=1, expected_seconds=7)
        first = await tenant.task()
        await tenant.task()
        refused = await tenant.submit()
        assert (refused.status_code, refused.json()["code"]) == (429, "queue_full")
        assert (refused.headers["retry-after"], refused.json()["retry_after"]) == ("7", 7)
        assert len(await tenant.stored()) == 2
        # A slot that comes back is used again.
        assert (await tenant.call("POST", f"/v1/tasks/{first}/cancel")).json()["verdict"] == "canceled"
        assert (await tenant.submit()).status_code == 202

    async def test_many_at_once_never_pass_the_limit(self, api: Api) -> None:
        tenant = await api.tenant()
        await tenant.model("m", queue_limit=10)
        answers = await asyncio.gather(*[tenant.submit(key=f"k{n}" if n % 2 else None) for n in range(60)])
        assert sorted({answer.status_code for answer in answers}) == [202, 429]
        assert sum(answer.status_code == 202 for answer in answers) == 10
        assert [row["open"] for row in await tenant.stored()] == [True] * 10
        assert await tenant.slots() == 10


class TestIdempotency:
    async def test_the_same_request_is_made_once(self, tenant: Tenant) -> None:
        first = await tenant.submit(key="order-1", payload={"n": 1})
        second = await tenant.submit(key="order-1", payload={"n": 1})
        assert second.status_code == 202
        assert second.json() == first.json()
        assert second.headers["idempotent-replayed"] == "true"
        assert second.headers["location"] == first.headers["location"]
        assert len(await tenant.stored()) == 1
        assert await tenant.slots() == 1

    async def test_a_replayed_draft_says_draft(self, tenant: Tenant) -> None:
        soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
        first = await tenant.submit(key="k", not_before=soon)
        await tenant.api.sql("UPDATE dispatch SET state = 0, due_at = NULL WHERE public_id = $1", first.json()["id"])
        assert (await tenant.submit(key="k", not_before=soon)).json() == first.json()

    async def test_another_body_is_refused(self, tenant: Tenant) -> None:
        await tenant.submit(key="k", payload={"n": 1})
        other = await tenant.submit(key="k", payload={"n": 2})
        assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")
        assert await tenant.slots() == 1

    async def test_at_the_same_moment_one_wins(self, tenant: Tenant) -> None:
        answers = await asyncio.gather(*[tenant.submit(key="k") for _ in range(20)])
        assert {answer.status_code for answer in answers} == {202}
        assert len({answer.json()["id"] for answer in answers}) == 1
        assert sum("idempotent-replayed" not in answer.headers for answer in answers) == 1
        assert await tenant.slots() == 1

    async def test_a_replay_beats_a_full_queue_and_a_disabled_model(self, api: Api) -> None:
        tenant = await api.tenant()
        await tenant.model("m", queue_limit=1)
        first = await tenant.submit(key="k")
        assert (await tenant.submit(key="k")).json() == first.json()
        assert (await tenant.submit(key="other")).status_code == 429
        assert (await tenant.submit(key="k", payload=5)).status_code == 422
        await tenant.call("PATCH", "/v1/models/m", json={"enabled": False})
        assert (await tenant.submit(key="k")).json() == first.json()
        assert (await tenant.submit(key="other")).status_code == 409

    async def test_keys_of_tenants_are_their_own(self, tenant: Tenant) -> None:
        other = await tenant.api.tenant()
        await other.model("m")
        first, second = await tenant.submit(key="k"), await other.submit(key="k")
        assert first.json()["id"] != second.json()["id"]

    @pytest.mark.parametrize("key", ["", "a b", "x" * 256])
    async def test_a_key_that_cannot_be_used_is_refused(self, tenant: Tenant, key: str) -> None:
        answer = await tenant.submit(key=key)
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_idempotency_key")


class TestBatch:
    async def test_each_gets_its_verdict_in_its_place(self, api: Api) -> None:
        tenant = await api.tenant()
        await tenant.model("m", queue_limit=2, max_concurrency=1, expected_seconds=7)
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
        assert [item.get("problem", {}).get("retry_after") for item in items] == [None] * 5 + [7]
        assert items[0] == {
            "http_status": 202, "id": items[0]["id"], "model": "m", "status": "submitted", "code": 1,
            "progress": 16.67, "replayed": False,
        }  # fmt: skip
        rows = await tenant.stored()
        assert [row["payload"] for row in rows] == [b"1.0", b"[1e2]"]
        assert await tenant.slots() == 2

    async def test_a_thousand_take_few_transactions(self, tenant: Tenant) -> None:
        tasks = [{"model": "m", "payload": {"n": n}} for n in range(1_000)]
        answer = await tenant.call("POST", "/v1/tasks/batch", json={"tasks": tasks})
        assert answer.status_code == 202
        ids = [item["id"] for item in answer.json()["items"]]
        rows = await tenant.stored()
        assert {str(row["public_id"]) for row in rows} == set(ids)  # two transactions at a time: in no order
        assert len(ids) == len(rows) == 1_000
        assert len({row["made_by"] for row in rows}) <= 10

    @pytest.mark.parametrize(
        ("table", "waiting", "verdict"), [("model", 2, "model_unknown"), ("webhook", 1, "webhook_unsigned")]
    )
    async def test_what_a_hundred_ask_at_once_keeps_no_connection_from_others(
        self, tenant: Tenant, table: str, waiting: int, verdict: str
    ) -> None:
        asked = {"model": "m", "webhook_url": "http://127.0.0.1:9/hook"}
        tasks = [{"model": f"unknown-{n}"} if table == "model" else asked for n in range(100)]
        async with tenant.api.pool.acquire() as connection, connection.transaction():
            await connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
            sending = asyncio.create_task(tenant.call("POST", "/v1/tasks/batch", json={"tasks": tasks}))

            async def they_wait() -> bool:  # of models, the process's own look waits too
                locked = (
                    "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
                )
                return len(await tenant.api.sql(locked)) >= waiting

            await until_true(they_wait)
            others = await asyncio.gather(*(tenant.call("GET", "/v1/quota") for _ in range(20)))
        assert {answer.status_code for answer in others} == {200}
        items = (await sending).json()["items"]
        assert [item["problem"]["code"] for item in items] == [verdict] * 100

    async def test_repeating_a_batch_creates_only_what_is_missing(self, api: Api) -> None:
        tenant = await api.tenant()
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
        assert len(await tenant.stored()) == 3

    @pytest.mark.parametrize(
        "body",
        ["[]", "{}", '{"tasks": []}', '{"tasks": {}}', '{"tasks": [], "more": 1}', '{"tasks": [{}], "tasks": [{}]}'],
    )
    async def test_refuses_what_is_no_batch(self, tenant: Tenant, body: str) -> None:
        assert (await tenant.call("POST", "/v1/tasks/batch", content=body)).status_code == 400

    async def test_refuses_more_than_a_thousand(self, tenant: Tenant) -> None:
        answer = await tenant.call("POST", "/v1/tasks/batch", json={"tasks": [{"model": "m"}] * 1_001})
        assert answer.status_code == 400
        assert not await tenant.stored()
