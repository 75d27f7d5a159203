"""A new model among a thousand: usable at once, and the others hardly notice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import cycle
from statistics import median

import httpx
import pytest
from aiokafka.admin import AIOKafkaAdminClient

from tests.support.road import Road, until

MODELS = 1_000
NEWCOMERS = 20
PER_SECOND = 50
#: Models of the thousand that are at work all the time.
BUSY = 40


@dataclass
class Stream:
    """Tasks for models at work, one after the other; remembers when each was handed in."""

    road: Road
    client: httpx.AsyncClient
    sent: dict[str, float] = field(default_factory=dict)

    async def run(self) -> None:
        """Until cancelled: each task by itself, whether or not earlier ones were answered."""
        models = cycle(f"m{number}" for number in range(BUSY))
        async with asyncio.TaskGroup() as group:
            while True:
                group.create_task(self.send(next(models)))
                await asyncio.sleep(1 / PER_SECOND)

    async def send(self, model: str) -> str:
        """Hand in one task; returns the name that the model will see."""
        name = f"{model}-{len(self.sent)}"
        self.sent[name] = time.monotonic()
        answer = await self.client.post("/v1/tasks", json={"model": model, "payload": {"name": name}})
        assert answer.status_code == 202, answer.text
        return name

    def longest(self, begin: float, end: float) -> float:
        """The longest time from handing in to the call, of the tasks handed in between two moments."""
        called = {call.name: call.began for call in self.road.mock.calls}
        now = time.monotonic()
        waits = [called.get(name, now) - at for name, at in self.sent.items() if begin <= at < end]
        return max(waits)


@asynccontextmanager
async def stream(road: Road, tenant: int) -> AsyncIterator[Stream]:
    """A client of the tenant, and its models at work for the length of the block."""
    headers = {"Authorization": f"Bearer {road.keys[tenant]}"}
    async with httpx.AsyncClient(base_url=road.api, headers=headers, timeout=30, trust_env=False) as client:
        work = Stream(road, client)
        running = asyncio.create_task(work.run())
        try:
            yield work
        finally:
            running.cancel()
            await asyncio.wait([running])
            assert running.cancelled(), running.exception()


async def topics(road: Road) -> int:
    """How many model topics of this road the broker has."""
    admin = AIOKafkaAdminClient(bootstrap_servers=road.servers.broker.address)
    await admin.start()
    try:
        return sum(name.startswith(f"{road.prefix}.model.") for name in await admin.list_topics())
    finally:
        await admin.close()


@pytest.mark.long
@pytest.mark.quiet
@pytest.mark.timeout(600)
async def test_a_new_model_among_a_thousand_is_usable_within_two_seconds_and_disturbs_nobody(road: Road) -> None:
    await road.start_all()
    tenant = await road.tenant()
    for start in range(0, MODELS, 20):
        await asyncio.gather(*(road.model(tenant, f"m{number}") for number in range(start, start + 20)))

    async def all_there() -> bool:
        return await topics(road) == MODELS

    await until(all_there, 120, "every model has its topic")
    usable, disturbed = [], []
    async with stream(road, tenant) as work:
        await until(lambda: len(road.mock.calls) > 10 * PER_SECOND, 60, "the stream flows")
        for number in range(NEWCOMERS):
            await asyncio.sleep(2)  # the stream by itself, to compare with
            began = time.monotonic()
            await road.model(tenant, f"new{number}")
            name = await work.send(f"new{number}")
            await until(lambda: road.mock.by_name[name], 30, f"model {number} is used")  # noqa: B023  asked at once
            usable.append(next(call.began for call in road.mock.calls if call.name == name) - began)
            await asyncio.sleep(max(0.0, began + 2 - time.monotonic()))
            await asyncio.sleep(1)  # who was handed in last has its call by now
            disturbed.append(work.longest(began, began + 2) - work.longest(began - 2, began))
    assert max(usable) <= 2, usable
    assert median(disturbed) <= 0.2, disturbed
    assert max(disturbed) <= 1, disturbed
