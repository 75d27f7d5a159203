"""/v1/dead and /v1/replays as operators and tenants use them."""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from libs.common.ports_dead import KEPT_BYTES
from libs.common.runtime import failpoints
from tests.support.api import Api, Tenant, until_true
from tests.support.console import browser
from tests.support.graves import work
from tests.support.house import open_house
from tests.support.listeners import hearing

pytestmark = pytest.mark.asyncio(loop_scope="package")


async def items(caller: Tenant, path: str = "/v1/dead", **query: Any) -> list[dict[str, Any]]:
    """Over all pages."""
    found: list[dict[str, Any]] = []
    for _ in range(100):
        answer = await caller.call("GET", path, params=query)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        found += page["items"]
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]
    return found


async def order(caller: Tenant, status: int = 202, **fields: Any) -> dict[str, Any]:
    answer = await caller.call("POST", "/v1/replays", json={"reason": "mended", **fields})
    assert answer.status_code == status, answer.text
    document: dict[str, Any] = answer.json()
    return document


async def with_dead(api: Api, count: int = 3, **fields: Any) -> tuple[Tenant, list[str]]:
    """A new tenant with dead tasks."""
    tenant = await api.tenant()
    await tenant.model("m", **fields)
    tasks = [await tenant.task(payload={"password": "canary-1", "text": "hi"}) for _ in range(count)]
    await tenant.bury(tasks, "the model said Bearer canary-2-canary")
    return tenant, tasks


async def test_a_tenant_lists_groups_and_shows_its_own(api: Api) -> None:
    tenant, tasks = await with_dead(api, api_key="X-Key:canary-3,trace:yes")
    listed = await items(tenant, limit=2)
    assert [one["id"] for one in listed] == tasks[::-1]
    (first, *_) = listed
    assert (first["kind"], first["tenant"], first["model"], first["status"]) == ("task", str(tenant.id), "m", "failed")
    assert (first["error"]["code"], first["event_id"]) == ("http_503", f"{first['id']}:2")
    groups = (await tenant.call("GET", "/v1/dead/groups")).json()
    assert (groups["counted"], groups["complete"]) == (3, True)
    assert [(group["code"], group["model"], group["count"]) for group in groups["items"]] == [("http_503", "m", 3)]
    answer = await tenant.call("GET", f"/v1/dead/task/{tasks[0]}")
    details = answer.json()
    assert details["request"]["url"] == "http://127.0.0.1:9"
    assert [header["name"] for header in details["request"]["headers"]] == ["X-Key", "trace"]
    assert '"text":"hi"' in details["request"]["body"]
    assert [entry["path"] for entry in details["operations"]] in (["/v1/tasks"], [])
    for text in (answer.text, (await tenant.call("GET", "/v1/dead")).text, str(groups)):
        assert "canary" not in text
    assert all(one["replay"] is None for one in listed)


async def test_a_group_is_named_by_its_models_id(api: Api) -> None:
    tenant, tasks = await with_dead(api, 2)
    await tenant.call("DELETE", "/v1/models/m")
    await tenant.model("m")
    young = await tenant.task()
    await tenant.bury([young], "no")
    groups = (await tenant.call("GET", "/v1/dead/groups")).json()["items"]
    assert [(group["model"], group["count"]) for group in groups] == [("m", 2), ("m", 1)]
    for group, expected in zip(groups, (set(tasks), {young}), strict=True):
        assert {one["id"] for one in await items(tenant, model_id=group["model_id"])} == expected
        counted = await order(tenant, 200, dry_run=True, filter={"model_id": group["model_id"]})
        assert (counted["selected"], counted["groups"]) == (len(expected), [group])
    assert await items(tenant, model_id="none") == []
    assert await items(tenant, model_id="9" * 19) == []
    assert (await tenant.call("GET", "/v1/dead", params={"model_id": "m"})).status_code == 400
    await order(tenant, 400, filter={"model_id": ""})
    assert await items(tenant, webhook="4") == []
    assert await items(tenant, webhook="9" * 19) == []
    assert (await tenant.call("GET", "/v1/dead", params={"webhook": "w"})).status_code == 400
    assert (await order(tenant, 200, dry_run=True, filter={"webhook": "4"}))["selected"] == 0


async def test_an_operator_sees_everybodys_and_a_tenant_only_its_own(api: Api) -> None:
    (one, ones), (two, twos) = await with_dead(api, 1), await with_dead(api, 2)
    operator = await api.tenant(scopes=["operate"])
    for tenant, tasks in ((one, ones), (two, twos)):
        seen = await items(operator, tenant=str(tenant.id))
        assert {entry["id"] for entry in seen} == set(tasks)
        assert {entry["id"] for entry in await items(tenant)} == set(tasks)
    assert await items(one, tenant=str(two.id)) == []
    assert (await one.call("GET", f"/v1/dead/task/{twos[0]}")).json()["code"] == "dead_unknown"
    assert (await operator.call("GET", f"/v1/dead/task/{twos[0]}")).status_code == 200
    refused = await order(one, 404, ids=twos)
    assert refused["code"] == "dead_unknown"
    mixed = await order(one, ids=[*twos, *ones, str(uuid4())])
    assert (mixed["total"], len(mixed["unknown"]), mixed["tenant"]) == (1, 3, str(one.id))
    ours = await order(operator, filter={"tenant": str(two.id)})
    assert (ours["total"], ours["tenant"]) == (2, None)
    assert [job["id"] for job in await items(two, "/v1/replays")] == []
    assert [job["id"] for job in await items(one, "/v1/replays")] == [mixed["id"]]
    assert ours["id"] in {job["id"] for job in await items(operator, "/v1/replays")}
    assert (await two.call("POST", f"/v1/replays/{ours['id']}/stop")).status_code == 404
    for caller, number in ((two, None), (operator, ours["id"])):
        (first, *_) = await items(caller, tenant=str(two.id))
        assert (first["replay"], first["in_hand"]) == (number, True)
        details = (await caller.call("GET", f"/v1/dead/task/{twos[0]}")).json()
        assert (details["replay"], [past["replay"] for past in details["replays"]]) == (number, [number])


async def test_a_tenant_is_told_neither_which_operator_ordered_a_job_nor_why(api: Api, stores: tuple[str, str]) -> None:
    (tenant, (ours, theirs)), night = await with_dead(api, 2), await api.tenant(scopes=["operate"])
    job = await order(night, ids=[ours], reason="unpaid bill")
    own = await order(tenant, ids=[theirs], reason="we mended it")
    name = f"user-of-{night.id}"
    for caller, known in ((tenant, (None, None)), (night, (f"{name} of tenant {night.id}", "unpaid bill"))):
        (past,) = (await caller.call("GET", f"/v1/dead/task/{ours}")).json()["replays"]
        assert (past["asked_by"], past["reason"]) == known
    (past,) = (await tenant.call("GET", f"/v1/dead/task/{theirs}")).json()["replays"]
    assert (past["asked_by"], past["reason"]) == (f"user-of-{tenant.id} of tenant {tenant.id}", "we mended it")
    async with open_house(*stores) as house:

        async def replayed() -> bool:
            await work(house)
            return not await api.sql("SELECT FROM dead_task WHERE tenant_id = $1", tenant.id)

        await until_true(replayed)
    read = {
        task: (await tenant.call("GET", f"/v1/tasks/{task}/history")).json()["items"][-1]["detail"]
        for task in (ours, theirs)
    }
    assert read[ours] == f"job {job['id']} of an operator"
    assert read[theirs] == f"job {own['id']} of user-of-{tenant.id} of tenant {tenant.id}: we mended it"
    async with hearing(api.url, tenant.key, f"/v1/tasks/{ours}/events") as heard:
        await heard.says(ours, "submitted")
    async with browser(api.url) as visitor:
        await visitor.sign_in(tenant.key)
        page = await visitor.get(f"/console/tasks/{ours}")
    assert f"job {job['id']} of an operator" in page
    for shown in (str(heard.news), page):
        assert name not in shown
        assert "unpaid bill" not in shown


async def test_a_dry_run_counts_and_changes_nothing(api: Api) -> None:
    tenant, tasks = await with_dead(api)
    dry = await order(tenant, 200, dry_run=True)
    assert (dry["selected"], dry["busy"], [group["count"] for group in dry["groups"]]) == (3, 0, [3])
    assert await items(tenant, "/v1/replays") == []
    job = await order(tenant, limit=2)
    assert (job["total"], job["pending"], job["state"]) == (2, 2, "running")
    dry = await order(tenant, 200, dry_run=True, filter={"code": "http_503"})
    assert (dry["selected"], dry["busy"]) == (1, 2)
    assert {one["replay"] for one in await items(tenant)} == {job["id"], None}
    taken = await items(tenant, f"/v1/replays/{job['id']}/items", limit=1)
    assert [one["id"] for one in taken] == tasks[:2]
    assert job["asked_by"] == f"user-of-{tenant.id} of tenant {tenant.id}"


async def test_a_job_is_paused_resumed_and_stopped(api: Api) -> None:
    tenant, _ = await with_dead(api, 1)
    job = await order(tenant, rate=0.5)
    for verb, state in (("pause", "paused"), ("pause", "paused"), ("resume", "running"), ("stop", "stopped")):
        answer = await tenant.call("POST", f"/v1/replays/{job['id']}/{verb}")
        assert (answer.status_code, answer.json()["state"]) == (200, state)
    answer = await tenant.call("POST", f"/v1/replays/{job['id']}/resume")
    assert (answer.status_code, answer.json()["code"]) == (409, "replay_over")
    read = (await tenant.call("GET", f"/v1/replays/{job['id']}")).json()
    assert (read["pending"], read["results"]["stopped"]) == (0, 1)
    assert (await order(tenant))["total"] == 1


async def test_messages_are_for_operators_alone_and_can_be_mended(api: Api) -> None:
    tenant, _ = await with_dead(api, 1)
    (row,) = await api.sql(
        'INSERT INTO dead_message (topic, "partition", "offset", digest, key, value, size, headers, code, cause)'
        " VALUES ($1, 2, 3, $2, 'k', $3, 16, $4::jsonb, 'not_json', 'not JSON') RETURNING id",
        uuid4().hex, hashlib.sha256(b"\xffpassword=canary").digest(), b"\xffpassword=canary",
        '[["token", "canary-4"], ["b", {"base64": "/wA="}]]',
    )  # fmt: skip
    number = str(row["id"])
    operator = await api.tenant(scopes=["operate"])
    assert number in {one["id"] for one in await items(operator, kind="message")}
    assert await items(tenant, kind="message") == []
    assert (await tenant.call("GET", f"/v1/dead/message/{number}")).status_code == 404
    assert (await order(tenant, 404, kind="message", ids=[number]))["code"] == "dead_unknown"
    answer = await operator.call("GET", f"/v1/dead/message/{number}")
    message = answer.json()["message"]
    assert (message["key"], message["size"], message["complete"]) == ("k", 16, True)
    assert message["shown"] == "escaped"
    assert message["value"].startswith("\\xffpassword=")
    assert "canary" not in answer.text
    mended = base64.b64encode(b"whole").decode()
    await order(operator, 400, kind="message", value_base64=mended)
    masked = base64.b64encode(b'{"v": 1, "password": "***"}').decode()
    refused = await order(operator, 400, kind="message", ids=[number], value_base64=masked, dry_run=True)
    assert "in place of a secret" in str(refused)
    # Looking for masks may take a second: it is not done for those who reach no message.
    unread = await order(tenant, 404, kind="message", ids=[number], value_base64=masked)
    assert unread["code"] == "dead_unknown"
    largest = base64.b64encode(b"x" * KEPT_BYTES).decode()
    dry = await order(operator, 200, kind="message", ids=[number], value_base64=largest, dry_run=True)
    assert dry["selected"] == 1, "what was kept can be sent"
    larger = base64.b64encode(b"x" * (KEPT_BYTES + 1)).decode()
    await order(operator, 400, kind="message", ids=[number], value_base64=larger)
    job = await order(operator, kind="message", ids=[number], value_base64=mended)
    (stored,) = await api.sql("SELECT mended FROM replay_job WHERE id = $1", int(job["id"]))
    assert stored["mended"] == b"whole"


@pytest.mark.parametrize(
    "query",
    [
        {"kind": "ghost"}, {"limit": 0}, {"limit": 1_001}, {"since": "yesterday"}, {"since": "2026-02-30T00:00:00Z"},
        {"until": "0.5"}, {"until": "2026-01-01"},
        {"tenant": "x"}, {"text": ""}, {"text": "a\x00b"}, {"cursor": "x"}, {"cursor": "dGFzazo1"}, {"unknown": "1"},
    ],
    ids=str,
)  # fmt: skip
async def test_a_list_that_makes_no_sense_is_refused(tenant: Tenant, query: dict[str, Any]) -> None:
    answer = await tenant.call("GET", "/v1/dead", params=query)
    assert answer.status_code == 400, answer.text
    assert answer.json()["code"] in ("invalid", "bad_cursor")


@pytest.mark.parametrize(
    "body",
    [
        {}, {"reason": ""}, {"reason": " \t"}, {"reason": "x" * 501}, {"reason": "a\x00"}, {"reason": "a\u0007"},
        {"reason": "r", "ids": []}, {"reason": "r", "ids": ["1"] * 10_001}, {"reason": "r", "ids": [1]},
        {"reason": "r", "ids": ["1"], "filter": {"code": "x"}}, {"reason": "r", "kind": "all"},
        {"reason": "r", "action": "burn"}, {"reason": "r", "limit": 0}, {"reason": "r", "limit": 10**9},
        {"reason": "r", "rate": 0}, {"reason": "r", "rate": -1}, {"reason": "r", "rate": 10**6},
        {"reason": "r", "filter": {"since": "x"}}, {"reason": "r", "filter": {"status": 7}},
        {"reason": "r", "value_base64": "eA=="}, {"reason": "r", "value_base64": "no base64"}, {"reason": "r", "x": 1},
    ],
    ids=lambda body: str(body)[:60],
)  # fmt: skip
async def test_an_order_that_makes_no_sense_changes_nothing(tenant: Tenant, body: dict[str, Any]) -> None:
    answer = await tenant.call("POST", "/v1/replays", json=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["code"] == "invalid"
    assert await tenant.api.sql("SELECT 1 FROM replay_job WHERE tenant_id = $1", tenant.id) == []


async def test_an_id_in_another_spelling_is_the_same_and_known(api: Api) -> None:
    tenant, (task,) = await with_dead(api, 1)
    for ids in ([task.upper()], [task, task.upper()]):
        seen = await order(tenant, 200, dry_run=True, ids=ids)
        assert (seen["selected"], seen["unknown"]) == (1, [])
    job = await order(tenant, ids=[task.upper(), task])
    assert (job["total"], job["limit"], job["unknown"]) == (1, 1, [])


async def test_ids_that_are_none_and_filters_that_find_nothing(api: Api) -> None:
    tenant, tasks = await with_dead(api, 1)
    operator = await api.tenant(scopes=["operate"])
    success = await tenant.task()
    for ids in (["x"], [str(uuid4())], [success], ["9" * 30], ["-1"], ["%"]):
        for kind in ("task", "event", "message"):
            assert (await order(operator, 404, kind=kind, ids=ids))["code"] == "dead_unknown"
    for path in ("/v1/dead/ghost/1", "/v1/dead/task/1", "/v1/dead/event/1", "/v1/dead/message/" + "9" * 40):
        assert (await operator.call("GET", path)).json()["code"] == "dead_unknown"
    for path in ("/v1/replays/x", "/v1/replays/" + "9" * 18, "/v1/replays/-1", "/v1/replays/999/items"):
        assert (await tenant.call("GET", path)).json()["code"] == "replay_unknown"
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    nobody = str(2**63)
    for narrowed in ({"since": tomorrow}, {"text": "%"}, {"text": "_"}, {"model": "x"}, {"code": "x"}):
        job = await order(tenant, filter=narrowed)
        assert (job["total"], job["state"]) == (0, "done"), narrowed
    assert (await order(operator, filter={"tenant": nobody}))["total"] == 0
    assert [one["id"] for one in await items(tenant, text="MODEL SAID")] == tasks


async def test_a_job_whose_writing_fails_is_not_there(api: Api) -> None:
    tenant, _ = await with_dead(api, 1)
    for point, path in (("api/before-replay-job", "/v1/replays"), ("api/before-steer", "/v1/replays/1/pause")):
        failpoints.arm(f"{point}:1:raise")
        try:
            answer = await tenant.api.client.post(
                path, headers={"Authorization": f"Bearer {tenant.key}"}, json={"reason": "r"}
            )
        finally:
            failpoints.arm("")
        assert answer.status_code == 500
    assert await items(tenant, "/v1/replays") == []
