"""The strict gate as the old gateway's callers meet it: many processes, never one task over the limit."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack

import httpx
import pytest

from tests.support.api import Api
from tests.support.api_process import api_process

pytestmark = pytest.mark.asyncio(loop_scope="package")

PROCESSES = 8
CREATES = 200
LIMIT = 100


async def test_eight_processes_of_two_hundred_creates_accept_exactly_the_limit(
    api: Api, stores: tuple[str, str]
) -> None:
    tenant = await api.tenant()
    model = {"modelName": "m", "baseUrl": "http://127.0.0.1:9", "queueLimit": LIMIT}
    assert (await tenant.call("POST", "/model/createModel", json=model)).status_code == 200
    async with AsyncExitStack() as stack:
        started = [stack.enter_async_context(api_process(stores)) for _ in range(PROCESSES)]
        urls = [url for _, url in await asyncio.gather(*started)]
        answers = await asyncio.gather(*[crowd(url, tenant.key) for url in urls])
    total = sum(answers, Counter())
    assert total == {0: LIMIT, 429: PROCESSES * CREATES - LIMIT}
    # Everybody was there at the same time: no single process took all.
    assert sum(1 for answer in answers if answer[0]) > 1
    assert len(await tenant.stored()) == LIMIT
    assert await tenant.slots() == LIMIT


async def crowd(url: str, key: str) -> Counter[int]:
    """All creates at once; how often each code was answered."""
    limits = httpx.Limits(max_connections=CREATES, max_keepalive_connections=CREATES)
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(
        base_url=url, headers=headers, limits=limits, timeout=60, trust_env=False, verify=False
    ) as client:
        body = {"modelName": "m", "requestPayload": {}}
        answers = await asyncio.gather(*[client.post("/task/createTask", json=body) for _ in range(CREATES)])
    return Counter(answer.json()["code"] for answer in answers)
