"""`python -m benchmarks.replay`: what a replay of very many dead tasks costs, and what fresh tasks feel of it."""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import asyncpg
import httpx
from rich.console import Console
from rich.table import Table

from benchmarks.cpu import Meter
from benchmarks.mock_model import running_model
from benchmarks.product import Product, product
from libs.common.embedded.ports import free_port

_LIMIT_SECONDS = 900.0
#: Fresh tasks, a second, before and beside the replay.
_FRESH_RATE = 20
_say = Console(stderr=True).print


async def main() -> None:
    """One replay for each limit of the model's queue, each on a stack of its own."""
    arguments = _arguments()
    figures = {}
    for queue in arguments.queue_limits:
        folder = Path(tempfile.mkdtemp(prefix="sluiceway-bench-", dir="/var/tmp"))
        folder.chmod(0o711)
        try:
            async with running_model() as port, product(folder / "product", port) as running:
                figures[queue] = await _measure(running, port, queue, arguments)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    _report(figures, arguments)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.replay", description=__doc__)
    parser.add_argument("--dead", type=int, default=50_000, help="dead tasks")
    parser.add_argument("--rate", type=float, default=2_000, help="the job's rate a second")
    parser.add_argument("--queue-limits", type=int, nargs="+", default=[1_000, 100_000], help="limits of the queue")
    return parser.parse_args()


async def _measure(running: Product, port: int, queue: int, arguments: argparse.Namespace) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {running.key}"}
    async with httpx.AsyncClient(base_url=running.addresses["api"], headers=headers, timeout=120) as api:
        await _die(running, api, arguments.dead)
        changes = {"base_url": f"http://127.0.0.1:{port}", "queue_limit": queue}
        (await api.patch("/v1/models/dead", json=changes)).raise_for_status()
        _say("fresh tasks alone")
        alone = await _fresh(running, 20)
        _say(f"the replay, with a queue of {queue}")
        store = await asyncpg.connect(running.addresses["database"])
        last = await store.fetchval("SELECT max(id) FROM task")
        meter, began = Meter(running.pids), time.monotonic()
        body = {"reason": "benchmark", "limit": arguments.dead, "rate": arguments.rate}
        answer = await api.post("/v1/replays", json=body)
        answer.raise_for_status()
        written = time.monotonic() - began
        ending = asyncio.create_task(_ended(store, last))
        beside: dict[str, list[float]] = {name: [] for name in alone}
        while not ending.done():
            for name, latencies in (await _fresh(running, 5)).items():
                beside[name] += latencies
        spent = meter.spent()
        moved, ended = await ending
        await store.close()
        times = {"written": written, "moved": moved - began, "ended": ended - began}
        return {**times, "cpu": spent, "alone": alone, "beside": beside}


async def _ended(store: Any, last: int) -> tuple[float, float]:
    """When the last of them was in the queue again, and when the last had ended."""
    moved, deadline = 0.0, time.monotonic() + _LIMIT_SECONDS
    while time.monotonic() < deadline:
        if not moved and not await store.fetchval("SELECT 1 FROM replay_job WHERE state = 'running'"):
            moved = time.monotonic()
        if moved and not await store.fetchval("SELECT 1 FROM dispatch WHERE id <= $1 LIMIT 1", last):
            return moved, time.monotonic()
        await asyncio.sleep(0.2)
    raise RuntimeError("they do not end")


async def _die(running: Product, api: httpx.AsyncClient, count: int) -> None:
    """So many tasks of a model that nobody serves."""
    limits = {"max_concurrency": 1_000, "queue_limit": 10_000_000, "retry_times": 0}
    body = {"name": "dead", "base_url": f"http://127.0.0.1:{free_port()}", "route": "/x", **limits}
    (await api.post("/v1/models", json=body)).raise_for_status()
    _say(f"{count} tasks die")
    await _create(running, "dead", count, 4, 0, 100)
    deadline = time.monotonic() + _LIMIT_SECONDS
    while (await api.get("/v1/dead/groups", params={"kind": "task"})).json()["counted"] < min(count, 50_000):
        if time.monotonic() > deadline:
            raise RuntimeError("they do not die")
        await asyncio.sleep(1)
    await asyncio.sleep(5)  # their events leave


async def _fresh(running: Product, seconds: int) -> dict[str, list[float]]:
    """Milliseconds from create to event, of tasks of the model that is replayed and of another one."""
    running.events.clear()
    names = ("dead", "bench")
    made = await asyncio.gather(*(_create(running, name, _FRESH_RATE * seconds, 8, _FRESH_RATE, 1) for name in names))
    deadline = time.monotonic() + _LIMIT_SECONDS
    while missing := set().union(*made) - running.events.keys():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{len(missing)} events are missing")
        await asyncio.sleep(0.02)
    found = zip(names, made, strict=True)
    return {name: [(running.events[task] - at) * 1_000 for task, at in created.items()] for name, created in found}


async def _create(
    running: Product, name: str, count: int, connections: int, rate: float, batch: int
) -> dict[str, float]:
    numbers = (str(count), str(connections), str(rate), str(batch))
    client = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.client", running.addresses["api"], running.key, name, *numbers,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await client.communicate()
    if client.returncode:
        raise RuntimeError("the client failed")
    created: dict[str, float] = json.loads(out)["created"]
    return created


def _report(figures: dict[int, dict[str, Any]], arguments: argparse.Namespace) -> None:
    console = Console()
    console.print(f"{arguments.dead} dead tasks, {arguments.rate:g} a second at most")
    table = Table("queue", "job written s", "all in the queue s", "all ended s", title="the replay")
    for queue, found in figures.items():
        table.add_row(str(queue), *(f"{found[name]:.1f}" for name in ("written", "moved", "ended")))
    console.print(table)
    table = Table("queue", "of model", "alone p50 ms", "beside p50 ms", "beside p99 ms", title="fresh tasks")
    for queue, found in figures.items():
        for name, beside in found["beside"].items():
            shares = (_share(found["alone"][name], 0.5), _share(beside, 0.5), _share(beside, 0.99))
            table.add_row(str(queue), name, *(f"{share:.0f}" for share in shares))
    console.print(table)
    table = Table("queue", *next(iter(figures.values()))["cpu"], title="CPU seconds, fresh tasks included")
    for queue, found in figures.items():
        table.add_row(str(queue), *(f"{seconds:.1f}" for seconds in found["cpu"].values()))
    console.print(table)


def _share(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


if __name__ == "__main__":
    asyncio.run(main())
