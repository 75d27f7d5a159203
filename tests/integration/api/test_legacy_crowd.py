"""The strict gate as the old gateway's callers meet it: many processes, never one task over the limit."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest

from tests.support.api import Api
from tests.support.api_process import forked_api

pytestmark = pytest.mark.asyncio(loop_scope="package")

PROCESSES = 8
CREATES = 200
LIMIT = 800  #: more than one process has callers: what one of them asks for at once does not fill the gate


async def test_eight_processes_of_two_hundred_creates_accept_exactly_the_limit(
    api: Api, stores: tuple[str, str], tmp_path: Path
) -> None:
    tenant = await api.tenant()
    model = {"modelName": "m", "baseUrl": "http://127.0.0.1:9", "queueLimit": LIMIT}
    assert (await tenant.call("POST", "/model/createModel", json=model)).status_code == 200
    async with AsyncExitStack() as stack:
        started = [stack.enter_async_context(forked_api(stores, tmp_path)) for _ in range(PROCESSES)]
        clients = [
            await stack.enter_async_context(
                # Not httpx: its pool walks all connections for each request, and these are 1,600.
                aiohttp.ClientSession(url, connector=aiohttp.TCPConnector(limit=CREATES))
            )
            for url in await asyncio.gather(*started)
        ]
        codes = await asyncio.gather(*[create(client, tenant.key) for _ in range(CREATES) for client in clients])
    assert Counter(codes) == {0: LIMIT, 429: PROCESSES * CREATES - LIMIT}
    # All were at the gate together: no process took what there was alone.
    winners = {place % PROCESSES for place, code in enumerate(codes) if code == 0}
    assert len(winners) > 1
    assert len(await tenant.stored()) == LIMIT
    assert await tenant.slots() == LIMIT


async def create(client: aiohttp.ClientSession, key: str) -> int:
    """One create; the code of its answer."""
    headers = {"Authorization": f"Bearer {key}"}
    asked = {"modelName": "m", "requestPayload": {}}
    async with client.post("/task/createTask", json=asked, headers=headers) as answer:
        return int((await answer.json())["code"])
