"""A new release goes out under load: every process is replaced, one after the other, and no caller notices."""

from __future__ import annotations

import asyncio
import itertools
import random

import httpx

from libs.common.embedded.service import ServiceProcess
from tests.support.road import NO_TLS, ROLES, Road


class Balancer:
    """Sends requests to the APIs that say they are ready, over kept connections, as a load balancer does."""

    def __init__(self, road: Road) -> None:
        self._road = road
        self._client = httpx.AsyncClient(trust_env=False, verify=NO_TLS, timeout=10)
        self._ready: list[str] = []
        self._rng = random.Random(1)
        self.answers: list[int] = []

    async def look(self) -> None:
        """Ask all of them every fifth of a second."""
        while True:
            apis = [api for api in self._road.processes["api"] if api.pid is not None]
            self._ready = [api.address for api in apis if await self._is_ready(api)]
            await asyncio.sleep(0.2)

    async def create(self, tenant: int, number: int) -> str:
        while not self._ready:
            await asyncio.sleep(0.05)
        answer = await self._client.post(
            f"{self._rng.choice(self._ready)}/v1/tasks",
            json={"model": "m", "payload": {"name": str(number), "seconds": 0.1}},
            headers={"Authorization": f"Bearer {self._road.keys[tenant]}"},
        )
        self.answers.append(answer.status_code)
        return str(answer.json().get("id"))

    async def close(self) -> None:
        await self._client.aclose()

    async def _is_ready(self, api: ServiceProcess) -> bool:
        try:
            return (await self._client.get(f"{api.address}/readyz", timeout=1)).is_success
        except httpx.HTTPError:
            return False


async def test_every_process_is_replaced_under_load_and_no_create_is_refused(road: Road) -> None:
    await asyncio.gather(*(road.start(role, 2) for role in ROLES))
    tenant = await road.tenant()
    await road.model(tenant, max_concurrency=20, queue_limit=100_000)
    balancer, over, ids = Balancer(road), asyncio.Event(), list[str]()
    looking = asyncio.create_task(balancer.look())

    async def call(numbers: itertools.count[int]) -> None:
        while not over.is_set():
            ids.append(await balancer.create(tenant, next(numbers)))
            await asyncio.sleep(0.02)

    numbers = itertools.count()
    calls = [asyncio.create_task(call(numbers)) for _ in range(4)]
    for role in ROLES:
        for old in list(road.processes[role]):
            await road.start(role)
            await road.stop(old)
    over.set()
    await asyncio.gather(*calls)
    looking.cancel()
    await balancer.close()
    assert set(balancer.answers) == {202}
    assert len(ids) == len(set(ids)) > 200
    await road.ended(ids, 60)
    assert len(road.mock.calls) == len(ids)  # nobody's call was cut off
    await road.assert_whole(ids)
