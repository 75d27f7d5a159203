"""How a model is called is checked when it is saved: on both faces, when it is made and when any part of it changes."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tests.support.api import Api, Tenant

pytestmark = pytest.mark.asyncio(loop_scope="package")

URL = "http://127.0.0.1:9"
SUBMIT_POLL: dict[str, Any] = {
    "submit": {"path": "jobs", "body": {"prompt": "{{payload.prompt}}", "ref": "{{intent_key}}"}},
    "job_id": "id",
    "poll": {"path": "jobs/{{job_id}}"},
    "status": "state",
    "statuses": {"succeeded": ["DONE"], "failed": ["ERROR"]},
    "outputs": "files[].url",
}


def changed(**parts: Any) -> dict[str, Any]:
    return {**copy.deepcopy(SUBMIT_POLL), **parts}


async def test_each_adapter_can_be_saved(tenant: Tenant) -> None:
    for adapter, config, route in (
        ("replicate", {"version": "acme/picture", "cancel_after": False}, ""),
        ("replicate", {}, "v1/models/acme/picture/predictions"),
        ("cog", {"answer": "callback", "progress": True}, ""),
        ("submit-poll", SUBMIT_POLL, "run"),
        ("plain-http", {}, "run"),
    ):
        body = {"name": adapter, "base_url": URL, "route": route, "adapter": adapter, "adapter_config": config}
        answer = await tenant.call("POST", "/v1/models", json=body)
        assert answer.status_code == 201, answer.text
        assert answer.json()["adapter_config"] == config
        await tenant.call("DELETE", f"/v1/models/{adapter}")


@pytest.mark.parametrize(
    ("adapter", "config", "pointer"),
    [
        ("plain-http", {"a": 1}, ""),
        ("replicate", {"versoin": "acme/picture"}, "/versoin"),
        ("replicate", {"version": "https://evil"}, "/version"),
        ("replicate", {"version": 7}, "/version"),
        ("replicate", {"marker": "a b"}, "/marker"),
        ("replicate", {"settle_seconds": -1}, "/settle_seconds"),
        ("cog", {"answer": "pigeon"}, "/answer"),
        ("cog", {"progress": "yes"}, "/progress"),
        ("submit-poll", {}, "/job_id"),
        ("submit-poll", changed(job_id="a["), "/job_id"),
        ("submit-poll", changed(status=""), "/status"),
        ("submit-poll", changed(statuses={"succeeded": []}), "/statuses/succeeded"),
        ("submit-poll", changed(statuses={"succeeded": ["DONE"], "failed": ["x", "done"]}), "/statuses/failed/1"),
        ("submit-poll", changed(statuses={"succeeded": ["DONE"], "begun": ["x"]}), "/statuses/begun"),
        ("submit-poll", changed(poll={"path": "jobs"}), "/poll"),
        ("submit-poll", changed(poll={"path": "jobs/{{job_id}}", "body": {}}), "/poll/body"),
        ("submit-poll", changed(poll={"path": "jobs/{{job_id"}), "/poll"),
        ("submit-poll", changed(poll={"path": "jobs/{{job_id}}/{{payload.x}}"}), "/poll"),
        ("submit-poll", changed(submit={"path": "jobs", "body": "{{secrets}}"}), "/submit"),
        ("submit-poll", changed(submit={"headers": {"Host": "evil"}}), "/submit/headers"),
        ("submit-poll", changed(submit={"headers": {"X": "a\r\nY: b"}}), "/submit/headers"),
        ("submit-poll", changed(submit={"method": "BREW"}), "/submit/method"),
        ("submit-poll", changed(submit={"body": ["{{to_string(payload)}}"]}), "/submit/body"),
        ("submit-poll", changed(outputs=" | ".join(["[@,@]"] * 9)), "/outputs"),
        ("submit-poll", changed(dedupes=True, submit={"path": "jobs"}), "/dedupes"),
        ("submit-poll", changed(percent_full=0), "/percent_full"),
        ("submit-poll", changed(find={"items": "items"}), "/find/match"),
    ],
)
async def test_what_cannot_work_is_refused_with_its_place(
    tenant: Tenant, adapter: str, config: dict[str, Any], pointer: str
) -> None:
    body = {"name": "new", "base_url": URL, "adapter": adapter, "adapter_config": config}
    answer = await tenant.call("POST", "/v1/models", json=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "model_adapter_config"), answer.text
    assert answer.json()["errors"][0]["pointer"] == f"/adapter_config{pointer}"
    old = {"modelName": "new", "baseUrl": URL, "adapter": adapter, "adapterConfig": config}
    refused = await tenant.call("POST", "/model/createModel", json=old)
    assert (refused.status_code, refused.json()["data"]) == (400, None)
    assert [model["name"] for model in (await tenant.call("GET", "/v1/models")).json()["items"]] == ["m"]


async def test_a_route_has_to_fit_its_adapter(tenant: Tenant) -> None:
    for adapter in ("replicate", "cog"):
        body = {"name": "new", "base_url": URL, "route": "v1/run", "adapter": adapter}
        answer = await tenant.call("POST", "/v1/models", json=body)
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (400, "/route"), answer.text


async def test_a_change_is_checked_as_what_it_makes_of_the_model(api: Api) -> None:
    tenant = await api.tenant()
    made = await tenant.model("m", adapter="replicate", adapter_config={"version": "acme/picture"})
    for change, pointer in (
        ({"route": "run"}, "/route"),
        ({"adapter": "cog"}, "/adapter_config/version"),
        ({"adapter": "plain-http"}, "/adapter_config"),
        ({"adapter_config": {"answer": "call"}}, "/adapter_config/answer"),
        ({"adapter": "nobody"}, "/adapter"),
    ):
        answer = await tenant.call("PATCH", "/v1/models/m", json=change)
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (400, pointer), answer.text
    refused = await tenant.call("PUT", "/model/updateModel", json={"id": made["id"], "adapterConfig": {"x": 1}})
    assert refused.status_code == 400
    assert (await tenant.call("GET", "/v1/models/m")).json()["version"] == made["version"]
    for change in ({"remark": "x"}, {"adapter": "cog", "adapter_config": {}}, {"adapter": "plain-http"}):
        answer = await tenant.call("PATCH", "/v1/models/m", json=change)
        assert answer.status_code == 200, answer.text
