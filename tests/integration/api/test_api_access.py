"""Who may do what over REST, and that no tenant ever meets another's things."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import httpx
import pytest

from libs.common.runtime import metrics
from services.api.app import rest_app
from tests.support.api import Api, Tenant, until_true

pytestmark = pytest.mark.asyncio(loop_scope="package")

#: Every operation of the document: the scope that it needs, and a request that would succeed for the owner.
OPERATIONS: dict[tuple[str, str], tuple[str, Any]] = {
    ("POST", "/v1/tasks"): ("submit", {"model": "m", "payload": {}}),
    ("POST", "/v1/tasks/batch"): ("submit", {"tasks": [{"model": "m"}]}),
    ("GET", "/v1/tasks"): ("read", None),
    ("POST", "/v1/tasks/read"): ("read", {"ids": ["{task_id}"]}),
    ("GET", "/v1/tasks/{task_id}"): ("read", None),
    ("GET", "/v1/tasks/{task_id}/attempts"): ("read", None),
    ("GET", "/v1/tasks/{task_id}/history"): ("read", None),
    ("GET", "/v1/tasks/{task_id}/result"): ("read", None),
    ("HEAD", "/v1/tasks/{task_id}/result"): ("read", None),
    ("GET", "/v1/tasks/{task_id}/result/{index}"): ("read", None),
    ("HEAD", "/v1/tasks/{task_id}/result/{index}"): ("read", None),
    ("POST", "/v1/tasks/{task_id}/cancel"): ("submit", None),
    ("GET", "/v1/op-log"): ("read", None),
    ("GET", "/v1/quota"): ("read|operate", None),
    ("GET", "/v1/quota/limits"): ("admin|operate", None),
    ("PUT", "/v1/quota/limits"): ("admin|operate", {"points_per_day": 5}),
    ("DELETE", "/v1/quota/limits"): ("admin|operate", None),
    ("PUT", "/v1/quota/limits/{user}"): ("admin|operate", {"points_per_day": 5}),
    ("DELETE", "/v1/quota/limits/{user}"): ("admin|operate", None),
    ("GET", "/v1/tenants"): ("operate", None),
    ("GET", "/v1/tenants/{tenant_id}"): ("operate", None),
    ("PUT", "/v1/tenants/{tenant_id}"): ("operate", {"weight": 2}),
    ("GET", "/v1/dead"): ("read|operate", None),
    ("GET", "/v1/dead/groups"): ("read|operate", None),
    ("GET", "/v1/dead/{kind}/{id}"): ("read|operate", None),
    ("GET", "/v1/replays"): ("read|operate", None),
    ("POST", "/v1/replays"): ("admin|operate", {"ids": ["{dead_id}"], "reason": "secret-name"}),
    ("GET", "/v1/replays/{id}"): ("read|operate", None),
    ("GET", "/v1/replays/{id}/items"): ("read|operate", None),
    ("POST", "/v1/replays/{id}/pause"): ("admin|operate", None),
    ("POST", "/v1/replays/{id}/resume"): ("admin|operate", None),
    ("POST", "/v1/replays/{id}/stop"): ("admin|operate", None),
    ("POST", "/v1/webhooks"): ("admin", {"url": "http://127.0.0.1:9/hook"}),
    ("GET", "/v1/webhooks"): ("read|operate", None),
    ("POST", "/v1/webhooks/{webhook_id}/pause"): ("operate", {"reason": "secret-name"}),
    ("POST", "/v1/webhooks/{webhook_id}/resume"): ("operate", None),
    ("POST", "/v1/keys"): ("operate", {"name": "secret-name", "scopes": ["operate"]}),
    ("GET", "/v1/keys"): ("operate", None),
    ("DELETE", "/v1/keys/{key_id}"): ("operate", None),
    ("GET", "/v1/webhooks/{webhook_id}"): ("read", None),
    ("PATCH", "/v1/webhooks/{webhook_id}"): ("admin", {"paused": True}),
    ("DELETE", "/v1/webhooks/{webhook_id}"): ("admin", None),
    ("POST", "/v1/webhooks/{webhook_id}/rotate"): ("admin", {}),
    ("GET", "/v1/webhooks/{webhook_id}/deliveries"): ("read", None),
    ("POST", "/v1/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver"): ("admin", None),
    ("POST", "/v1/models"): ("admin", {"name": "n", "base_url": "http://127.0.0.1:9"}),
    ("GET", "/v1/models"): ("read", None),
    ("GET", "/v1/models/{name}"): ("read", None),
    ("PATCH", "/v1/models/{name}"): ("admin", {"price": 1}),
    ("DELETE", "/v1/models/{name}"): ("admin", None),
    ("GET", "/v1/tasks/{task_id}/why"): ("read|operate", None),
    ("GET", "/v1/models/{name}/why"): ("read|operate", None),
    ("GET", "/v1/lanes"): ("read|operate", None),
    ("GET", "/v1/pauses"): ("read|operate", None),
    ("GET", "/v1/series"): ("read|operate", None),
    ("GET", "/v1/overview"): ("operate", None),
    ("GET", "/v1/executors"): ("operate", None),
    ("GET", "/v1/processes"): ("operate", None),
    ("GET", "/v1/outbox"): ("operate", None),
    ("GET", "/v1/actions"): ("operate", None),
    ("POST", "/v1/dispatch/pause"): ("operate", {"reason": "secret-name"}),
    ("POST", "/v1/dispatch/resume"): ("operate", None),
    ("POST", "/v1/tenants/{tenant_id}/pause"): ("operate", {"reason": "secret-name"}),
    ("POST", "/v1/tenants/{tenant_id}/resume"): ("operate", None),
    ("POST", "/v1/models/{name}/pause"): ("operate", {"reason": "secret-name"}),
    ("POST", "/v1/models/{name}/resume"): ("operate", None),
    ("POST", "/v1/executors/{name}/drain"): ("operate", None),
    ("POST", "/v1/executors/{name}/undrain"): ("operate", None),
    ("POST", "/model/createModel"): ("admin", {"modelName": "n", "baseUrl": "http://127.0.0.1:9"}),
    ("PUT", "/model/updateModel"): ("admin", {"id": "{model_id}", "remark": "x"}),
    ("POST", "/model/updateModel"): ("admin", {"id": "{model_id}", "remark": "x"}),
    ("DELETE", "/model/deleteModel"): ("admin", {"id": "{model_id}"}),
    ("GET", "/model/getModel"): ("read", {"id": "{model_id}"}),
    ("POST", "/model/listModel"): ("read", {}),
    ("POST", "/task/createTask"): ("submit", {"modelName": "m"}),
    ("GET", "/task/getTaskResult"): ("read", {"taskId": "{task_id}"}),
    ("POST", "/task/getTaskBatch"): ("read", {"taskIds": ["{task_id}"]}),
    ("POST", "/task/listTask"): ("read", {}),
    ("POST", "/stat/listModelStat"): ("read", {"tenantId": "{tenant_id}"}),
}
#: Those that answer a stranger with an empty list; the others say that there is nothing, or make something of its own.
LISTS = {
    ("GET", "/v1/tasks"), ("GET", "/v1/models"), ("GET", "/v1/op-log"), ("GET", "/v1/dead"), ("GET", "/v1/dead/groups"),
    ("GET", "/v1/replays"), ("POST", "/v1/tasks/read"),
    ("GET", "/v1/lanes"), ("GET", "/v1/pauses"), ("GET", "/v1/series"),
    ("GET", "/v1/quota/limits"), ("GET", "/v1/webhooks"),
    ("POST", "/model/listModel"),
    ("POST", "/task/getTaskBatch"), ("POST", "/task/listTask"), ("POST", "/stat/listModelStat"),
}  # fmt: skip
MAKES = {
    ("POST", "/v1/models"), ("POST", "/model/createModel"), ("PUT", "/v1/quota/limits"),
    ("PUT", "/v1/quota/limits/{user}"), ("POST", "/v1/webhooks"),
}  # fmt: skip
#: Those that speak of the caller alone.
OWN = {("GET", "/v1/quota")}


#: These never end: who may follow what is tested where they are.
STREAMS = {("GET", "/v1/events"), ("GET", "/v1/tasks/{task_id}/events")}
#: A provider's own way in: its token is tested where callbacks are.
WITHOUT_KEY = {("POST", "/v1/callbacks/{token}")}
#: Not in the document, and the same for everybody.
FOR_ALL = {"/livez", "/readyz", "/startupz", "/metrics", "/openapi.json", "/docs", "/docs/{name}"}


async def test_the_matrix_is_complete() -> None:
    paths = rest_app().openapi()["paths"]
    described = {(method.upper(), path) for path, operations in paths.items() for method in operations}
    assert described == set(OPERATIONS) | STREAMS | WITHOUT_KEY
    routers: list[Any] = rest_app().routes
    routed = {route.path.replace(":path}", "}") for router in routers for route in router.original_router.routes}
    assert routed - set(paths) == FOR_ALL


async def perform(caller: Tenant, operation: tuple[str, str], known: dict[str, str]) -> httpx.Response:
    """A request of the operation, with ids of the things in `known`."""
    method, path = operation
    body = OPERATIONS[operation][1] if operation in OPERATIONS else None
    more: dict[str, Any] = {}
    if body is not None:
        text = json.dumps(body)
        for name, value in known.items():
            text = text.replace(f"{{{name}}}", value)
        more = {"content": text, "headers": {"Content-Type": "application/json"}}
    if path.startswith("/v1/replays"):
        known = {**known, "id": known["job_id"]}
    named = {**known, "task_id": known["ended_id"]} if "/result" in path else known
    return await caller.call(method, path.format(**named, name="m", index=0), **more)


async def furnished(owner: Tenant) -> dict[str, str]:
    """A tenant with a model, tasks that wait, succeeded and died, a job that has a dead one in hand, and their ids."""
    made = await owner.model("m")
    ended = await owner.result(b"secret-name", biz_name="secret-name")
    task = await owner.task(biz_name="secret-name")
    await owner.api.sql(
        "INSERT INTO model_stat (day, tenant_id, creator, model_name, request_count)"
        " VALUES ('2026-01-01', $1, 'secret-name', 'm', 1)",
        owner.id,
    )
    await owner.api.sql("INSERT INTO executor (id, name, slots) VALUES (nextval('executor_ids'), 'm', 1)")
    for user in ("", "secret-name", "user-1"):
        await owner.api.sql("INSERT INTO quota_limit VALUES ($1, $2, 100)", owner.id, user)
    hook = {"url": "http://127.0.0.1:9/hook", "description": "secret-name"}
    hooked = (await owner.call("POST", "/v1/webhooks", json=hook)).json()["id"]
    known = {"task_id": task, "ended_id": ended, "model_id": made["id"], "tenant_id": str(owner.id)}
    known |= {"webhook_id": hooked, "delivery_id": await owner.delivery(hooked, task=ended)}
    await owner.api.key(owner.id, ("read",), name="secret-name")
    (key,) = await owner.api.sql(
        "SELECT id FROM api_key WHERE tenant_id = $1 AND name = 'secret-name' LIMIT 1", owner.id
    )
    known["key_id"] = str(key["id"])
    dead, taken = await owner.task(), await owner.task()
    await owner.bury([dead, taken], "secret-name")
    ordered = await owner.call("POST", "/v1/replays", json={"ids": [taken], "reason": "secret-name"})
    return {**known, "user": "user-1", "dead_id": dead, "kind": "task", "id": dead, "job_id": ordered.json()["id"]}


@pytest.mark.usefixtures("resuming")
@pytest.mark.parametrize("operation", OPERATIONS, ids=" ".join)
async def test_an_operation_needs_its_scope_and_no_other(api: Api, operation: tuple[str, str]) -> None:
    owner = await api.tenant()
    known = await furnished(owner)
    scopes = OPERATIONS[operation][0].split("|")
    others = [other for other in ("submit", "read", "operate", "admin") if other not in scopes]
    refused = await perform(await api.tenant(owner.id, others), operation, known)
    assert refused.status_code == 403
    assert operation[0] == "HEAD" or refused.json()["code"] in ("forbidden", 403)
    for nth, scope in enumerate(scopes):
        if nth:  # what is taken away is gone for the next one
            owner = await api.tenant()
            known = await furnished(owner)
        allowed = await perform(await api.tenant(owner.id, [scope]), operation, known)
        assert allowed.is_success, allowed.text


@pytest.mark.parametrize("operation", OPERATIONS, ids=" ".join)
async def test_another_tenant_sees_and_changes_nothing(api: Api, operation: tuple[str, str]) -> None:
    owner, stranger = await api.tenant(), await api.tenant()
    known = await furnished(owner)
    task = f"/v1/tasks/{known['task_id']}"
    before = [(await owner.call("GET", path)).json() for path in (task, "/v1/models/m")]
    answer = await perform(stranger, operation, known)
    assert "secret-name" not in answer.text
    if OPERATIONS[operation][0] == "operate":
        assert answer.status_code == 403  # over all tenants, for operators alone
        return
    assert known["task_id"] not in answer.text or answer.status_code == 404
    if operation in LISTS:
        assert listed(answer) == []
    elif operation == ("POST", "/v1/tasks/batch"):
        assert answer.json()["items"][0]["http_status"] == 404
    elif OPERATIONS[operation][0] == "operate":
        assert answer.status_code == 403
    elif operation not in MAKES | OWN:
        assert answer.status_code == 404
    assert [(await owner.call("GET", path)).json() for path in (task, "/v1/models/m")] == before
    if operation in LISTS and operation[0] == "POST":  # the same request of the owner finds something
        assert listed(await perform(owner, operation, known)) != []


@pytest.mark.parametrize("operation", [one for one in OPERATIONS if one[0] == "GET" and "/v1/" in one[1]], ids=" ".join)
async def test_head_is_get_without_its_body(api: Api, operation: tuple[str, str]) -> None:
    owner = await api.tenant()
    known = await furnished(owner)
    caller = await api.tenant(owner.id, OPERATIONS[operation][0].split("|"))
    look = ("HEAD", operation[1])
    looked = await perform(caller, look, known)
    (ended,) = await api.sql("SELECT fetched_at FROM task WHERE public_id = $1", known["ended_id"])
    read = await perform(caller, operation, known)
    assert (looked.status_code, looked.content) == (200, b"")
    for name in ("content-type", "etag", "vary"):
        assert looked.headers.get(name) == read.headers.get(name)
    assert ended["fetched_at"] is None, "who saw no body has fetched nothing"
    refused = await perform(await api.tenant(owner.id, ()), look, known)
    assert (refused.status_code, refused.content) == (403, b"")


async def test_a_head_that_fails_is_counted_where_it_belongs(tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    async def outcome(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr("services.api.reading.Reading.outcome", outcome)
    assert (await tenant.call("HEAD", f"/v1/tasks/{await tenant.task()}")).status_code == 500
    counted = 'sluiceway_http_requests_total{method="HEAD",route="/v1/tasks/{task_id}",status="500"}'
    assert counted in metrics.exposition().decode()


async def test_a_stream_has_no_head(tenant: Tenant) -> None:
    for path in ("/v1/events", f"/v1/tasks/{await tenant.task()}/events"):
        answer = await tenant.call("HEAD", path)
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET")


def listed(answer: httpx.Response) -> Any:
    document = answer.json()
    if "points" in document:  # a minute that was looked at has a point for everybody: of nothing, as a rule
        counted = ("success", "failed", "timeout", "canceled", "lost", "backlog")
        return [point for point in document["points"] if any(point[name] for name in counted)]
    return document["items"] if "items" in document else document["data"]["list"]


@pytest.mark.parametrize(
    "authorization",
    [
        None, "", "Bearer", "Bearer sw_x", "Basic c3dfOg==", "Bearer sw_" + "A" * 43, "sw_" + "A" * 43,
        "Bearer sw_" + "A" * 44, "Bearer " + "A" * 65_000, "Bearer sw_" + "é" * 43,
    ],
    ids=lambda value: str(value)[:24],
)  # fmt: skip
async def test_no_key_or_a_wrong_one_is_refused(api: Api, authorization: str | None) -> None:
    headers = [] if authorization is None else [(b"Authorization", authorization.encode("latin-1"))]
    for method, path in (("GET", "/v1/tasks"), ("POST", "/v1/tasks"), ("GET", "/v1/nothing")):
        answer = await api.client.request(method, path, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["code"] == "unauthenticated"
        assert "AAAA" not in answer.text


async def test_a_key_sent_twice_is_refused(tenant: Tenant) -> None:
    twice = [("Authorization", f"Bearer {tenant.key}")] * 2
    answer = await tenant.api.client.get("/v1/tasks", headers=twice)
    assert answer.status_code == 400


async def test_a_revoked_key_stops_working_within_a_second(tenant: Tenant) -> None:
    assert (await tenant.call("GET", "/v1/tasks")).status_code == 200
    await tenant.api.sql("UPDATE api_key SET revoked_at = now() WHERE tenant_id = $1", tenant.id)

    async def refused() -> bool:
        return (await tenant.call("GET", "/v1/tasks")).status_code == 401

    await until_true(refused, seconds=1.5)


async def test_ids_of_tenants_may_be_any_64_bit_number(api: Api) -> None:
    for number in (-(2**63), 0, 2**63 - 1):
        tenant = await api.tenant(number)
        await tenant.model(f"m{uuid4()}")
        assert (await tenant.call("GET", "/v1/models")).json()["items"]
