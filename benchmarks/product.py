"""The product under load: CPU by process, tasks a second, latencies, idle cost, memory."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from aiokafka import AIOKafkaConsumer

from benchmarks.cpu import Meter, memory_mb

_LIMIT_SECONDS = 300.0
#: Executors leave a partition alone that was quiet for half a minute.
_QUIET_SECONDS = 35.0


@dataclass
class Load:
    """What a stretch of load cost; microseconds per task by process, milliseconds of latency."""

    tasks: int
    seconds: float
    microseconds: dict[str, float]
    latencies: list[float] = field(default_factory=list)

    @property
    def total(self) -> float:
        return sum(self.microseconds.values())

    def percentile(self, share: float) -> float:
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1_000


class Product:
    """A running stack of the product with one model and a consumer of its events."""

    def __init__(self, addresses: dict[str, Any], key: str) -> None:
        self.addresses = addresses
        self.key = key
        self.events: dict[str, float] = {}
        self.listening: asyncio.Task[None]

    @property
    def pids(self) -> dict[str, int]:
        """Process ids by role, numbered where a role has several."""
        counted: dict[str, int] = {}
        for number, entry in enumerate(self.addresses["processes"], 1):
            role = entry["role"]
            counted[f"{role}-{number}" if role in counted else role] = entry["pid"]
        return counted

    async def listen(self) -> None:
        """Note the wall clock at which each event was consumed."""
        consumer = AIOKafkaConsumer(
            "sluiceway.task.events", bootstrap_servers=self.addresses["kafka"], fetch_max_wait_ms=20, group_id=None
        )
        await consumer.start()
        try:
            while True:
                batches = await consumer.getmany(timeout_ms=1_000)
                now = time.time()
                for records in batches.values():
                    for record in records:
                        self.events[record.key.decode()] = now
        finally:
            await consumer.stop()

    async def load(self, tasks: int, *, connections: int = 64, rate: float = 0, batch: int = 1) -> Load:
        """Create tasks from outside, wait for every event."""
        self.events.clear()
        meter, began = Meter(self.pids), time.time()
        numbers = (str(tasks), str(connections), str(rate), str(batch))
        client = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "benchmarks.client", self.addresses["api"], self.key, "bench", *numbers,
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, _ = await client.communicate()
        if client.returncode:
            raise RuntimeError("the client failed")
        created = json.loads(out)["created"]
        deadline = time.monotonic() + _LIMIT_SECONDS
        while len(self.events) < len(created):
            if time.monotonic() > deadline:
                raise RuntimeError(f"only {len(self.events)} of {len(created)} events came")
            await asyncio.sleep(0.02)
        spent = {name: seconds / tasks * 1e6 for name, seconds in meter.spent().items()}
        latencies = [self.events[task] - at for task, at in created.items()]
        return Load(tasks, max(self.events.values()) - began, spent, latencies)

    async def idle(self, seconds: float) -> dict[str, float]:
        """Percent of a core that each process uses with nothing to do and nobody listening."""
        self.listening.cancel()
        await asyncio.sleep(_QUIET_SECONDS)
        meter = Meter(self.pids)
        await asyncio.sleep(seconds)
        return {name: spent / seconds * 100 for name, spent in meter.spent().items()}

    def memory(self) -> dict[str, float]:
        """Megabytes by process."""
        return {name: memory_mb(pid) for name, pid in self.pids.items()}


@asynccontextmanager
async def product(folder: Path, model_port: int) -> AsyncIterator[Product]:
    """`sluiceway up` with one executor, a model and a listening consumer."""
    environment = {**os.environ, "SLUICEWAY_EXECUTORS": "1"}
    addresses = json.loads(await _command(environment, "up", "--detach", "--json", "--data", str(folder)))
    try:
        environment["SLUICEWAY_DATABASE_URL"] = addresses["database"]
        key = json.loads(await _command(environment, "keys", "create", "--tenant", "1", "--json"))["key"]
        running = Product(addresses, key)
        async with httpx.AsyncClient(base_url=addresses["api"]) as client:
            limits = {"max_concurrency": 1_000, "queue_limit": 10_000_000}
            body = {"name": "bench", "base_url": f"http://127.0.0.1:{model_port}", "route": "/x", **limits}
            answer = await client.post("/v1/models", json=body, headers={"Authorization": f"Bearer {key}"})
            answer.raise_for_status()
        running.listening = asyncio.create_task(running.listen())
        try:
            await asyncio.sleep(1)
            yield running
        finally:
            running.listening.cancel()
            await asyncio.gather(running.listening, return_exceptions=True)
    finally:
        await _command(environment, "down", "--data", str(folder))


async def _command(environment: dict[str, str], *arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.cli", *arguments, env=environment, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"sluiceway {' '.join(arguments)} failed")
    return out.decode()
