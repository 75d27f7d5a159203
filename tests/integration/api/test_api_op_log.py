"""Every create leaves its entry in the operation log, accepted or refused, and none costs the create anything."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from uuid import uuid4

import pytest

from libs.common.runtime import failpoints
from services.api import operation_log
from tests.support.api import Api, Tenant, running_api, until_true

pytestmark = pytest.mark.asyncio(loop_scope="package")


async def entries(tenant: Tenant, count: int, **query: Any) -> list[dict[str, Any]]:
    """The tenant's entries, newest first, once there are so many."""
    found: list[dict[str, Any]] = []

    async def there() -> bool:
        answer = await tenant.call("GET", "/v1/op-log", params=query)
        assert answer.status_code == 200, answer.text
        found[:] = answer.json()["items"]
        return len(found) >= count

    await until_true(there)
    assert len(found) == count
    return found


async def test_an_accepted_create_has_one_entry_with_everything_in_it(api: Api) -> None:
    tenant = await api.tenant()
    await tenant.model()
    answer = await tenant.submit(biz_name="greeting", payload={"text": "hi"}, headers={"User-Agent": "shop/1"})
    (entry,) = await entries(tenant, 1)
    assert entry["task_id"] == answer.json()["id"]
    assert (entry["success"], entry["replayed"], entry["error"], entry["type"]) == (True, False, "", "createTask")
    assert (entry["biz_name"], entry["model"], entry["creator"]) == ("greeting", "m", f"user-of-{tenant.id}")
    assert (entry["path"], entry["method"], entry["user_agent"], entry["ip"]) == (
        "/v1/tasks", "POST", "shop/1", "127.0.0.1",
    )  # fmt: skip
    assert json.loads(entry["request"])["payload"] == {"text": "hi"}
    assert json.loads(entry["response"]) == answer.json()
    assert entry["cost_ms"] >= 0


async def test_refused_creates_have_their_entries_too(api: Api) -> None:
    tenant = await api.tenant()
    await tenant.model(queue_limit=1)
    await tenant.submit()
    refused = [
        await tenant.submit(biz_name="b"),  # the gate is full
        await tenant.submit("nobody"),
        await tenant.submit(priority="high"),
        await tenant.call("POST", "/v1/tasks", content=b"not json", headers={"Content-Type": "application/json"}),
        await tenant.call("POST", "/v1/tasks", content=b"<x/>", headers={"Content-Type": "text/xml"}),
        await tenant.call("POST", "/v1/tasks/batch", json={"tasks": []}),
    ]
    *refusals, _ = await entries(tenant, len(refused) + 1)
    codes = [answer.json()["code"] for answer in refused]
    assert [entry["error"].partition(":")[0] for entry in reversed(refusals)] == codes
    assert {(entry["success"], entry["task_id"]) for entry in refusals} == {(False, None)}
    assert json.loads(refusals[-1]["response"]) == refused[0].json()
    assert refusals[-1]["biz_name"] == "b"
    assert refusals[2]["request"] == "not json"
    reader = Tenant(api, tenant.id, await api.key(tenant.id, ["read"]))
    assert (await reader.submit()).status_code == 403
    assert (await entries(tenant, len(refused) + 2))[0]["error"].startswith("forbidden")


async def test_a_create_in_no_proper_form_is_found_by_what_it_said(api: Api) -> None:
    """Those of /v1 had lain in the log without biz_name and model, where nobody who looks for his own finds them."""
    tenant = await api.tenant()
    await tenant.model()
    wrong = [{"priority": "high"}, {"extra": 1}, {"payload": "x" * 2**20}, {"model": 7}]
    for fields in wrong:
        assert (await tenant.submit(biz_name="b", **fields)).status_code in (400, 413)
    assert (await tenant.submit(biz_name="b", key="no key")).status_code == 400
    task = {"model": "m", "payload": 1, "biz_name": "b"}
    answer = await tenant.call("POST", "/v1/tasks/batch", json={"tasks": [{**task, **fields} for fields in wrong]})
    assert answer.status_code == 207
    assert [item["http_status"] for item in answer.json()["items"]] == [400, 400, 413, 400]
    found = await entries(tenant, 9, bizName="b")
    assert [entry["model"] for entry in found].count("m") == 7
    assert {(entry["success"], entry["model"]) for entry in found} == {(False, "m"), (False, "")}


async def test_each_task_of_a_batch_has_an_entry_of_its_own(api: Api) -> None:
    tenant = await api.tenant()
    await tenant.model()
    tasks = [{"model": name, "payload": {"n": n}, "biz_name": f"b{n}"} for n, name in enumerate(["m", "x", "m"])]
    answer = await tenant.call("POST", "/v1/tasks/batch", json={"tasks": [*tasks, 5]})
    items = answer.json()["items"]
    found = {entry["biz_name"]: entry for entry in await entries(tenant, 4)}
    assert [found[f"b{n}"]["task_id"] for n in range(3)] == [items[0]["id"], None, items[2]["id"]]
    assert [json.loads(found[f"b{n}"]["request"]) for n in range(3)] == tasks
    assert found[""]["request"] == "5"
    assert found["b1"]["error"].startswith("model_unknown")
    assert {entry["path"] for entry in found.values()} == {"/v1/tasks/batch"}


async def test_creates_of_the_old_route_have_their_entries(api: Api) -> None:
    tenant = await api.tenant()
    await tenant.model(queue_limit=1)
    body = {"modelName": "m", "bizName": "old", "requestPayload": {"text": "hi", "password": "canary-4"}}
    answers = [
        await tenant.call("POST", "/task/createTask", json=body),
        await tenant.call("POST", "/task/createTask", json=body),
        await tenant.call("POST", "/task/createTask", content=b"{", headers={"Content-Type": "application/json"}),
    ]
    malformed, full, made = await entries(tenant, 3)
    assert made["task_id"] == answers[0].json()["data"]["taskId"]
    assert (made["success"], made["path"], made["biz_name"], made["model"]) == (True, "/task/createTask", "old", "m")
    assert json.loads(made["response"]) == answers[0].json()
    assert json.loads(made["request"])["requestPayload"] == {"text": "hi", "password": "***"}
    assert (full["success"], full["task_id"], full["biz_name"]) == (False, None, "old")
    assert full["error"].startswith("429")
    assert json.loads(full["response"]) == answers[1].json()
    assert (malformed["error"].partition(":")[0], malformed["request"]) == ("40001", "{")
    await entries(tenant, 1, taskId=made["task_id"])


async def test_a_repeated_create_is_an_attempt_of_its_own(api: Api) -> None:
    tenant = await api.tenant()
    await tenant.model()
    first = await tenant.submit(key="k")
    await tenant.submit(key="k")
    again, once = await entries(tenant, 2, taskId=first.json()["id"])
    assert (once["replayed"], again["replayed"]) == (False, True)
    assert again["success"]


async def test_secrets_are_masked_and_bodies_are_cut(api: Api) -> None:
    tenant = await api.tenant()
    await tenant.model()
    await tenant.submit(payload={"api_key": "canary-1", "text": "x" * 10_000, "password": "canary-2"})
    await tenant.submit(payload={"text": "y" * 10_000, "token": "canary-3"})
    found = await entries(tenant, 2)
    assert all(len(entry["request"]) < 4_200 and entry["request"].endswith("...") for entry in found)
    rows = await api.sql("SELECT * FROM op_log WHERE tenant_id = $1", tenant.id)
    assert "canary" not in repr(rows)
    assert tenant.key not in repr(rows)


async def test_secrets_are_masked_however_the_old_route_is_told_them(api: Api) -> None:
    tenant = await api.tenant()
    await tenant.model()
    inner = json.dumps({"Authorization": "Bearer canary-5", "apiKey": "canary-5", "password": "canary-5", "text": "hi"})
    fields = {"modelName": "m", "requestPayload": inner, "password": "canary-5"}
    answers = [
        await tenant.call("POST", "/task/createTask", params=fields),
        await tenant.call("POST", "/task/createTask", data=fields),
        await tenant.call("POST", "/task/createTask", files={name: (None, value) for name, value in fields.items()}),
        await tenant.call("POST", "/task/createTask", json={**fields, "pairs": {"key": "token", "value": "canary-5"}}),
        await tenant.call("POST", "/task/createTask", content='{"modelName":"m","pass\\u0077ord":"canary-5"}'),
    ]
    assert [answer.json()["code"] for answer in answers] == [0] * len(answers)
    found = await entries(tenant, len(answers))
    assert "canary" not in repr(await api.sql("SELECT * FROM op_log WHERE tenant_id = $1", tenant.id))
    assert all("modelName" in entry["request"] and "***" in entry["request"] for entry in found)
    assert ["hi" in entry["request"] for entry in found] == [False, True, True, True, True]


async def test_what_a_stranger_sends_costs_nobody_elses_entry(api: Api) -> None:
    tenant, stranger = await api.tenant(), await api.tenant()
    await tenant.model()
    json_type = {"Content-Type": "application/json"}
    sent = await asyncio.gather(
        tenant.submit(),
        stranger.call("POST", "/task/createTask", content=b'{"a\\u0000":1,"A\\u0000":2}', headers=json_type),
        stranger.call("POST", "/task/createTask?a%00=1&a%00[x]=2"),
        tenant.submit(),
    )
    assert [answer.status_code for answer in sent] == [202, 400, 400, 202]
    assert {entry["success"] for entry in await entries(tenant, 2)} == {True}
    assert {entry["error"].partition(":")[0] for entry in await entries(stranger, 2)} == {"40002"}


async def test_a_body_full_of_unknown_names_is_refused_in_short(api: Api) -> None:
    tenant = await api.tenant()
    await tenant.model()
    many: dict[str, Any] = dict.fromkeys([f"unknown{n}" for n in range(20_000)] + ["n" * 500_000])
    answer = await tenant.submit(**many)
    assert (answer.status_code, len(answer.json()["errors"])) == (400, 20)
    answer = await tenant.submit(**{"n" * 500_000: 1})
    assert answer.status_code == 400
    assert len(answer.content) < 1_000
    await entries(tenant, 2)


async def test_entries_are_the_tenants_own_and_can_be_filtered_and_paged(api: Api) -> None:
    tenant, other = await api.tenant(), await api.tenant()
    await tenant.model()
    ids = [await tenant.task(biz_name=name) for name in ("a", "b", "a", "a")]
    await entries(tenant, 4)
    assert await entries(other, 0) == []
    assert await entries(other, 0, taskId=ids[0]) == []
    assert [entry["task_id"] for entry in await entries(tenant, 3, bizName="a")] == [ids[3], ids[2], ids[0]]
    assert await entries(tenant, 0, taskId=ids[0], bizName="b") == []
    assert await entries(tenant, 0, taskId=str(uuid4())) == []
    seen, cursor = [], {}
    while True:
        page = (await tenant.call("GET", "/v1/op-log", params={"bizName": "a", "limit": 2, **cursor})).json()
        seen += [entry["task_id"] for entry in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert seen == [ids[3], ids[2], ids[0]]


@pytest.mark.parametrize("query", ["taskId=5", "limit=0", "cursor=x", "biz=a", "bizName=%00"])
async def test_a_filter_that_makes_no_sense_is_refused(api: Api, query: str) -> None:
    tenant = await api.tenant()
    assert (await tenant.call("GET", f"/v1/op-log?{query}")).status_code == 400


async def test_a_log_that_cannot_be_written_costs_no_create(api: Api) -> None:
    tenant = await api.tenant()
    await tenant.model()
    failpoints.arm("api/before-operations:1:raise")
    try:
        assert (await tenant.submit(biz_name="lost")).status_code == 202
        await until_true(_struck)
    finally:
        failpoints.arm("")
    await tenant.submit(biz_name="kept")
    assert [entry["biz_name"] for entry in await entries(tenant, 1)] == ["kept"]


async def _struck() -> bool:
    return bool(failpoints.reached())


async def test_memory_is_bounded_and_what_is_left_is_written_at_the_end(
    database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operation_log, "_MOST", 3)
    monkeypatch.setattr(operation_log, "_GATHER_SECONDS", 3_600)
    async with running_api(database_url, redis_url) as api:
        tenant = await api.tenant()
        await tenant.model()
        await asyncio.gather(*(tenant.submit() for _ in range(8)))
        assert await api.sql("SELECT 1 FROM op_log") == []
    async with running_api(database_url, redis_url) as api:
        assert len(await api.sql("SELECT 1 FROM op_log")) == 3
