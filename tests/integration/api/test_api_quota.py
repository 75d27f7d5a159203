"""What a task may cost and when it must be done, over REST: limits, accounts, times, weights."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from urllib.parse import quote
from zoneinfo import ZoneInfo

import pytest

from services.api import submission
from tests.support.api import Api, Tenant, until_true

pytestmark = pytest.mark.asyncio(loop_scope="package")


@pytest.fixture
def me(tenant: Tenant) -> str:
    return f"user-of-{tenant.id}"


async def account(tenant: Tenant, user: str | None = None) -> dict[str, Any]:
    answer = await tenant.call("GET", "/v1/quota", params={} if user is None else {"user": user})
    assert answer.status_code == 200, answer.text
    read: dict[str, Any] = answer.json()
    return read


async def limit(tenant: Tenant, points: int, user: str = "") -> None:
    path = "/v1/quota/limits" + (f"/{quote(user, safe='')}" if user else "")
    answer = await tenant.call("PUT", path, json={"points_per_day": points})
    assert (answer.status_code, answer.json()) == (200, {"user": user, "points_per_day": points})


def soon(hours: float) -> str:
    return (datetime.now(UTC) + timedelta(hours=hours)).isoformat()


async def has_slots(tenant: Tenant, wanted: int) -> bool:
    return await tenant.slots() == wanted


class TestQuota:
    async def test_an_account_counts_what_tasks_cost_and_gives_it_back(self, tenant: Tenant, me: str) -> None:
        await tenant.model("dear", price=3)
        assert await account(tenant) == {
            "user": me, "day": datetime.now(UTC).date().isoformat(), "used": 0, "limit": None, "rest": None,
            "own_limit": False, "resets_at": (await account(tenant))["resets_at"],
        }  # fmt: skip
        await limit(tenant, 10, me)
        first = await tenant.task("dear", output_count=2)
        await tenant.task("m", output_count=9)
        view = (await tenant.call("GET", f"/v1/tasks/{first}")).json()
        assert (view["output_count"], view["points"]) == (2, 6)
        refused = await tenant.submit("dear", output_count=2)
        assert (refused.status_code, refused.json()["code"]) == (429, "quota_exhausted")
        assert "4 of 10" in refused.json()["detail"]
        assert 0 < int(refused.headers["retry-after"]) <= 3_600
        assert await tenant.slots() == 2, "the slot of the refused one went back"
        assert (await account(tenant))["rest"] == 4
        await tenant.task("dear")
        assert (await account(tenant))["used"] == 9
        assert (await tenant.call("POST", f"/v1/tasks/{first}/cancel")).json()["verdict"] == "canceled"
        assert (await tenant.call("POST", f"/v1/tasks/{first}/cancel")).json()["verdict"] == "already_final"
        read = await account(tenant)
        assert (read["used"], read["limit"], read["rest"], read["own_limit"]) == (3, 10, 7, True)

    async def test_an_account_that_somebody_keeps_locked_holds_up_nobody_else(self, tenant: Tenant, me: str) -> None:
        await tenant.model("dear", price=1)
        await tenant.model("free")
        await tenant.task("dear")
        body = {"tasks": [{"model": model} for _ in range(20) for model in ("dear", "free")]}
        async with tenant.api.pool.acquire() as forgotten, forgotten.transaction():
            await forgotten.execute("UPDATE quota_usage SET used = used WHERE user_name = $1", me)
            answer = await tenant.call("POST", "/v1/tasks/batch", json=body)
        assert [item["http_status"] for item in answer.json()["items"]] == [503, 202] * 20
        assert (await account(tenant))["used"] == 1

    async def test_a_batch_that_waits_in_vain_for_one_account_says_so(
        self, tenant: Tenant, me: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(submission, "_PATIENCE_SECONDS", 0.5)
        await tenant.model("dear", price=1)
        await tenant.task("dear")
        async with tenant.api.pool.acquire() as forgotten, forgotten.transaction():
            await forgotten.execute("UPDATE quota_usage SET used = used WHERE user_name = $1", me)
            answer = await tenant.call("POST", "/v1/tasks/batch", json={"tasks": [{"model": "dear"}] * 2})
        assert (answer.status_code, answer.json()["code"]) == (503, "rows_locked")

    async def test_a_repeated_create_is_answered_beside_its_locked_account(
        self, tenant: Tenant, me: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It was refused once a fresh create had met the lock, and told that nothing was done."""
        monkeypatch.setattr(submission, "_PATIENCE_SECONDS", 0.5)
        await tenant.model("dear", price=1)
        first = await tenant.submit("dear", key="k")
        async with tenant.api.pool.acquire() as forgotten, forgotten.transaction():
            await forgotten.execute("UPDATE quota_usage SET used = used WHERE user_name = $1", me)
            assert (await tenant.submit("dear")).json()["code"] == "rows_locked"
            again = await tenant.submit("dear", key="k")
            other = await tenant.submit("dear", key="k", biz_name="other")
        assert (again.status_code, again.json()["id"]) == (202, first.json()["id"])
        assert again.headers["idempotent-replayed"] == "true"
        assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")
        assert await tenant.slots() == 1

    async def test_a_create_whose_caller_left_while_it_waited_for_its_account_keeps_no_slot(
        self, tenant: Tenant, me: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(submission, "_PATIENCE_SECONDS", 0.5)
        await tenant.model("dear", price=1)
        await tenant.task("dear")
        async with tenant.api.pool.acquire() as forgotten, forgotten.transaction():
            await forgotten.execute("UPDATE quota_usage SET used = used WHERE user_name = $1", me)
            leaving = asyncio.create_task(tenant.submit("dear"))
            await until_true(partial(has_slots, tenant, 2))
            leaving.cancel()
            await until_true(partial(has_slots, tenant, 1))
        assert len(await tenant.stored()) == 1

    async def test_in_a_batch_each_that_fits_is_accepted(self, tenant: Tenant, me: str) -> None:
        await tenant.model("dear", price=1)
        await limit(tenant, 5)
        body = {"tasks": [{"model": "dear", "output_count": count} for count in (3, 4, 2, 1)]}
        answer = await tenant.call("POST", "/v1/tasks/batch", json=body, headers={"Idempotency-Key": "b"})
        assert [item["http_status"] for item in answer.json()["items"]] == [202, 429, 202, 429]
        assert [item.get("problem", {}).get("code") for item in answer.json()["items"]][1] == "quota_exhausted"
        assert await tenant.slots() == 2
        await limit(tenant, 6)
        again = await tenant.call("POST", "/v1/tasks/batch", json=body, headers={"Idempotency-Key": "b"})
        assert [item.get("replayed") for item in again.json()["items"]] == [True, None, True, False]
        read = await account(tenant)
        assert (read["used"], read["own_limit"]) == (6, False)

    async def test_many_at_once_never_spend_more_than_there_is(self, tenant: Tenant) -> None:
        await tenant.model("dear", price=7)
        await limit(tenant, 100)
        answers = await asyncio.gather(*[tenant.submit("dear", key=f"k{n}" if n % 2 else None) for n in range(40)])
        assert sorted({answer.status_code for answer in answers}) == [202, 429]
        assert sum(answer.status_code == 202 for answer in answers) == 14
        assert (await account(tenant))["used"] == 98
        assert await tenant.slots() == 14

    async def test_the_old_route_pays_too_and_has_a_code_for_it(self, tenant: Tenant) -> None:
        await tenant.model("dear", price=2)
        await limit(tenant, 3)
        made = await tenant.call("POST", "/task/createTask", json={"modelName": "dear"})
        assert made.json()["code"] == 0
        refused = await tenant.call("POST", "/task/createTask", json={"modelName": "dear"})
        assert (refused.status_code, refused.json()["code"], refused.json()["data"]) == (429, 42_901, None)
        assert refused.headers["retry-after"]

    async def test_limits_are_listed_changed_and_taken_away(self, tenant: Tenant, me: str) -> None:
        odd = "a/b ü?"
        for user, points in (("", 5), (odd, 0), ("zoe", 2**53 - 1), (me, 7)):
            await limit(tenant, points, user)
        await limit(tenant, 8, me)
        items: list[dict[str, Any]] = []
        cursor = None
        while True:
            params = {"limit": 1, **({"cursor": cursor} if cursor else {})}
            page = (await tenant.call("GET", "/v1/quota/limits", params=params)).json()
            items += page["items"]
            if (cursor := page["next_cursor"]) is None:
                break
        assert {item["user"]: item["points_per_day"] for item in items} == {"": 5, odd: 0, "zoe": 2**53 - 1, me: 8}
        assert items[0]["user"] == ""
        assert (await account(tenant, odd))["limit"] == 0
        assert (await account(tenant, "nobody yet"))["limit"] == 5
        path = f"/v1/quota/limits/{quote(odd, safe='')}"
        assert (await tenant.call("DELETE", path)).status_code == 204
        assert (await account(tenant, odd))["limit"] == 5
        assert (await tenant.call("DELETE", "/v1/quota/limits")).status_code == 204
        for gone in (path, "/v1/quota/limits"):
            answer = await tenant.call("DELETE", gone)
            assert (answer.status_code, answer.json()["code"]) == (404, "limit_unknown")
        assert (await account(tenant, odd))["limit"] is None

    async def test_another_users_account_is_for_admins_and_another_tenants_for_nobody(
        self, api: Api, tenant: Tenant, me: str
    ) -> None:
        await limit(tenant, 9, "ann")
        reader = await api.tenant(tenant.id, ["read"])
        assert (await account(reader, me))["user"] == me
        refused = await reader.call("GET", "/v1/quota", params={"user": "ann"})
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
        assert (await account(await api.tenant(), "ann"))["limit"] is None

    @pytest.mark.parametrize(
        "body", [{}, {"points_per_day": -1}, {"points_per_day": 2**53}, {"points_per_day": "5"},
                 {"points_per_day": 1.5}, {"points_per_day": 1, "user": "x"}, [], {"points_per_day": None}],
        ids=repr,
    )  # fmt: skip
    async def test_what_is_no_limit_is_refused(self, tenant: Tenant, body: Any) -> None:
        for path in ("/v1/quota/limits", "/v1/quota/limits/ann"):
            answer = await tenant.call("PUT", path, json=body)
            assert (answer.status_code, answer.json()["code"]) == (400, "invalid")
        assert (await tenant.call("GET", "/v1/quota/limits")).json()["items"] == []

    async def test_what_is_no_users_name_is_refused(self, tenant: Tenant) -> None:
        for name in ("%00", "x" * 257):
            for method, more in (("PUT", {"json": {"points_per_day": 1}}), ("DELETE", {})):
                answer = await tenant.call(method, f"/v1/quota/limits/{name}", **more)
                assert (answer.status_code, answer.json()["code"]) == (400, "invalid")
            assert (await tenant.call("GET", f"/v1/quota?user={name}")).status_code == 400
        assert (await tenant.call("GET", "/v1/quota/limits?cursor=dGFzazox")).json()["code"] == "bad_cursor"

    async def test_an_address_without_a_users_name_limits_and_frees_nobody(self, tenant: Tenant) -> None:
        await limit(tenant, 7)
        for method, more in (("PUT", {"json": {"points_per_day": 0}}), ("DELETE", {})):
            answer = await tenant.call(method, "/v1/quota/limits/", **more)
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
        (everybody,) = (await tenant.call("GET", "/v1/quota/limits")).json()["items"]
        assert (everybody["user"], everybody["points_per_day"]) == ("", 7)

    @pytest.mark.parametrize("count", [0, -1, 1_001, 1.5, "2", None])
    async def test_a_task_asks_for_one_to_a_thousand_outputs(self, tenant: Tenant, count: Any) -> None:
        refused = await tenant.submit(output_count=count)
        assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (400, "/output_count")

    async def test_what_costs_more_than_can_be_counted_is_refused(self, tenant: Tenant) -> None:
        await tenant.model("dear", price=2**31 - 1)
        refused = await tenant.submit("dear", output_count=2)
        assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (400, "/output_count")
        assert (await tenant.submit("dear")).status_code == 202
        assert await tenant.slots() == 1


class TestTimes:
    async def test_a_task_shows_the_times_that_it_is_bound_to(self, tenant: Tenant) -> None:
        sent = {"not_before": soon(1), "start_by": soon(2), "deadline": soon(3)}
        accepted = await tenant.submit(**sent)
        times = (await tenant.call("GET", accepted.headers["location"])).json()["times"]
        for name, instant in sent.items():
            assert datetime.fromisoformat(times[name]) == datetime.fromisoformat(instant)
        (row,) = await tenant.api.sql(
            "SELECT d.* FROM dispatch d JOIN task t ON t.id = d.id WHERE t.tenant_id = $1", tenant.id
        )
        assert row["expires_at"] == row["start_by"] == datetime.fromisoformat(sent["start_by"])

    @pytest.mark.parametrize(
        ("hours", "pointer"),
        [
            ({"start_by": -1}, "/start_by"),
            ({"deadline": -1}, "/deadline"),
            ({"start_by": 2, "deadline": 1}, "/deadline"),
            ({"not_before": 2, "start_by": 1}, "/start_by"),
            ({"not_before": 2, "deadline": 1}, "/deadline"),
            ({"deadline": 24 * 400}, "/deadline"),
            ({"start_by": 24 * 400}, "/start_by"),
        ],
        ids=repr,
    )
    async def test_times_out_of_order_are_refused(self, tenant: Tenant, hours: dict[str, float], pointer: str) -> None:
        refused = await tenant.submit(**{name: soon(ahead) for name, ahead in hours.items()})
        assert (refused.status_code, refused.json()["code"]) == (400, "invalid")
        assert refused.json()["errors"][0]["pointer"] == pointer
        assert not await tenant.stored()
        assert await tenant.slots() == 0

    @pytest.mark.parametrize("value", ["tomorrow", 5, "2027-01-01T00:00:00", "2027-01-01"])
    async def test_what_is_no_instant_is_refused(self, tenant: Tenant, value: Any) -> None:
        for name in ("start_by", "deadline"):
            assert (await tenant.submit(**{name: value})).status_code == 400


class TestWeights:
    async def test_an_operator_gives_a_tenant_its_weight_and_dispatchers_hear_of_it(self, api: Api) -> None:
        operator, tenant = await api.tenant(scopes=["operate"]), await api.tenant()
        await tenant.model("m")
        path = f"/v1/tenants/{tenant.id}"
        read = (await operator.call("GET", path)).json()
        assert (read["id"], read["weight"], read["paused"]) == (str(tenant.id), 1, False)
        heard: list[str] = []
        listening = asyncio.create_task(
            api.hints.listen(["sw:dispatch"], lambda _, lines: heard.extend(lines), lambda: None)
        )
        await api.heard_by("sw:dispatch")
        answer = await operator.call("PUT", path, json={"weight": 3})
        assert (answer.status_code, answer.json()) == (200, {**read, "weight": 3})

        async def told() -> bool:
            return "* models" in heard

        await until_true(told)
        listening.cancel()
        assert (await operator.call("GET", path)).json()["weight"] == 3

    async def test_a_tenant_need_not_be_known_to_be_weighed(self, api: Api) -> None:
        operator = await api.tenant(scopes=["operate"])
        unknown = await operator.call("GET", "/v1/tenants/-5")
        assert (unknown.status_code, unknown.json()["code"]) == (404, "tenant_unknown")
        assert (await operator.call("PUT", "/v1/tenants/-5", json={"weight": 1_000})).json()["id"] == "-5"
        assert (await operator.call("GET", "/v1/tenants/-5")).json()["weight"] == 1_000

    @pytest.mark.parametrize("weight", [0, 1_001, -1, 1.5, "2", None, True])
    async def test_what_is_no_weight_is_refused(self, api: Api, weight: Any) -> None:
        operator = await api.tenant(scopes=["operate"])
        answer = await operator.call("PUT", "/v1/tenants/77", json={"weight": weight})
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid")
        for number in ("x", str(2**63)):
            assert (await operator.call("GET", f"/v1/tenants/{number}")).status_code == 400


async def test_days_end_when_the_time_zone_says(stores: tuple[str, str]) -> None:
    from tests.support.api import running_api

    zone = ZoneInfo("Asia/Kathmandu")
    async with running_api(*stores, timezone=zone.key) as api:
        tenant = await api.tenant()
        await tenant.model("dear", price=1)
        await tenant.task("dear")
        read = await account(tenant)
    assert read["day"] == datetime.now(zone).date().isoformat()
    assert datetime.fromisoformat(read["resets_at"]).astimezone(zone).strftime("%H:%M") == "00:00"
    assert read["used"] == 1
