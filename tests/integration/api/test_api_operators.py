"""What operators see and order of all tenants over REST: tenants, quotas, keys, webhooks."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import pytest_asyncio

from tests.support.api import Api, Tenant, until_true

pytestmark = pytest.mark.asyncio(loop_scope="package")


@pytest_asyncio.fixture(loop_scope="package")
async def operator(api: Api) -> Tenant:
    return await api.tenant(scopes=["operate"])


async def read(caller: Tenant, path: str, **params: Any) -> Any:
    answer = await caller.call("GET", path, params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_tenants_are_listed_page_by_page_by_their_numbers(api: Api, operator: Tenant) -> None:
    numbers = [-(2**63), -7, 2**62, 2**63 - 1]
    await asyncio.gather(*(api.tenant(number) for number in numbers))
    listed, cursor = [], None
    while cursor or not listed:
        page = await read(operator, "/v1/tenants", limit=3, **({"cursor": cursor} if cursor else {}))
        listed += [int(tenant["id"]) for tenant in page["items"]]
        cursor = page["next_cursor"]
    assert listed == sorted(listed)
    assert {*numbers, operator.id} <= set(listed)
    for foreign in ("x", "dGVuYW50Ong", "bGltaXQ6MQ"):  # the second says tenant:x, the third limit:1
        assert (await operator.call("GET", "/v1/tenants", params={"cursor": foreign})).json()["code"] == "bad_cursor"


async def test_operators_set_the_limits_of_any_tenant_and_others_their_own(
    tenant: Tenant, operator: Tenant, api: Api
) -> None:
    of = {"tenant": tenant.id}
    for path, points in (("/v1/quota/limits", 7), ("/v1/quota/limits/ann", 3)):
        assert (await operator.call("PUT", path, params=of, json={"points_per_day": points})).status_code == 200
    assert [(row["user"], row["points_per_day"]) for row in (await read(tenant, "/v1/quota/limits"))["items"]] == [
        ("", 7), ("ann", 3),
    ]  # fmt: skip
    assert await read(operator, "/v1/quota/limits", **of) == await read(tenant, "/v1/quota/limits")
    assert (await read(operator, "/v1/quota", user="ann", **of))["limit"] == 3
    stranger = await api.tenant(scopes=["read", "admin"])
    for method, path, body in (
        ("GET", "/v1/quota", None), ("GET", "/v1/quota/limits", None), ("DELETE", "/v1/quota/limits", None),
        ("PUT", "/v1/quota/limits", {"points_per_day": 1}), ("PUT", "/v1/quota/limits/ann", {"points_per_day": 1}),
        ("DELETE", "/v1/quota/limits/ann", None),
    ):  # fmt: skip
        refused = await stranger.call(method, path, params=of, **({"json": body} if body else {}))
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    assert (await operator.call("DELETE", "/v1/quota/limits/ann", params=of)).status_code == 204
    assert (await read(operator, "/v1/quota", user="ann", **of))["limit"] == 7


async def test_limits_of_long_names_are_read_page_by_page(tenant: Tenant) -> None:
    names = sorted(f"{letter}" + "\U0001f600" * 255 for letter in "abc")
    for name in names:
        await tenant.api.sql("INSERT INTO quota_limit VALUES ($1, $2, 1)", tenant.id, name)
    found, cursor = [], None
    while cursor or not found:
        page = await read(tenant, "/v1/quota/limits", limit=1, **({"cursor": cursor} if cursor else {}))
        found += [row["user"] for row in page["items"]]
        cursor = page["next_cursor"]
    assert found == names


async def test_operators_see_every_webhook_without_the_query_of_its_address(
    api: Api, tenant: Tenant, operator: Tenant
) -> None:
    other = await api.tenant()
    ids = []
    for owner in (tenant, other):
        made = await owner.call("POST", "/v1/webhooks", json={"url": "http://127.0.0.1:9/hook?token=t"})
        assert made.json()["tenant"] == str(owner.id)
        ids.append(made.json()["id"])
    mine = (await read(tenant, "/v1/webhooks"))["items"]
    assert [(one["id"], one["url"]) for one in mine] == [(ids[0], "http://127.0.0.1:9/hook?token=t")]
    seen, cursor = [], None
    while cursor or not seen:
        page = await read(operator, "/v1/webhooks", limit=1, **({"cursor": cursor} if cursor else {}))
        seen += page["items"]
        cursor = page["next_cursor"]
    assert [one["id"] for one in seen if one["id"] in ids] == ids
    assert all("token" not in str(one) for one in seen)
    assert [one["id"] for one in (await read(operator, "/v1/webhooks", tenant=other.id))["items"]] == ids[1:]
    await api.sql("UPDATE webhook SET failing_since = now() WHERE id = $1", int(ids[1]))
    failing = (await read(operator, "/v1/webhooks", failing=True))["items"]
    assert ids[1] in [one["id"] for one in failing]
    assert ids[0] not in [one["id"] for one in failing]
    assert (await tenant.call("GET", "/v1/webhooks", params={"tenant": other.id})).status_code == 403


async def test_operators_hold_a_webhook_of_any_tenant(tenant: Tenant, operator: Tenant) -> None:
    hook = (await tenant.call("POST", "/v1/webhooks", json={"url": "http://127.0.0.1:9/hook"})).json()["id"]
    paused = await operator.call("POST", f"/v1/webhooks/{hook}/pause", json={"reason": "it moves"})
    assert paused.json() == {"verdict": "paused"}
    seen = await read(tenant, f"/v1/webhooks/{hook}")
    assert (seen["paused"], seen["held"]["reason"], seen["held"]["by"]) == (False, "it moves", None)
    (listed,) = (await read(operator, "/v1/webhooks", tenant=tenant.id))["items"]
    assert listed["held"] == {**seen["held"], "by": f"user-of-{operator.id}"}
    for theirs in (True, False):
        changed = await tenant.call("PATCH", f"/v1/webhooks/{hook}", json={"paused": theirs})
        assert (changed.json()["paused"], changed.json()["held"]) == (theirs, seen["held"])
    (pause,) = (await read(tenant, "/v1/pauses"))["items"]
    assert (pause["scope"], pause["webhook_id"], pause["by"]) == ("webhook", hook, None)
    assert (await operator.call("POST", f"/v1/webhooks/{hook}/pause")).json() == {"verdict": "already_paused"}
    assert (await operator.call("POST", f"/v1/webhooks/{hook}/resume")).json() == {"verdict": "resumed"}
    assert (await read(tenant, f"/v1/webhooks/{hook}"))["held"] is None
    assert (await tenant.call("PATCH", f"/v1/webhooks/{hook}", json={"description": "shop"})).json()["held"] is None
    (action, *_) = (await read(operator, "/v1/actions", limit=2))["items"][1:]
    assert (action["action"], action["subject"], action["reason"]) == ("pause", f"webhook {hook}", "it moves")
    for nothing in ("0", "x", "9" * 19, "9" * 5_000):
        unknown = await operator.call("POST", f"/v1/webhooks/{nothing}/resume")
        assert (unknown.status_code, unknown.json()["code"]) == (404, "webhook_unknown")


async def test_keys_are_told_once_and_give_no_more_than_their_maker_has(api: Api, operator: Tenant) -> None:
    whole = Tenant(api, operator.id, await api.key(operator.id, ("submit", "read", "operate", "admin")))
    of = {"tenant": -17}
    made = await whole.call("POST", "/v1/keys", params=of, json={"name": "shop", "scopes": ["read", "submit"]})
    assert (made.status_code, made.headers["cache-control"]) == (201, "no-store")
    assert (made.json()["tenant"], made.json()["scopes"]) == ("-17", ["submit", "read"])
    shop = Tenant(api, -17, made.json()["key"])
    assert (await shop.call("GET", "/v1/models")).status_code == 200
    listed = (await read(operator, "/v1/keys", **of))["items"]
    assert [(one["id"], one["name"], one["revoked_at"]) for one in listed] == [(made.json()["id"], "shop", None)]
    assert made.json()["key"] not in str(listed)
    for scope in ("submit", "read", "admin"):
        refused = await operator.call("POST", "/v1/keys", params=of, json={"scopes": ["operate", scope]})
        assert (refused.status_code, scope in refused.json()["detail"]) == (403, True)
    for wrong in ({"scopes": []}, {"scopes": ["all"]}, {"scopes": ["operate"], "name": "a\nb"}, {}):
        assert (await operator.call("POST", "/v1/keys", json=wrong)).json()["code"] == "invalid"
    assert (await operator.call("DELETE", f"/v1/keys/{made.json()['id']}")).status_code == 204

    async def refused_now() -> bool:
        return (await shop.call("GET", "/v1/models")).status_code == 401

    await until_true(refused_now, seconds=3)
    for nothing in (made.json()["id"], "0", "x", "9" * 19):
        unknown = await operator.call("DELETE", f"/v1/keys/{nothing}")
        assert (unknown.status_code, unknown.json()["code"]) == (404, "key_unknown")
