"""What requests that are refused leave in memory: nothing that waits for the garbage collector.

An exception that a function of its own traceback names keeps that function, and with it the body of the request.
600 refused creates of a megabyte each had made 1.8 GB of that.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.api import DEAD_POSTGRES, DEAD_REDIS, Tenant, running_api
from tests.support.rubbish import rubbish

pytestmark = pytest.mark.asyncio(loop_scope="package")

TASK = {"model": "m", "payload": {}}
REFUSED: dict[str, tuple[int, str, str, dict[str, Any]]] = {
    "no JSON": (400, "POST", "/v1/tasks", {"content": b"[[["}),
    "of no form": (400, "POST", "/v1/tasks", {"json": {**TASK, "bogus": 1}}),
    "no model": (404, "POST", "/v1/tasks", {"json": {**TASK, "model": "nobody"}}),
    "a key twice": (422, "POST", "/v1/tasks", {"json": {**TASK, "biz_name": "x"}, "headers": {"Idempotency-Key": "k"}}),
    "no slot": (429, "POST", "/v1/tasks", {"json": {**TASK, "model": "full"}}),
    "too large": (413, "POST", "/v1/tasks", {"content": b" " * (17 * 2**20)}),
    "no media": (415, "POST", "/v1/tasks", {"content": b"a", "headers": {"Content-Type": "text/plain"}}),
    "no caller": (401, "POST", "/v1/tasks", {"json": TASK, "headers": {"Authorization": "Bearer sw_nobody"}}),
    "in part": (207, "POST", "/v1/tasks/batch", {"json": {"tasks": [TASK, {"model": 1}, {**TASK, "model": "full"}]}}),
    "no batch": (400, "POST", "/v1/tasks/batch", {"json": {"tasks": []}}),
    "no task": (404, "GET", "/v1/tasks/nobody", {}),
    "a bad model": (400, "POST", "/v1/models", {"json": {"name": ".", "base_url": "x"}}),
    "an old route": (400, "POST", "/task/createTask", {"content": b"{"}),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_what_is_refused_leaves_nothing_behind(tenant: Tenant, what: str) -> None:
    await tenant.model("full", queue_limit=1)
    await tenant.submit("full")
    await tenant.submit(key="k")
    status, method, path, request = REFUSED[what]
    await tenant.call(method, path, **request)  # what is made once, is made now
    with rubbish() as left:
        assert (await tenant.call(method, path, **request)).status_code == status
    assert not left, " ".join(left)


@pytest.mark.parametrize("away", ["postgres", "redis"])
async def test_what_an_outage_refuses_leaves_nothing_behind(tenant: Tenant, stores: tuple[str, str], away: str) -> None:
    await tenant.submit()
    urls = (DEAD_POSTGRES, stores[1]) if away == "postgres" else (stores[0], DEAD_REDIS)
    async with running_api(*urls) as api:
        there = Tenant(api, tenant.id, tenant.key)
        await there.submit()
        with rubbish() as left:
            assert (await there.submit()).status_code == 503
        assert not left, " ".join(left)
