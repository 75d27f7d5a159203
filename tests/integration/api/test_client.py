"""The SDK against an API over real servers."""

from __future__ import annotations

import asyncio

import pytest

from libs.client import ApiError, AsyncClient, Client
from tests.support.api import Tenant

pytestmark = pytest.mark.asyncio(loop_scope="package")


async def test_the_asynchronous_client_does_what_callers_do(tenant: Tenant) -> None:
    async with AsyncClient(tenant.api.url, tenant.key) as client:
        first = await client.submit("m", {"n": 1}, idempotency_key="k", biz_name="b")
        assert (await client.submit("m", {"n": 1}, idempotency_key="k", biz_name="b")).id == first.id
        assert (await client.get(first.id)).status == "submitted"
        items = await client.submit_batch([{"model": "m"}, {"model": "nobody"}])
        assert [bool(item.get("id")) for item in items] == [True, False]
        listed = [item["id"] async for item in client.pages("/v1/tasks", limit=1)]
        assert listed == [items[0]["id"], first.id], "page by page"
        with pytest.raises(TimeoutError, match="submitted"):
            await client.wait(first.id, 0)
        waiting = asyncio.create_task(client.wait(first.id, 30))
        assert (await client.cancel(first.id))["verdict"] == "canceled"
        assert (await waiting).status == "canceled"
        assert [row["kind"] for row in await client.history(first.id)] == ["cancel"]
        assert await client.attempts(first.id) == []
        with pytest.raises(ApiError) as raised:
            await client.get("nothing")
        assert (raised.value.status, raised.value.code) == (404, "task_unknown")


async def test_the_waiting_client_does_the_same(tenant: Tenant) -> None:
    def story() -> str:
        with Client(tenant.api.url, tenant.key) as client:
            task = client.submit("m")
            assert [item["id"] for item in client.pages("/v1/tasks")] == [task.id]
            client.cancel(task.id)
            return client.wait(task.id, 30).status

    assert await asyncio.to_thread(story) == "canceled"
