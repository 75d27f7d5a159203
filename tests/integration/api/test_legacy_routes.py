"""What the old routes promise beyond form: states, fetching, statistics, whose identity, what is kept of it."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from libs.common.adapters.secrets import KeyRing
from libs.common.runtime import failpoints
from tests.support.api import Api, Tenant, running_api, settings, until_true

pytestmark = pytest.mark.asyncio(loop_scope="package")

FINISHED = datetime(2026, 6, 30, 20, 30, 15, 999_000, UTC)


async def data(caller: Tenant, method: str, path: str, body: Any = None, **query: str) -> Any:
    """The data of an answer that is no refusal."""
    answer = await caller.call(method, path, json=body, params=query)
    assert answer.status_code == 200, answer.text
    assert answer.json()["code"] == 0
    return answer.json()["data"]


async def created(caller: Tenant, **fields: Any) -> str:
    made = await data(caller, "POST", "/task/createTask", {"modelName": "m", **fields})
    return str(made["taskId"])


async def end(caller: Tenant, task: str, status: int, **columns: Any) -> None:
    """What an executor's last statement leaves behind."""
    await caller.api.sql(
        "WITH gone AS (DELETE FROM dispatch WHERE public_id = $1)"
        " UPDATE task SET status = $2, finished_at = $3, started_at = $3, attempt = 1, oss_file = $4, file_type = $5,"
        " file_size = $6, error_message = $7, files = $8 WHERE public_id = $1",
        task,
        status,
        FINISHED,
        columns.get("oss_file"),
        columns.get("file_type"),
        columns.get("file_size"),
        columns.get("error"),
        json.dumps([{"url": columns["oss_file"]}]) if "oss_file" in columns else None,
    )


async def states(caller: Tenant, task: str) -> tuple[int, int, int]:
    """What the list, the batch and the single read say, in that order."""
    listed = (await data(caller, "POST", "/task/listTask", {"taskId": task}))["list"][0]["state"]
    batch = (await data(caller, "POST", "/task/getTaskBatch", {"taskIds": [task]}))["list"][0]["state"]
    return listed, batch, (await data(caller, "GET", "/task/getTaskResult", taskId=task))["state"]


class TestIdempotency:
    async def ask(self, caller: Tenant, key: str, *, how: str = "json", **fields: Any) -> Any:
        asked: dict[str, Any] = {how: {"modelName": "m", **fields}}
        return await caller.call("POST", "/task/createTask", headers={"Idempotency-Key": key}, **asked)

    async def test_the_same_request_is_made_once_however_it_is_written(self, tenant: Tenant) -> None:
        first = await self.ask(tenant, "order-1", bizName="b", inputRef="r")
        assert "idempotent-replayed" not in first.headers
        same = {"model_name": "m", "biz_name": "b", "input_ref": "r"}
        for how, fields in (("json", {"inputRef": "r", "bizName": "b"}), ("data", same), ("params", same)):
            again = await self.ask(tenant, "order-1", how=how, **fields)
            assert (again.status_code, again.json()) == (200, first.json())
            assert again.headers["idempotent-replayed"] == "true"
        assert len(await tenant.stored()) == 1
        assert await tenant.slots() == 1

    async def test_another_request_is_refused(self, tenant: Tenant) -> None:
        await self.ask(tenant, "k", requestPayload={"n": 1})
        for other in ({"requestPayload": {"n": 2}}, {"requestPayload": {"n": 1}, "bizName": "b"}):
            refused = await self.ask(tenant, "k", **other)
            assert (refused.status_code, refused.json()["code"], refused.json()["data"]) == (422, 422, None)
        assert len(await tenant.stored()) == 1

    async def test_a_replay_beats_a_full_queue(self, api: Api) -> None:
        tenant = await api.tenant()
        await tenant.model("m", queue_limit=1)
        first = await self.ask(tenant, "k")
        assert (await self.ask(tenant, "other")).json()["code"] == 429
        assert (await self.ask(tenant, "k")).json() == first.json()

    async def test_keys_of_the_new_route_are_others(self, tenant: Tenant) -> None:
        first = await tenant.submit(key="k")
        assert (await self.ask(tenant, "k")).json()["data"]["taskId"] != first.json()["id"]

    @pytest.mark.parametrize("key", ["", "a b", "x" * 256])
    async def test_a_key_that_cannot_be_used_is_refused(self, tenant: Tenant, key: str) -> None:
        refused = await self.ask(tenant, key)
        assert (refused.status_code, refused.json()["code"]) == (400, 40_009)

    async def test_a_repeated_create_is_an_operation_of_its_own(self, tenant: Tenant) -> None:
        tasks = {(await self.ask(tenant, "k")).json()["data"]["taskId"] for _ in range(2)}

        async def noted() -> bool:
            return len(await rows()) == 2

        async def rows() -> Any:
            return await tenant.api.sql(
                "SELECT task_id::text, replayed FROM op_log WHERE tenant_id = $1 ORDER BY id", tenant.id
            )

        await until_true(noted)
        assert [(row["task_id"], row["replayed"]) for row in await rows()] == [(*tasks, False), (*tasks, True)]

    async def test_whose_answer_was_lost_is_told_to_repeat_it(self, tenant: Tenant) -> None:
        failpoints.arm("api/after-commit:1:raise")
        try:
            lost = await self.ask(tenant, "k")
        finally:
            failpoints.arm("")
        assert lost.json()["code"] == 503
        assert "Idempotency-Key" in lost.json()["message"]
        again = await self.ask(tenant, "k")
        assert again.headers["idempotent-replayed"] == "true"
        assert len(await tenant.stored()) == 1


async def test_the_first_read_of_a_success_answers_2_and_later_ones_4(tenant: Tenant) -> None:
    task = await created(tenant)
    await end(tenant, task, 6, oss_file="https://files/x.wav", file_type="wav", file_size=7)
    for _ in range(2):  # lists never fetch
        row = (await data(tenant, "POST", "/task/listTask"))["list"][0]
        assert (row["state"], row["ossFile"], row["expireAt"]) == (2, "https://files/x.wav", None)
    first = await data(tenant, "GET", "/task/getTaskResult", taskId=task)
    assert (first["state"], first["fileType"], first["fileSize"], first["errorMsg"]) == (2, "wav", 7, "")
    second = await data(tenant, "GET", "/task/getTaskResult", taskId=task.upper())
    assert (second["state"], second["ossFile"]) == (4, "https://files/x.wav")
    (row,) = await tenant.stored()
    assert (row["expire_at"] - row["fetched_at"]).total_seconds() == 86_400
    assert await states(tenant, task) == (4, 4, 4)
    (again,) = await tenant.stored()
    assert again["expire_at"] == row["expire_at"]  # set once
    assert [len((await data(tenant, "POST", "/task/listTask", {"state": n}))["list"]) for n in range(6)] == [
        0, 0, 0, 0, 1, 0,
    ]  # fmt: skip


@pytest.mark.parametrize("route", ["getTaskResult", "getTaskBatch"])
async def test_of_two_first_reads_at_the_same_moment_one_answers_2_and_the_other_4(tenant: Tenant, route: str) -> None:
    task = await created(tenant)
    await end(tenant, task, 6, oss_file="https://files/x.wav")

    async def state() -> int:
        if route == "getTaskResult":
            return int((await data(tenant, "GET", "/task/getTaskResult", taskId=task))["state"])
        (item,) = (await data(tenant, "POST", "/task/getTaskBatch", {"taskIds": [task]}))["list"]
        return int(item["state"])

    async def both_have_read() -> bool:
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return (await tenant.api.sql(waiting))[0]["count"] == 2

    async with tenant.api.pool.acquire() as other:
        transaction = other.transaction()
        await transaction.start()
        await other.execute("SELECT 1 FROM task WHERE public_id = $1 FOR UPDATE", task)
        reads = asyncio.gather(state(), state())
        await until_true(both_have_read)
        await transaction.rollback()
    assert sorted(await reads) == [2, 4]


async def test_a_batch_marks_its_successes_and_nothing_else(tenant: Tenant) -> None:
    waiting, done, failed, late, canceled = [await created(tenant) for _ in range(5)]
    await end(tenant, done, 6, oss_file="https://files/x.wav")
    await end(tenant, failed, 7, error="the model answered 400")
    await end(tenant, late, 8)
    await end(tenant, canceled, 9)
    ids = [waiting, done, failed, late, canceled]
    for success in (2, 4):
        batch = (await data(tenant, "POST", "/task/getTaskBatch", {"taskIds": ids}))["list"]
        assert [item["state"] for item in batch] == [0, success, 3, 3, 5]
        assert [item["ossFile"] for item in batch] == ["", "https://files/x.wav", "", "", ""]
    assert [row["fetched_at"] is not None for row in await tenant.stored()] == [False, True, False, False, False]
    totals = [(await data(tenant, "POST", "/task/listTask", {"state": state}))["total"] for state in range(6)]
    assert totals == [1, 0, 0, 2, 1, 1]
    assert (await data(tenant, "GET", "/task/getTaskResult", taskId=failed))["errorMsg"] == "the model answered 400"


async def test_running_tasks_and_pending_uploads(tenant: Tenant) -> None:
    task = await created(tenant)
    started = (
        "UPDATE dispatch SET state = 1, lease = 1, leased_at = now(), token = gen_random_uuid(), executor = 1,"
        " started_at = now(), attempt = 2, retries = 1, phase = $2, staged = $3 WHERE public_id = $1"
    )
    await tenant.api.sql(started, task, 0, None)
    row = await data(tenant, "GET", "/task/getTaskResult", taskId=task)
    assert (row["state"], row["phase"], row["retryCount"], row["status"]) == (1, 0, 1, "processing")
    await tenant.api.sql(started, task, 2, "local:x")
    row = await data(tenant, "GET", "/task/getTaskResult", taskId=task)
    assert (row["state"], row["phase"], row["status"]) == (1, 1, "generated")
    await tenant.api.sql(
        "UPDATE dispatch SET state = 3, lease = NULL, token = NULL, phase = 0, due_at = now(), error_message = 'boom'"
        " WHERE public_id = $1",
        task,
    )
    row = await data(tenant, "GET", "/task/getTaskResult", taskId=task)
    assert (row["state"], row["errorMsg"]) == (3, "boom")
    assert (await data(tenant, "POST", "/task/listTask", {"state": 3}))["total"] == 1


async def test_a_failure_that_waits_for_its_retry_shows_its_attempt_and_the_retries_made(tenant: Tenant) -> None:
    """Old callers take state 3 with `retryCount` below the model's `retryTimes` for "another attempt follows"."""
    task = await created(tenant)
    await tenant.api.sql(
        "WITH d AS (UPDATE dispatch SET state = 3, due_at = now() + interval '1 hour', attempt = 2, retries = 2,"
        " error_message = 'boom' WHERE public_id = $1 RETURNING id) INSERT INTO attempt (task_id, attempt, outcome,"
        " started_at, ended_at) SELECT id, n, 'failed', $2::timestamptz + make_interval(hours => n - 2),"
        " $2::timestamptz + make_interval(hours => n - 2, secs => 5) FROM d, generate_series(1, 2) AS n",
        task,
        FINISHED,
    )
    row = await data(tenant, "GET", "/task/getTaskResult", taskId=task)
    assert (row["state"], row["retryCount"], row["errorMsg"]) == (3, 1, "boom")
    assert (row["startedAt"], row["finishedAt"]) == ("2026-06-30 20:30:15", "2026-06-30 20:30:20")
    assert (await data(tenant, "POST", "/task/listTask", {"taskId": task}))["list"] == [row]
    # Canceled while it waits, it has run all the same.
    other = await created(tenant)
    await tenant.api.sql(
        "WITH d AS (UPDATE dispatch SET state = 3, due_at = now() + interval '1 hour', attempt = 1, retries = 1"
        " WHERE public_id = $1 RETURNING id) INSERT INTO attempt (task_id, attempt, outcome, started_at)"
        " SELECT id, 1, 'failed', $2 FROM d",
        other,
        FINISHED,
    )
    assert (await tenant.call("POST", f"/v1/tasks/{other}/cancel")).json()["verdict"] == "canceled"
    ended = await data(tenant, "GET", "/task/getTaskResult", taskId=other)
    assert (ended["state"], ended["startedAt"], bool(ended["finishedAt"])) == (5, "2026-06-30 20:30:15", True)
    assert ended["retryCount"] == 0  # and its retry was never made
    # Back in the queue it has made two, and no attempt runs.
    await tenant.api.sql("UPDATE dispatch SET state = 0, due_at = NULL WHERE public_id = $1", task)
    row = await data(tenant, "GET", "/task/getTaskResult", taskId=task)
    assert (row["state"], row["retryCount"], row["startedAt"], row["finishedAt"]) == (0, 2, None, None)


async def test_times_and_days_are_those_of_the_setting(stores: tuple[str, str]) -> None:
    async with running_api(*stores, timezone="Asia/Shanghai") as api:
        tenant = await api.tenant()
        await tenant.model("m")
        task = await created(tenant)
        await end(tenant, task, 6, oss_file="https://files/x")
        row = await data(tenant, "GET", "/task/getTaskResult", taskId=task)
        assert row["finishedAt"] == "2026-07-01 04:30:15"
        now = datetime.now(ZoneInfo("Asia/Shanghai")).replace(tzinfo=None)
        assert abs((datetime.fromisoformat(row["createdAt"]) - now).total_seconds()) < 60


async def test_a_page_of_large_payloads_is_cut_where_it_would_not_fit(tenant: Tenant) -> None:
    large = "x" * 1_000_000
    tasks = [await created(tenant, requestPayload=large) for _ in range(18)]
    rows = (await data(tenant, "POST", "/task/listTask", {"page": {"pageSize": 1_000}}))["list"]
    assert [row["taskId"] for row in rows] == tasks[::-1]
    assert [row["requestPayload"] == large for row in rows] == [True] * 16 + [False] * 2
    assert (await data(tenant, "GET", "/task/getTaskResult", taskId=tasks[0]))["requestPayload"] == large


async def count(api: Api, day: str, tenant: int, creator: str, model: str, calls: int) -> None:
    await api.sql(
        "INSERT INTO model_stat (day, tenant_id, creator, model_name, request_count)"
        " VALUES ($1::text::date, $2, $3, $4, $5)",
        day,
        tenant,
        creator,
        model,
        calls,
    )


async def counts(caller: Tenant, **wanted: Any) -> list[tuple[str, str, str, str, int]]:
    answer = await data(caller, "POST", "/stat/listModelStat", wanted)
    assert answer["total"] == len(answer["list"])
    return [
        (row["day"], row["tenantId"], row["creator"], row["modelName"], row["requestCount"]) for row in answer["list"]
    ]


async def test_statistics_by_day_then_count_with_what_is_not_folded_yet(tenant: Tenant) -> None:
    me = str(tenant.id)
    await count(tenant.api, "2026-03-01", tenant.id, "ann", "m", 5)
    await count(tenant.api, "2026-03-02", tenant.id, "ann", "m", 1)
    await count(tenant.api, "2026-03-02", tenant.id, "b%b", "m", 2)
    (model,) = await tenant.api.sql("SELECT id FROM model WHERE tenant_id = $1", tenant.id)
    for calls in (3, -1):
        await tenant.api.sql(
            "INSERT INTO stat_delta (day, tenant_id, creator, model_id, calls)"
            " VALUES ('2026-03-02', $1, 'ann', $2, $3)",
            tenant.id,
            model["id"],
            calls,
        )
    newest = [("2026-03-02", me, "ann", "m", 3), ("2026-03-02", me, "b%b", "m", 2)]
    assert await counts(tenant) == [*newest, ("2026-03-01", me, "ann", "m", 5)]
    assert await counts(tenant, startDay="2026-03-02", tenantId=me) == newest
    assert await counts(tenant, endDay="2026-03-01") == [("2026-03-01", me, "ann", "m", 5)]
    assert await counts(tenant, creator="%") == newest[1:]
    assert await counts(tenant, creator="nn", modelName="M") == []
    page = await data(tenant, "POST", "/stat/listModelStat", {"page": {"pageNum": 2, "pageSize": 2}})
    assert ([row["day"] for row in page["list"]], page["total"]) == (["2026-03-01"], 3)


async def test_calls_that_were_all_taken_back_are_in_no_list(tenant: Tenant) -> None:
    await count(tenant.api, "2026-03-01", tenant.id, "ann", "m", 0)
    await count(tenant.api, "2026-03-02", tenant.id, "ann", "m", 1)
    (model,) = await tenant.api.sql("SELECT id FROM model WHERE tenant_id = $1", tenant.id)
    await tenant.api.sql(
        "INSERT INTO stat_delta (day, tenant_id, creator, model_id, calls) VALUES ('2026-03-02', $1, 'ann', $2, -1)",
        tenant.id,
        model["id"],
    )
    assert await counts(tenant) == []


async def test_who_may_read_the_statistics_of_all_tenants(stores: tuple[str, str]) -> None:
    async with running_api(*stores, stat_readers="990001, 990002") as api:
        owner, stranger, reader = await api.tenant(), await api.tenant(), await api.tenant(990_001)
        operator = await api.tenant(scopes=["read", "operate"])
        await count(api, "2026-04-01", owner.id, "ann", "only-here", 9)
        row = [("2026-04-01", str(owner.id), "ann", "only-here", 9)]
        assert await counts(owner, modelName="only-here") == row
        assert await counts(stranger, modelName="only-here") == []
        assert await counts(stranger, tenantId=owner.id) == []
        for caller in (reader, operator):
            assert await counts(caller, modelName="only-here") == row
            assert await counts(caller, tenantId=str(owner.id)) == row
            assert await counts(caller, tenantId=stranger.id) == []


async def test_refusals_with_status_200_where_callers_expect_that(stores: tuple[str, str]) -> None:
    async with running_api(*stores, legacy_http_200=True) as api:
        tenant = await api.tenant()
        await tenant.model("m", queue_limit=1)
        await created(tenant)
        key = {"Authorization": f"Bearer {tenant.key}"}
        for path, code in (("getTaskBatch", 40_002), ("nothing", 404), ("createTask", 429)):
            answer = await api.client.post(f"/task/{path}", json={"modelName": "m"}, headers=key)
            assert (answer.status_code, answer.json()["code"], answer.json()["data"]) == (200, code, None)
        assert answer.headers["retry-after"] == "1"
        nobody = await api.client.post("/task/createTask", json={})
        assert (nobody.status_code, nobody.json()["code"]) == (200, 401)
        # /v1 stays as it is
        assert (await tenant.submit()).status_code == 429


class TestIdentity:
    async def test_a_trusted_peer_speaks_for_its_users_on_old_and_new_routes(self, stores: tuple[str, str]) -> None:
        async with running_api(*stores, trusted_peers="127.0.0.0/8", default_identity="770003:poller") as api:
            ann = {"X-User-Info": '{"tenantId":"770001","userName":"李安"}'.encode(), "Authorization": "Bearer x"}
            model = {"modelName": "m", "baseUrl": "http://127.0.0.1:9"}
            made = await api.client.post("/model/createModel", json=model, headers=ann)
            assert made.status_code == 200, made.text
            old = await api.client.post("/task/createTask", json={"modelName": "m"}, headers=ann)
            new = await api.client.post("/v1/tasks", json={"model": "m"}, headers=ann)
            assert (old.status_code, new.status_code) == (200, 202)
            rows = await api.sql("SELECT DISTINCT tenant_id, creator FROM task WHERE tenant_id = 770001")
            assert [tuple(row) for row in rows] == [(770_001, "李安")]
            poller = await api.client.get("/task/getTaskResult", params=old.json()["data"])
            assert poller.status_code == 404  # the default identity is a tenant like any other
            assert (await api.client.get("/v1/tasks")).json()["items"] == []
            # Without a file service nobody needs the caller's headers: they are kept nowhere.
            assert not await api.sql(
                "SELECT 1 FROM task_secret s JOIN task t ON t.id = s.task_id WHERE t.tenant_id = 770001"
            )

    async def test_from_anybody_else_user_info_says_nothing(self, api: Api, tenant: Tenant) -> None:
        forged = {"X-User-Info": json.dumps({"tenantId": tenant.id, "userName": "eve"})}
        for path in ("/task/listTask", "/v1/tasks/read"):
            answer = await api.client.post(path, json={"ids": []}, headers=forged)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
        other = await api.tenant()
        assert (await other.call("POST", "/task/listTask", headers=forged)).json()["data"]["total"] == 0
        twice = await tenant.api.client.post("/task/listTask", headers=[*forged.items(), *forged.items()])
        assert (twice.status_code, twice.json()["code"]) == (400, 40_002)

    async def test_what_the_upload_needs_is_kept_sealed_and_seen_nowhere(
        self, stores: tuple[str, str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        ring = KeyRing(settings(*stores).secret_keys.get_secret_value())
        async with running_api(*stores, trusted_peers="127.0.0.0/8", oss_url="http://127.0.0.1:9") as api:
            info = json.dumps({"tenantId": 770_010, "userName": "canary-user"})
            sent = {"X-User-Info": info, "Authorization": "Bearer canary-token"}
            model = {"modelName": "m", "baseUrl": "http://127.0.0.1:9"}
            await api.client.post("/model/createModel", json=model, headers=sent)
            old = await api.client.post("/task/createTask", json={"modelName": "m"}, headers=sent)
            new = await api.client.post("/v1/tasks", json={"model": "m"}, headers=sent)
            for task in (old.json()["data"]["taskId"], new.json()["id"]):
                (row,) = await api.sql(
                    "SELECT s.sealed, s.xmin::text = t.xmin::text AS together FROM task_secret s"
                    " JOIN task t ON t.id = s.task_id WHERE t.public_id = $1",
                    task,
                )
                assert row["together"]  # the create's own transaction
                assert b"canary" not in row["sealed"]
                opened = json.loads(ring.open(row["sealed"], f"task:{task}"))
                assert opened == {"authorization": "Bearer canary-token", "x_user_info": info}
            read = await api.client.get("/task/getTaskResult", params=old.json()["data"], headers=sent)
            assert "canary-token" not in read.text
            # An API key of ours is nobody's business, and what its owner says of itself is not vouched for.
            tenant = await api.tenant()
            await tenant.model("m")
            await created(tenant)
            assert not await api.sql(
                "SELECT 1 FROM task_secret s JOIN task t ON t.id = s.task_id WHERE t.tenant_id = $1", tenant.id
            )
        assert "canary-token" not in "".join(capsys.readouterr())


async def test_a_model_is_changed_by_its_id_while_others_rename_it(tenant: Tenant) -> None:
    (made,) = (await data(tenant, "POST", "/model/listModel"))["list"]
    stranger = await tenant.api.tenant()
    await asyncio.gather(
        *[
            data(tenant, "PUT", "/model/updateModel", {"id": made["id"], "modelName": f"n{n}", "remark": str(n)})
            for n in range(3)
        ]
    )
    changed = await data(tenant, "GET", "/model/getModel", id=made["id"])
    assert changed["modelName"] == f"n{changed['remark']}"
    for method, path in (("PUT", "updateModel"), ("DELETE", "deleteModel"), ("GET", "getModel")):
        answer = await stranger.call(method, f"/model/{path}", json={"id": made["id"], "remark": "mine"})
        assert answer.status_code == 404
    assert await data(tenant, "GET", "/model/getModel", id=made["id"]) == changed


async def test_a_change_holds_for_the_next_create(tenant: Tenant) -> None:
    (made,) = (await data(tenant, "POST", "/model/listModel"))["list"]
    await data(tenant, "POST", "/model/updateModel", {"id": made["id"], "queueLimit": 1})
    await created(tenant)
    refused = await tenant.call("POST", "/task/createTask", json={"modelName": "m"})
    assert (refused.status_code, refused.json()["code"]) == (429, 429)
    assert len(await tenant.stored()) == 1
    assert await tenant.slots() == 1
