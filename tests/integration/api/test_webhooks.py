"""Webhooks over REST: made, shown without secrets, changed, rotated, removed, and never by another tenant."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import pytest

from libs.common.adapters.secrets import KeyRing
from libs.common.contracts.webhook import decode_secrets
from tests.support import canaries
from tests.support.api import Api, Tenant

pytestmark = pytest.mark.asyncio(loop_scope="package")

RING = KeyRing("test:" + base64.b64encode(b"k" * 32).decode())
URL = "http://127.0.0.1:9/hook"
OWN = "whsec_" + base64.b64encode(b"own" * 10).decode()


async def made(tenant: Tenant, **fields: Any) -> dict[str, Any]:
    body = {"url": URL, **fields} if fields.get("kind") != "tasks" else fields
    answer = await tenant.call("POST", "/v1/webhooks", json=body)
    assert answer.status_code == 201, answer.text
    assert answer.headers["location"] == f"/v1/webhooks/{answer.json()['id']}"
    assert answer.headers["cache-control"] == "no-store"
    shown: dict[str, Any] = answer.json()
    return shown


async def secrets_of(tenant: Tenant, webhook: str) -> Any:
    (row,) = await tenant.api.sql("SELECT secrets FROM webhook WHERE id = $1", int(webhook))
    return decode_secrets(RING.open(row["secrets"], f"webhook:{tenant.id}"))


async def test_a_secret_is_shown_once_and_lies_sealed(tenant: Tenant) -> None:
    first = await made(tenant, events=["failed", "success"], description="shop")
    assert (first["events"], first["enabled"], first["paused"]) == (["success", "failed"], True, False)
    assert (await secrets_of(tenant, first["id"])).current == first["secret"]
    own = await made(tenant, secret=OWN)
    assert own["secret"] == OWN
    for path in ("", f"/{first['id']}"):
        answer = await tenant.call("GET", f"/v1/webhooks{path}")
        assert "whsec_" not in answer.text
    (row,) = await tenant.api.sql(
        "SELECT string_agg(w::text, '') AS all FROM webhook w WHERE tenant_id = $1", tenant.id
    )
    assert OWN.encode().hex() not in row["all"]
    assert [one["id"] for one in (await tenant.call("GET", "/v1/webhooks")).json()["items"]] == [first["id"], own["id"]]


async def test_what_is_given_changes_and_nothing_else(tenant: Tenant) -> None:
    webhook = await made(tenant, description="shop")
    path = f"/v1/webhooks/{webhook['id']}"
    changed = (await tenant.call("PATCH", path, json={"paused": True, "url": URL + "2"})).json()
    assert (changed["paused"], changed["url"], changed["description"]) == (True, URL + "2", "shop")
    off = (await tenant.call("PATCH", path, json={"enabled": False})).json()
    assert (off["enabled"], off["disabled_reason"]) == (False, "switched off by its owner")
    assert off["disabled_at"]
    again = (await tenant.call("PATCH", path, json={"enabled": True, "events": ["timeout"]})).json()
    assert (again["enabled"], again["disabled_at"], again["events"]) == (True, None, ["timeout"])
    assert (await secrets_of(tenant, webhook["id"])).current == webhook["secret"]
    assert (await tenant.call("DELETE", path)).status_code == 204
    for method, route, body in (
        ("DELETE", path, None), ("GET", path, None), ("PATCH", path, {"paused": True}), ("POST", f"{path}/rotate", {}),
        ("GET", f"{path}/deliveries", None),
    ):  # fmt: skip
        answer = await tenant.call(method, route, json=body)
        assert (answer.status_code, answer.json()["code"]) == (404, "webhook_unknown"), (method, route)
    assert (await tenant.call("GET", "/v1/webhooks")).json()["items"] == []


async def test_what_changes_while_it_is_off_lets_nobody_forget_since_when_it_fails(tenant: Tenant) -> None:
    path = f"/v1/webhooks/{(await made(tenant))['id']}"
    await tenant.api.sql("UPDATE webhook SET failing_since = now() WHERE tenant_id = $1", tenant.id)
    for fields, failing in (({"enabled": False}, True), ({"description": "shop"}, True), ({"enabled": True}, False)):
        changed = (await tenant.call("PATCH", path, json=fields)).json()
        assert (changed["failing_since"] is not None) == failing, fields


async def test_rotation_keeps_the_old_secret_beside_the_fresh_one(tenant: Tenant) -> None:
    webhook = await made(tenant)
    path = f"/v1/webhooks/{webhook['id']}/rotate"
    fresh = (await tenant.call("POST", path, json={})).json()["secret"]
    secrets = await secrets_of(tenant, webhook["id"])
    assert (secrets.current, secrets.old) == (fresh, webhook["secret"])
    assert secrets.old_until is not None
    assert (await tenant.call("POST", path, json={"secret": OWN})).json()["secret"] == OWN
    assert (await secrets_of(tenant, webhook["id"])).old == fresh
    without = await tenant.call("POST", path)
    assert (without.status_code, (await secrets_of(tenant, webhook["id"])).current) == (200, without.json()["secret"])


async def test_a_rotation_whose_answer_was_lost_can_be_repeated_with_the_same_secret(tenant: Tenant) -> None:
    webhook = await made(tenant)
    path = f"/v1/webhooks/{webhook['id']}/rotate"
    for _ in range(2):
        assert (await tenant.call("POST", path, json={"secret": OWN})).json()["secret"] == OWN
    secrets = await secrets_of(tenant, webhook["id"])
    assert (secrets.current, secrets.old) == (OWN, webhook["secret"])  # which is what receivers still have


async def test_a_delivery_is_read_and_sent_again(tenant: Tenant) -> None:
    webhook = await made(tenant)
    ids = [await tenant.delivery(webhook["id"], status) for status in ("delivered", "dead", "dead")]
    await tenant.api.sql(
        "INSERT INTO delivery_try (delivery_id, attempt, code, error, cost_ms, answer)"
        " VALUES ($1, 8, 500, 'status 500', 3, 'no')",
        int(ids[1]),
    )
    path = f"/v1/webhooks/{webhook['id']}/deliveries"
    page = (await tenant.call("GET", path, params={"limit": 2})).json()
    rest = (await tenant.call("GET", path, params={"limit": 2, "cursor": page["next_cursor"]})).json()
    assert [one["id"] for one in page["items"] + rest["items"]] == ids[::-1]
    assert rest["next_cursor"] is None
    (tried,) = page["items"][1]["tries"]
    assert (tried["attempt"], tried["code"], tried["answer"]) == (8, 500, "no")
    again = await tenant.call("POST", f"{path}/{ids[1]}/redeliver")
    assert again.status_code == 202
    assert (again.json()["status"], again.json()["event_id"], again.json()["ended_at"]) == ("pending", "task:5", None)
    assert again.json()["tries"] == page["items"][1]["tries"]
    (row,) = await tenant.api.sql("SELECT * FROM delivery WHERE id = $1", int(ids[1]))
    assert (row["round"], row["dead_at"]) == (8, None)
    await tenant.call("PATCH", f"/v1/webhooks/{webhook['id']}", json={"enabled": False})
    refused = await tenant.call("POST", f"{path}/{ids[2]}/redeliver")
    assert (refused.status_code, refused.json()["code"]) == (409, "webhook_disabled")


async def test_deliveries_are_their_own_webhooks(tenant: Tenant) -> None:
    first, second = await made(tenant), await made(tenant)
    mine, other = await tenant.delivery(first["id"]), await tenant.delivery(second["id"])
    path = f"/v1/webhooks/{first['id']}/deliveries"
    assert [one["id"] for one in (await tenant.call("GET", path)).json()["items"]] == [mine]
    refused = await tenant.call("POST", f"{path}/{other}/redeliver")
    assert (refused.status_code, refused.json()["code"]) == (404, "delivery_unknown")
    (row,) = await tenant.api.sql("SELECT status FROM delivery WHERE id = $1", int(other))
    assert row["status"] == "dead"


async def test_a_secret_is_in_no_store_and_in_no_log(
    tenant: Tenant, stores: tuple[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    secrets = [(await made(tenant))["secret"], (await made(tenant, secret=OWN))["secret"]]
    (webhook, *_) = (await tenant.call("GET", "/v1/webhooks")).json()["items"]
    secrets.append((await tenant.call("POST", f"/v1/webhooks/{webhook['id']}/rotate", json={})).json()["secret"])
    await tenant.call("POST", "/v1/webhooks", json={"url": "nowhere", "secret": OWN})
    await tenant.call("POST", "/v1/webhooks", json={"url": URL, "secret": OWN[:-9]})
    clear = [secret.removeprefix("whsec_").rstrip("=") for secret in secrets]
    assert await canaries.in_database(stores[0], clear) == []
    out, err = capfd.readouterr()
    assert canaries.in_texts({"out": out, "err": err}, [*clear, OWN[6:-9]]) == []


async def test_nobody_reaches_another_tenants_webhooks(api: Api, tenant: Tenant) -> None:
    other = await api.tenant()
    theirs, mine = await made(other), await made(tenant)
    their_delivery = await other.delivery(theirs["id"])
    calls = [
        ("GET", f"/v1/webhooks/{theirs['id']}", None),
        ("PATCH", f"/v1/webhooks/{theirs['id']}", {"paused": True}),
        ("DELETE", f"/v1/webhooks/{theirs['id']}", None),
        ("POST", f"/v1/webhooks/{theirs['id']}/rotate", {}),
        ("GET", f"/v1/webhooks/{theirs['id']}/deliveries", None),
        ("POST", f"/v1/webhooks/{theirs['id']}/deliveries/{their_delivery}/redeliver", None),
        ("POST", f"/v1/webhooks/{mine['id']}/deliveries/{their_delivery}/redeliver", None),
    ]
    before = await api.sql("SELECT * FROM webhook WHERE id = $1", int(theirs["id"]))
    for method, path, body in calls:
        answer = await tenant.call(method, path, json=body)
        assert answer.status_code == 404, (method, path, answer.text)
        assert answer.json()["code"] in ("webhook_unknown", "delivery_unknown")
    assert await api.sql("SELECT * FROM webhook WHERE id = $1", int(theirs["id"])) == before
    (row,) = await api.sql("SELECT status FROM delivery WHERE id = $1", int(their_delivery))
    assert row["status"] == "dead"
    assert (await tenant.call("GET", "/v1/webhooks")).json()["items"][0]["id"] == mine["id"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "webhook_url"),
        ({"url": "nowhere"}, "webhook_url"),
        ({"url": "ftp://127.0.0.1/"}, "webhook_url"),
        ({"url": "http://user:word@127.0.0.1/"}, "webhook_url"),
        ({"url": "http://10.0.0.1/"}, "egress_refused"),
        ({"url": "http://169.254.169.254/latest"}, "egress_refused"),
        ({"url": "http://[::ffff:10.0.0.1]/"}, "egress_refused"),
        ({"url": URL, "secret": "short"}, "webhook_secret"),
        ({"url": URL, "events": []}, "invalid"),
        ({"url": URL, "events": ["processing"]}, "invalid"),
        ({"url": URL, "events": "success"}, "invalid"),
        ({"url": URL, "headers": {}}, "invalid"),
        ({"url": "http://127.0.0.1/" + "x" * 2_048}, "invalid"),
        ({"url": "http://127.0.0.1/\x00"}, "invalid"),
        ({"kind": "tasks", "url": URL}, "webhook_url"),
        ({"kind": "all"}, "invalid"),
    ],
)
async def test_what_cannot_be_a_webhook_is_said(tenant: Tenant, body: dict[str, Any], code: str) -> None:
    answer = await tenant.call("POST", "/v1/webhooks", json=body)
    assert (answer.status_code, answer.json()["code"]) == (400, code), answer.text
    assert await tenant.api.sql("SELECT 1 FROM webhook WHERE tenant_id = $1", tenant.id) == []


async def test_strange_ids_and_missing_rights(api: Api, tenant: Tenant) -> None:
    for strange in ("x", "-1", "9" * 19, "9" * 40, "1.0", "%00", "٣"):
        assert (await tenant.call("GET", f"/v1/webhooks/{strange}")).status_code == 404
    reader = await api.tenant(scopes=("read", "submit"))
    assert (await reader.call("POST", "/v1/webhooks", json={"url": URL})).json()["code"] == "forbidden"
    assert (await reader.call("GET", "/v1/webhooks")).status_code == 200


async def test_there_is_one_for_tasks_and_only_so_many_in_all(tenant: Tenant) -> None:
    hook = await made(tenant, kind="tasks")
    assert (hook["kind"], hook["url"]) == ("tasks", None)
    twice = await tenant.call("POST", "/v1/webhooks", json={"kind": "tasks"})
    assert (twice.status_code, twice.json()["code"]) == (409, "webhook_exists")
    address = await tenant.call("PATCH", f"/v1/webhooks/{hook['id']}", json={"url": URL})
    assert (address.status_code, address.json()["code"]) == (400, "webhook_url")
    await tenant.api.sql(
        "INSERT INTO webhook (tenant_id, kind, url, secrets)"
        " SELECT $1, 'endpoint', 'http://h', '' FROM generate_series(1, 49)",
        tenant.id,
    )
    full = await tenant.call("POST", "/v1/webhooks", json={"url": URL})
    assert (full.status_code, full.json()["code"]) == (409, "webhook_limit")
    assert (await tenant.call("DELETE", f"/v1/webhooks/{hook['id']}")).status_code == 204
    await made(tenant)


async def test_many_at_once_are_never_too_many(tenant: Tenant) -> None:
    await tenant.api.sql(
        "INSERT INTO webhook (tenant_id, kind, url, secrets)"
        " SELECT $1, 'endpoint', 'http://h', '' FROM generate_series(1, 45)",
        tenant.id,
    )
    answers = await asyncio.gather(*(tenant.call("POST", "/v1/webhooks", json={"url": URL}) for _ in range(16)))
    assert sorted(answer.status_code for answer in answers) == [201] * 5 + [409] * 11


async def test_nothing_else_signs_for_the_address_of_a_task(api: Api, tenant: Tenant) -> None:
    other = await api.tenant()
    await made(other, kind="tasks")
    await made(tenant)
    gone = await made(tenant, kind="tasks")
    assert (await tenant.call("DELETE", f"/v1/webhooks/{gone['id']}")).status_code == 204
    refused = await tenant.submit(webhook_url=URL)
    assert (refused.status_code, refused.json()["code"]) == (400, "webhook_unsigned")


async def test_a_task_brings_its_own_address_once_something_signs_for_it(tenant: Tenant) -> None:
    refused = await tenant.submit(webhook_url=URL)
    assert (refused.status_code, refused.json()["code"]) == (400, "webhook_unsigned")
    hook = await made(tenant, kind="tasks")
    await tenant.call("PATCH", f"/v1/webhooks/{hook['id']}", json={"enabled": False})
    refused = await tenant.submit(webhook_url=URL)
    assert refused.json()["code"] == "webhook_unsigned", "while it is switched off nobody would be told"
    await tenant.call("PATCH", f"/v1/webhooks/{hook['id']}", json={"enabled": True})
    await tenant.task(webhook_url=URL, webhook_events=["failed", "timeout"])
    await tenant.task(webhook_url=URL)
    await tenant.task(webhook_events=["failed"])
    stored = [(row["webhook_url"], row["webhook_events"]) for row in await tenant.stored()]
    assert stored == [(URL, 6), (URL, 15), (None, None)]
    for url, code in (("http://10.0.0.1/", "egress_refused"), ("nowhere", "webhook_url"), ("", "invalid")):
        refused = await tenant.submit(webhook_url=url)
        assert (refused.status_code, refused.json()["code"]) == (400, code)
    assert len(await tenant.stored()) == 3
    assert await tenant.slots() == 3
