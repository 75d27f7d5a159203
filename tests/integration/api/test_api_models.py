"""Making, reading, changing and deleting models over REST."""

from __future__ import annotations

import asyncio
import base64
from datetime import timedelta
from typing import Any

import pytest

from libs.common.adapters.secrets import KeyRing
from tests.support.api import Api, Tenant, running_api, until_true

pytestmark = pytest.mark.asyncio(loop_scope="package")

DEFAULTS = {
    "route": "",
    "http_method": "POST",
    "api_key": "",
    "enabled": True,
    "max_concurrency": 10,
    "queue_limit": 1000,
    "timeout_seconds": 60,
    "expected_seconds": 0,
    "retry_times": 0,
    "retry_queue_max_seconds": 0,
    "auto_clean_seconds": 86400,
    "adapter": "plain-http",
    "adapter_config": {},
    "poll_seconds": 3,
    "job_timeout_seconds": 3600,
    "price": 0,
    "remark": "",
    "version": 1,
}


@pytest.fixture
async def caller(api: Api) -> Tenant:
    return await api.tenant()


async def stored_key(tenant: Tenant, name: str) -> str | None:
    """The api_key as an executor reads it."""
    (row,) = await tenant.api.sql("SELECT bindings FROM model WHERE tenant_id = $1 AND name = $2", tenant.id, name)
    if row["bindings"] is None:
        return None
    ring = KeyRing("test:" + base64.b64encode(b"k" * 32).decode())
    return ring.open(row["bindings"], f"tenant:{tenant.id}").decode()


class TestCreate:
    async def test_what_is_left_out_gets_its_default(self, api: Api) -> None:
        tenant = await api.tenant()
        answer = await tenant.call("POST", "/v1/models", json={"name": "a/b c", "base_url": "http://127.0.0.1:9/x"})
        assert answer.status_code == 201, answer.text
        assert answer.headers["location"] == "/v1/models/a%2Fb%20c"
        assert answer.headers["etag"] == '"1"'
        made = answer.json()
        assert made == {"id": made["id"], "name": "a/b c", "base_url": "http://127.0.0.1:9/x", **DEFAULTS}
        assert (await tenant.call("GET", answer.headers["location"])).json() == made

    async def test_nulls_zeros_and_negatives_mean_the_default(self, api: Api) -> None:
        tenant = await api.tenant()
        made = await tenant.model(
            max_concurrency=0, queue_limit=-5, timeout_seconds=None, auto_clean_seconds=0, poll_seconds=-1, price=-1,
            expected_seconds=-7, route=None, http_method="get",
        )  # fmt: skip
        assert {name: made[name] for name in DEFAULTS} == DEFAULTS | {"http_method": "GET"}

    async def test_the_largest_numbers_are_numbers_like_others(self, api: Api) -> None:
        tenant = await api.tenant()
        largest = dict.fromkeys(("max_concurrency", "queue_limit", "expected_seconds", "auto_clean_seconds"), 2**31 - 1)
        assert (await tenant.model("m", **largest)).items() >= largest.items()
        assert (await tenant.submit()).status_code == 202

    async def test_a_name_is_taken_once_and_per_tenant(self, api: Api) -> None:
        tenant, other = await api.tenant(), await api.tenant()
        await tenant.model("m")
        await other.model("m")
        body = {"name": "m", "base_url": "http://127.0.0.1:9"}
        taken = await tenant.call("POST", "/v1/models", json=body)
        assert (taken.status_code, taken.json()["code"]) == (409, "model_exists")
        body["name"] = "n"
        answers = await asyncio.gather(*[tenant.call("POST", "/v1/models", json=body) for _ in range(5)])
        assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409, 409]

    async def test_a_secret_is_sealed_and_never_shown(self, api: Api) -> None:
        tenant = await api.tenant()
        made = await tenant.model("m", api_key='X-Key:"s3cret,value",n:1')
        assert made["api_key"] == "********"
        assert await stored_key(tenant, "m") == 'X-Key:"s3cret,value",n:1'
        for path in ("/v1/models", "/v1/models/m"):
            assert "s3cret" not in (await tenant.call("GET", path)).text
        refused = await tenant.call(
            "POST", "/v1/models", json={"name": "n", "base_url": "http://127.0.0.1:9", "api_key": "Host:s3cret\r\nX:y"}
        )
        assert refused.status_code == 400
        assert refused.json()["errors"][0]["pointer"] == "/api_key"
        assert "s3cret" not in refused.text

    async def test_an_unknown_adapter_is_answered_with_the_known_ones(self, api: Api) -> None:
        tenant = await api.tenant()
        body = {"name": "m", "base_url": "http://127.0.0.1:9", "adapter": "carrier-pigeon"}
        refused = await tenant.call("POST", "/v1/models", json=body)
        assert (refused.status_code, refused.json()["code"]) == (400, "model_adapter")
        assert "plain-http" in refused.json()["detail"]
        assert refused.json()["errors"][0]["pointer"] == "/adapter"

    @pytest.mark.parametrize(
        "address",
        ["http://10.0.0.1", "http://192.168.1.1:80/x", "http://0xA9FEA9FE/", "http://169.254.169.254/latest",
         "http://[::ffff:10.0.0.1]/", "http://100.64.0.1", "http://[fc00::1]"],
    )  # fmt: skip
    async def test_a_private_address_is_refused_by_the_setting_s_name(self, api: Api, address: str) -> None:
        tenant = await api.tenant()
        body = {"name": "m", "base_url": address}
        refused = await tenant.call("POST", "/v1/models", json=body)
        assert (refused.status_code, refused.json()["code"]) == (400, "egress_refused")
        assert "SLUICEWAY_EGRESS_ALLOW" in refused.json()["detail"]

    async def test_without_an_allow_list_this_machine_is_private(self, stores: tuple[str, str]) -> None:
        async with running_api(*stores, egress_allow="") as api:
            tenant = await api.tenant()
            for address in (
                "http://127.0.0.1:9",
                "http://localhost",
                "http://[::1]:80",
                "http://127.1",
                "http://2130706433",
            ):
                refused = await tenant.call("POST", "/v1/models", json={"name": "m", "base_url": address})
                assert (refused.status_code, refused.json()["code"]) == (400, "egress_refused"), address

    @pytest.mark.parametrize(
        "fields",
        [
            {"name": ""}, {"name": " "}, {"name": "x" * 129}, {"name": "a\nb"}, {"name": "a\x00b"}, {"name": 5},
            {"base_url": ""}, {"base_url": "model"}, {"base_url": "file:///etc/passwd"}, {"base_url": "gopher://h"},
            {"base_url": "http://user@127.0.0.1"}, {"base_url": "http://127.0.0.1/#x"}, {"base_url": "http://"},
            {"base_url": "http://127.0.0.1", "route": "x y"}, {"base_url": "http://127.0.0.1?x=1", "route": "y"},
            {"http_method": "PUT"}, {"max_concurrency": "4"}, {"max_concurrency": 1.5}, {"max_concurrency": True},
            {"queue_limit": 2**31}, {"queue_limit": 10**30}, {"timeout_seconds": 10**9},
            {"retry_times": 1_001}, {"enabled": 2}, {"enabled": "1"}, {"adapter_config": []},
            {"adapter_config": {"a": "x" * 70_000}},
            {"api_key": "Host:x"}, {"api_key": 'X:"open'}, {"api_key": "a b:c"}, {"color": "red"}, {"version": 3},
            {"job_timeout_seconds": 100_000}, {"remark": "\x00"}, {"tenant_id": 1},
        ],
        ids=repr,
    )  # fmt: skip
    async def test_refuses_what_breaks_a_rule(self, tenant: Tenant, fields: dict[str, Any]) -> None:
        body = {"name": "new", "base_url": "http://127.0.0.1:9", **fields}
        answer = await tenant.call("POST", "/v1/models", json=body)
        assert answer.status_code == 400, answer.text
        problem = answer.json()
        assert problem["errors"][0]["pointer"].removeprefix("/") in {*fields, "route"}
        assert [model["name"] for model in (await tenant.call("GET", "/v1/models")).json()["items"]] == ["m"]

    async def test_odd_names_are_fine(self, api: Api) -> None:
        tenant = await api.tenant()
        for name in ("a/../b", "%2F", "ü\u202e", "a?b#c", "...", "x" * 128, "'; --"):
            answer = await tenant.call("POST", "/v1/models", json={"name": name, "base_url": "http://127.0.0.1:9"})
            assert answer.status_code == 201, answer.text
            assert (await tenant.call("GET", answer.headers["location"])).json()["name"] == name
            assert (await tenant.submit(name)).status_code == 202

    @pytest.mark.parametrize("name", [".", ".."])
    async def test_what_stands_for_no_name_in_an_address_is_no_name_of_a_model(self, tenant: Tenant, name: str) -> None:
        made = await tenant.call("POST", "/v1/models", json={"name": name, "base_url": "http://127.0.0.1:9"})
        renamed = await tenant.call("PATCH", "/v1/models/m", json={"name": name})
        for refused in (made, renamed):
            assert (refused.status_code, refused.json()["code"]) == (400, "model_name")
        made = await tenant.call(
            "POST", "/model/createModel", json={"modelName": name, "baseUrl": "http://127.0.0.1:9"}
        )
        assert (made.status_code, made.json()["code"]) == (400, 40_003)
        await tenant.api.sql("UPDATE model SET name = $2 WHERE tenant_id = $1", tenant.id, name)  # as an import may
        read = await tenant.call("GET", f"/v1/models/{name.replace('.', '%2E')}")
        assert read.json()["name"] == name


class TestChange:
    async def test_only_what_is_given_changes(self, api: Api) -> None:
        tenant = await api.tenant()
        made = await tenant.model("m", api_key="K:v", remark="r", retry_times=3)
        changed = await tenant.call("PATCH", "/v1/models/m", json={"retry_times": 0, "remark": None, "route": "/x"})
        assert changed.status_code == 200, changed.text
        assert changed.json() == {**made, "retry_times": 0, "route": "/x", "version": 2}
        assert changed.headers["etag"] == '"2"'
        unchanged = await tenant.call("PATCH", "/v1/models/m", json={})
        assert unchanged.json() == changed.json()

    async def test_the_mask_changes_nothing_and_an_empty_key_clears(self, api: Api) -> None:
        tenant = await api.tenant()
        await tenant.model("m", api_key="K:v")
        masked = await tenant.call("PATCH", "/v1/models/m", json={"api_key": "********", "price": 1})
        assert masked.json()["api_key"] == "********"
        assert await stored_key(tenant, "m") == "K:v"
        await tenant.call("PATCH", "/v1/models/m", json={"api_key": "K:w"})
        assert await stored_key(tenant, "m") == "K:w"
        cleared = await tenant.call("PATCH", "/v1/models/m", json={"api_key": ""})
        assert cleared.json()["api_key"] == ""
        assert await stored_key(tenant, "m") is None

    async def test_if_match_keeps_a_lost_update_out(self, api: Api) -> None:
        tenant = await api.tenant()
        await tenant.model("m")
        good = await tenant.call("PATCH", "/v1/models/m", json={"price": 1}, headers={"If-Match": '"1"'})
        assert good.status_code == 200
        late = await tenant.call("PATCH", "/v1/models/m", json={"price": 2}, headers={"If-Match": '"1"'})
        assert (late.status_code, late.json()["code"]) == (412, "version_mismatch")
        weak = await tenant.call("PATCH", "/v1/models/m", json={"price": 2}, headers={"If-Match": 'W/"2"'})
        assert weak.status_code == 412
        any_version = await tenant.call("PATCH", "/v1/models/m", json={"price": 2}, headers={"If-Match": "*"})
        assert any_version.status_code == 200
        assert (await tenant.call("PATCH", "/v1/models/m", json={}, headers={"If-Match": "3"})).status_code == 400

    async def test_changes_at_once_all_count(self, api: Api) -> None:
        tenant = await api.tenant()
        await tenant.model("m")
        fields = ["price", "retry_times", "expected_seconds"]
        answers = await asyncio.gather(*[tenant.call("PATCH", "/v1/models/m", json={field: 7}) for field in fields])
        assert {answer.status_code for answer in answers} == {200}
        view = (await tenant.call("GET", "/v1/models/m")).json()
        assert [view[field] for field in fields] == [7, 7, 7]
        assert view["version"] == 4

    async def test_a_rename_keeps_tasks_key_and_queue(self, api: Api) -> None:
        tenant = await api.tenant()
        await tenant.model("old", queue_limit=1, api_key="K:v")
        task = await tenant.task("old")
        assert (await tenant.call("PATCH", "/v1/models/old", json={"name": "new"})).status_code == 200
        assert (await tenant.submit("old")).status_code == 404
        assert (await tenant.submit("new")).status_code == 429
        assert (await tenant.call("GET", f"/v1/tasks/{task}")).json()["model"] == "new"
        assert await stored_key(tenant, "new") == "K:v"
        await tenant.model("old")
        taken = await tenant.call("PATCH", "/v1/models/old", json={"name": "new"})
        assert (taken.status_code, taken.json()["code"]) == (409, "model_exists")

    async def test_while_its_provider_has_jobs_it_keeps_its_adapter(self, api: Api) -> None:
        tenant = await api.tenant()
        made = await tenant.model("m", adapter="replicate", adapter_config={"version": "a/b"})
        another = {"adapter": "cog", "adapter_config": {}}
        (lane,) = await api.sql("SELECT id FROM lane WHERE tenant_id = $1", tenant.id)
        (job,) = await api.sql(
            "INSERT INTO provider_job (task_id, attempt, lane, intent_key, adapter, polls, permit_token, deadline)"
            " VALUES (nextval('task_ids'), 1, $1, gen_random_uuid(), 'replicate', true, gen_random_uuid(), now())"
            " RETURNING task_id",
            lane["id"],
        )
        refused = await tenant.call("PATCH", "/v1/models/m", json=another)
        assert (refused.status_code, refused.json()["code"]) == (409, "model_jobs_open")
        old = await api.client.put(
            "/model/updateModel",
            json={"id": made["id"], "adapter": "cog", "adapterConfig": {}},
            headers={"Authorization": f"Bearer {tenant.key}"},
        )
        assert (old.status_code, old.json()["code"]) == (409, 40_903)
        more = {"adapter": "replicate", "adapter_config": {"version": "a/c"}, "base_url": "http://127.0.0.1:8"}
        assert (await tenant.call("PATCH", "/v1/models/m", json=more)).status_code == 200
        ended = "UPDATE provider_job SET ended_at = now() - $2::interval, cancel_at = now() WHERE task_id = $1"
        await api.sql(ended, job["task_id"], timedelta())  # its provider has yet to be told
        assert (await tenant.call("PATCH", "/v1/models/m", json=another)).status_code == 409
        await api.sql(ended, job["task_id"], timedelta(hours=2))  # nobody can tell it
        assert (await tenant.call("PATCH", "/v1/models/m", json=another)).json()["adapter"] == "cog"

    async def test_enabled_may_be_written_as_the_old_routes_write_it(self, api: Api) -> None:
        tenant = await api.tenant()
        await tenant.model("m")
        for written, meant in ((0, False), (1, True), (0.0, False), (True, True)):
            changed = await tenant.call("PATCH", "/v1/models/m", json={"enabled": written})
            assert (changed.status_code, changed.json()["enabled"]) == (200, meant)

    async def test_an_address_is_judged_again(self, api: Api) -> None:
        tenant = await api.tenant()
        await tenant.model("m")
        for change in ({"base_url": "http://10.0.0.1"}, {"route": "a b"}, {"base_url": "ftp://x"}):
            assert (await tenant.call("PATCH", "/v1/models/m", json=change)).status_code == 400

    async def test_a_change_holds_in_another_process_within_a_second(self, api: Api, stores: tuple[str, str]) -> None:
        tenant = await api.tenant()
        await tenant.model("m")
        async with running_api(*stores) as second:
            there = Tenant(second, tenant.id, tenant.key)
            assert (await there.submit()).status_code == 202
            await tenant.call("PATCH", "/v1/models/m", json={"enabled": False})

            async def refused() -> bool:
                return (await there.submit()).status_code == 409

            await until_true(refused, seconds=1)


class TestReadAndDelete:
    async def test_pages_newest_first(self, api: Api) -> None:
        tenant = await api.tenant()
        for number in range(5):
            await tenant.model(f"m{number}")
        names: list[str] = []
        cursor = ""
        while True:
            page = (await tenant.call("GET", f"/v1/models?limit=2{cursor}")).json()
            names += [model["name"] for model in page["items"]]
            if page["next_cursor"] is None:
                break
            cursor = f"&cursor={page['next_cursor']}"
        assert names == ["m4", "m3", "m2", "m1", "m0"]
        for query in ("limit=0", "limit=x", "cursor=zz", "cursor=dGFzazoz", "name=x"):
            assert (await tenant.call("GET", f"/v1/models?{query}")).status_code == 400

    async def test_etag_spares_the_body(self, tenant: Tenant) -> None:
        same = await tenant.call("GET", "/v1/models/m", headers={"If-None-Match": '"1"'})
        assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", '"1"')

    async def test_a_deleted_model_is_gone_and_its_name_free(self, tenant: Tenant) -> None:
        task = await tenant.task()
        deleted = await tenant.call("DELETE", "/v1/models/m")
        assert (deleted.status_code, deleted.content) == (204, b"")
        for method in ("GET", "PATCH", "DELETE"):
            body: dict[str, Any] = {"json": {}} if method == "PATCH" else {}
            gone = await tenant.call(method, "/v1/models/m", **body)
            assert (gone.status_code, gone.json()["code"]) == (404, "model_unknown")
        assert (await tenant.call("GET", f"/v1/tasks/{task}")).json()["model"] == "m"
        await tenant.model("m")
        assert (await tenant.submit()).status_code == 202

    @pytest.mark.parametrize("name", ["nothing", "%00", "a%00b", "%ff", "x" * 5_000])
    async def test_an_unknown_name_is_not_found(self, tenant: Tenant, name: str) -> None:
        for method in ("GET", "DELETE"):
            answer = await tenant.call(method, f"/v1/models/{name}")
            assert (answer.status_code, answer.json()["code"]) == (404, "model_unknown")
