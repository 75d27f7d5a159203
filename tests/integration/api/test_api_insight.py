"""Why, sight, series and orders over REST: a tenant sees its own, an operator everything; bad input changes nothing."""

from __future__ import annotations

import pytest
import pytest_asyncio

from services.api.cursors import cursor_of
from tests.support.api import Api, Tenant, until_true
from tests.support.sights import documented_codes

pytestmark = pytest.mark.asyncio(loop_scope="package")


@pytest_asyncio.fixture(loop_scope="package")
async def operator(api: Api, resuming: None) -> Tenant:
    """A key that may look at everything."""
    return await api.tenant(scopes=("read", "operate"))


async def test_a_task_tells_its_tenant_and_an_operator_why_it_waits(tenant: Tenant, operator: Tenant, api: Api) -> None:
    task = await tenant.task()
    await tenant.task()
    said = (await tenant.call("GET", f"/v1/tasks/{task}/why")).json()
    assert (said["task_id"], said["model"], said["status"]) == (task, "m", "submitted")
    assert said["code"] == said["holds"][0]["code"] == "no_dispatcher"
    assert {hold["code"] for hold in said["holds"]} <= documented_codes()
    assert said["position"] == {"ahead": 0, "exact": True}
    assert said["estimate"] is None
    assert (await operator.call("GET", f"/v1/tasks/{task}/why")).json()["task_id"] == task
    stranger = await api.tenant()
    assert (await stranger.call("GET", f"/v1/tasks/{task}/why")).status_code == 404


async def test_a_pause_is_shown_wherever_it_holds_something_and_who_made_it_to_operators_alone(
    tenant: Tenant, operator: Tenant
) -> None:
    task = await tenant.task()
    order = {"reason": "wrong answers"}
    where = f"/v1/models/m/pause?tenant={tenant.id}"
    assert (await operator.call("POST", where, json=order)).json() == {"verdict": "paused"}
    assert (await operator.call("POST", where, json=order)).json() == {"verdict": "already_paused"}
    said = (await tenant.call("GET", f"/v1/tasks/{task}/why")).json()
    assert said["code"] == "model_paused"
    assert "wrong answers" in said["message"]
    why = (await tenant.call("GET", "/v1/models/m/why")).json()
    assert (why["code"], why["lane"]["pauses"][0]["by"]) == ("model_paused", None)
    (lane,) = (await operator.call("GET", f"/v1/lanes?tenant={tenant.id}")).json()["items"]
    assert lane["pauses"][0]["by"] == f"user-of-{operator.id}"
    assert lane["waiting"] == {"value": 1, "exact": True}
    (pause,) = (await tenant.call("GET", "/v1/pauses")).json()["items"]
    assert (pause["scope"], pause["model"], pause["by"], pause["reason"]) == ("model", "m", None, "wrong answers")
    overview = (await operator.call("GET", "/v1/overview")).json()
    assert overview["ready"]["value"] >= 1
    actions = (await operator.call("GET", "/v1/actions?limit=1")).json()
    assert (actions["items"][0]["action"], actions["items"][0]["subject"]) == ("pause", "model m")
    assert (await operator.call("POST", f"/v1/models/m/resume?tenant={tenant.id}")).json() == {"verdict": "resumed"}


async def test_all_dispatching_and_a_tenant_can_be_paused(tenant: Tenant, operator: Tenant) -> None:
    task = await tenant.task()
    assert (await operator.call("POST", "/v1/dispatch/pause")).json() == {"verdict": "paused"}
    await operator.call("POST", f"/v1/tenants/{tenant.id}/pause", json={"reason": "unpaid"})
    holds = (await tenant.call("GET", f"/v1/tasks/{task}/why")).json()["holds"]
    assert [hold["code"] for hold in holds[:2]] == ["all_paused", "tenant_paused"]
    assert (await operator.call("POST", f"/v1/tenants/{tenant.id}/resume")).json() == {"verdict": "resumed"}
    assert (await operator.call("POST", "/v1/dispatch/resume")).json() == {"verdict": "resumed"}
    assert (await operator.call("POST", "/v1/dispatch/resume")).json() == {"verdict": "not_paused"}


async def test_executors_are_shown_and_told_to_leave(api: Api, operator: Tenant) -> None:
    name = f"worker-{operator.id}"
    await api.sql("INSERT INTO executor (id, name, slots) VALUES (nextval('executor_ids'), $1, 9)", name)
    assert (await operator.call("POST", f"/v1/executors/{name}/drain")).json() == {"verdict": "draining"}

    async def shown() -> bool:
        items = (await operator.call("GET", "/v1/executors")).json()["items"]
        return any(one["draining"] for one in items if one["name"] == name)

    await until_true(shown)  # read from the tables once a second
    assert (await operator.call("POST", f"/v1/executors/{name}/undrain")).json() == {"verdict": "staying"}
    assert (await operator.call("POST", "/v1/executors/nobody/drain")).json()["code"] == "executor_unknown"


async def test_another_tenant_may_be_named_by_operators_alone(tenant: Tenant, api: Api) -> None:
    stranger = await api.tenant()
    for path in ("/v1/lanes", "/v1/series", "/v1/models/m/why"):
        answer = await stranger.call("GET", f"{path}?tenant={tenant.id}")
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


@pytest.mark.parametrize(
    "query",
    [
        "step=59", "step=90", "step=x", "from=yesterday", "from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z",
        "from=2026-01-01T00:00:00Z&to=2026-01-01T01:00:00Z", "tenant=99999999999999999999", "unknown=1", "from=17",
        "from=0001-01-01T00:00:00%2B10:00&step=86400", "to=0001-01-01T00:00:00Z",
    ],
)  # fmt: skip
async def test_what_makes_no_sense_in_a_series_is_refused(tenant: Tenant, query: str) -> None:
    answer = await tenant.call("GET", f"/v1/series?{query}")
    assert (answer.status_code, answer.json()["code"]) in ((400, "invalid"), (400, "series"))


async def test_what_is_wrong_with_a_parameter_is_called_one(tenant: Tenant) -> None:
    for query, name in (("step=59", "step"), ("step=61", "step"), ("unknown=1", "unknown")):
        (error,) = (await tenant.call("GET", f"/v1/series?{query}")).json()["errors"]
        assert error.keys() == {"parameter", "detail"}
        assert error["parameter"] == name


async def test_series_of_a_model_a_tenant_and_everything(tenant: Tenant, operator: Tenant) -> None:
    for caller, path in (
        (tenant, "/v1/series?model=m"),
        (tenant, "/v1/series?step=3600"),
        (operator, "/v1/series"),
        (operator, f"/v1/series?tenant={tenant.id}&model=m&step=7200"),
    ):
        answer = await caller.call("GET", path)
        assert answer.status_code == 200, answer.text
    assert (await tenant.call("GET", "/v1/series?model=other")).status_code == 404


@pytest.mark.parametrize(
    "body", ['{"reason":1}', '{"reason":"' + "x" * 501 + '"}', '{"why":"x"}', "[]", '{"reason":"\\u0000"}', "{"]
)
async def test_a_bad_order_pauses_nothing(operator: Tenant, body: str, api: Api) -> None:
    headers = {"Content-Type": "application/json"}
    answer = await operator.call("POST", "/v1/dispatch/pause", content=body, headers=headers)
    assert answer.status_code == 400
    assert await api.sql("SELECT 1 FROM pause WHERE ended IS NULL AND scope = 'all'") == []


async def test_a_model_whose_name_ends_like_a_question_is_still_read(tenant: Tenant) -> None:
    await tenant.model("m/why")
    assert (await tenant.call("GET", "/v1/models/m%2Fwhy")).json()["name"] == "m/why"
    assert (await tenant.call("GET", "/v1/models/m%2Fwhy/why")).json()["model"] == "m/why"
    assert (await tenant.call("GET", "/v1/models/m/why")).json()["model"] == "m"
    for method, path, allowed in (
        ("POST", "why", "GET, HEAD"),
        ("DELETE", "why", "GET, HEAD"),
        ("GET", "pause", "POST"),
        ("PATCH", "resume", "POST"),
    ):
        more = {"json": {}} if method == "PATCH" else {}
        answer = await tenant.call(method, f"/v1/models/m/{path}", **more)
        assert (answer.status_code, answer.headers["Allow"]) == (405, allowed)
    assert (await tenant.call("PATCH", "/v1/models/m%2Fwhy", json={"remark": "x"})).json()["remark"] == "x"
    assert (await tenant.call("DELETE", "/v1/models/m%2Fwhy")).status_code == 204


async def test_lanes_follow_a_cursor(tenant: Tenant) -> None:
    for name in ("a", "b"):
        await tenant.model(name)
    seen, path = [], "/v1/lanes?busy=false&limit=2"
    page = (await tenant.call("GET", path)).json()
    seen += [lane["model"] for lane in page["items"]]
    page = (await tenant.call("GET", f"{path}&cursor={page['next_cursor']}")).json()
    seen += [lane["model"] for lane in page["items"]]
    assert (seen, page["next_cursor"]) == (["m", "a", "b"], None)
    assert (await tenant.call("GET", "/v1/lanes?cursor=nonsense")).json()["code"] == "bad_cursor"
    for busy in ("true", "false"):
        far = await tenant.call("GET", f"/v1/lanes?busy={busy}&cursor={cursor_of('lane', 2**62)}")
        assert far.json() == {"items": [], "next_cursor": None}
