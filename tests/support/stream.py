"""A steady stream of single tasks, and how long each waits for its call at the model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import cycle

import httpx

from tests.support.road import Road


@dataclass
class Stream:
    """Hands in tasks of one tenant; remembers when."""

    road: Road
    client: httpx.AsyncClient
    sent: dict[str, float] = field(default_factory=dict)

    async def run(self, models: Sequence[str], per_second: float) -> None:
        """Until cancelled: each task by itself, whether or not earlier ones were answered."""
        async with asyncio.TaskGroup() as group:
            for model in cycle(models):
                group.create_task(self.send(model))
                await asyncio.sleep(1 / per_second)

    async def send(self, model: str) -> str:
        """Hand in one task; returns the name that the model will see."""
        name = f"{model}-{len(self.sent)}"
        self.sent[name] = time.monotonic()
        answer = await self.client.post("/v1/tasks", json={"model": model, "payload": {"name": name}})
        assert answer.status_code == 202, answer.text
        return name

    def waits(self, begin: float, end: float) -> list[float]:
        """Seconds from handing in to the call, of the tasks handed in between two moments, shortest first."""
        called = {call.name: call.began for call in self.road.mock.calls}
        now = time.monotonic()
        return sorted(called.get(name, now) - at for name, at in self.sent.items() if begin <= at < end)


@asynccontextmanager
async def streaming(road: Road, tenant: int, models: Sequence[str], per_second: float) -> AsyncIterator[Stream]:
    """The tenant's models are at work for the length of the block."""
    headers = {"Authorization": f"Bearer {road.keys[tenant]}"}
    async with httpx.AsyncClient(
        base_url=road.api, headers=headers, timeout=30, trust_env=False, verify=False
    ) as client:
        stream = Stream(road, client)
        running = asyncio.create_task(stream.run(models, per_second))
        try:
            yield stream
        finally:
            running.cancel()
            await asyncio.wait([running])
            assert running.cancelled(), running.exception()
