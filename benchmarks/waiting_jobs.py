"""`python -m benchmarks.waiting_jobs`: what thousands of jobs that wait for their provider cost one executor."""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from benchmarks.cpu import Meter, memory_mb, most_memory_mb
from benchmarks.product import Product, product
from libs.common.embedded.ports import accepts, free_port

_LIMIT_SECONDS = 300.0
_BATCH = 500
_say = Console(stderr=True).print


async def main() -> None:
    """Measure each pace of polling with a provider and a stack of its own."""
    arguments = _arguments()
    figures: dict[int, dict[str, Any]] = {}
    for pace in arguments.poll_seconds:
        folder = Path(tempfile.mkdtemp(prefix="sluiceway-bench-", dir="/var/tmp"))
        folder.chmod(0o711)
        try:
            async with _provider(arguments.output) as port, product(folder / "product", port) as running:
                figures[pace] = await _measure(running, port, pace, arguments)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    _report(figures, arguments)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.waiting_jobs", description=__doc__)
    parser.add_argument("--jobs", type=int, default=5_000, help="jobs that wait at the same time")
    parser.add_argument("--seconds", type=int, default=30, help="how long they are looked at")
    parser.add_argument("--payload", type=int, default=1_000, help="bytes of each task's payload")
    parser.add_argument("--output", type=int, default=4, help="bytes of each job's output, which its answer has inside")
    parser.add_argument("--poll-seconds", type=int, nargs="+", default=[3, 10, 30], help="paces of polling")
    return parser.parse_args()


async def _measure(running: Product, port: int, pace: int, arguments: argparse.Namespace) -> dict[str, Any]:
    executor = running.pids["executor"]
    headers = {"Authorization": f"Bearer {running.key}"}
    async with (
        httpx.AsyncClient(base_url=running.addresses["api"], headers=headers, timeout=60) as api,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as provider,
    ):
        await _make_model(api, port, pace, arguments.jobs)
        before = memory_mb(executor)
        _say(f"polling every {pace} s: {arguments.jobs} jobs are submitted")
        began = time.monotonic()
        await _submit(api, arguments)
        await _until(provider, arguments.jobs)
        submitted = time.monotonic() - began
        await asyncio.sleep(pace)
        meter, looks = Meter(running.pids), (await provider.get("/counts")).json()["looks"]
        await asyncio.sleep(arguments.seconds)
        spent, looked = meter.spent(), (await provider.get("/counts")).json()["looks"] - looks
        memory = memory_mb(executor)
        _say("they end")
        began = time.monotonic()
        await provider.get("/done")
        await _until_ended(running, arguments.jobs)
        ended_in = time.monotonic() - began
        return {
            "submitted_in": submitted,
            "looks_per_second": looked / arguments.seconds,
            "cpu": {name: seconds / arguments.seconds * 100 for name, seconds in spent.items()},
            "us_per_look": spent["executor"] / max(looked, 1) * 1e6,
            "memory_before": before,
            "memory": memory,
            "memory_at_the_end": most_memory_mb(executor),
            "ended_in": ended_in,
            "submits": (await provider.get("/counts")).json()["submits"],
        }


async def _make_model(api: httpx.AsyncClient, port: int, pace: int, jobs: int) -> None:
    body = {
        "name": "jobs",
        "base_url": f"http://127.0.0.1:{port}",
        "route": "v1/predictions",
        "adapter": "replicate",
        "poll_seconds": pace,
        "max_concurrency": jobs,
        "queue_limit": 2 * jobs,
    }
    (await api.post("/v1/models", json=body)).raise_for_status()


async def _submit(api: httpx.AsyncClient, arguments: argparse.Namespace) -> None:
    task = {"model": "jobs", "payload": {"text": "x" * arguments.payload}}
    for start in range(0, arguments.jobs, _BATCH):
        count = min(_BATCH, arguments.jobs - start)
        (await api.post("/v1/tasks/batch", json={"tasks": [task] * count})).raise_for_status()


async def _until(provider: httpx.AsyncClient, submits: int) -> None:
    deadline = time.monotonic() + _LIMIT_SECONDS
    while (await provider.get("/counts")).json()["submits"] < submits:
        if time.monotonic() > deadline:
            raise RuntimeError("not all jobs were submitted")
        await asyncio.sleep(0.2)


async def _until_ended(running: Product, tasks: int) -> None:
    deadline = time.monotonic() + _LIMIT_SECONDS
    while len(running.events) < tasks:
        if time.monotonic() > deadline:
            raise RuntimeError(f"only {len(running.events)} of {tasks} tasks ended")
        await asyncio.sleep(0.2)


@asynccontextmanager
async def _provider(output_bytes: int) -> AsyncIterator[int]:
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.mock_provider", str(port), str(output_bytes)
    )
    try:
        while not await accepts(port):
            await asyncio.sleep(0.05)
        yield port
    finally:
        process.terminate()
        await process.wait()


def _report(figures: dict[int, dict[str, Any]], arguments: argparse.Namespace) -> None:
    table = Table(title=f"{arguments.jobs} jobs waiting on one executor")
    for name in (
        "poll every",
        "looks/s",
        "executor CPU",
        "us/look",
        "PostgreSQL CPU",
        "memory",
        "of it jobs",
        "at most",
        "ended in",
    ):
        table.add_column(name)
    for pace, found in figures.items():
        table.add_row(
            f"{pace} s",
            f"{found['looks_per_second']:.0f}",
            f"{found['cpu']['executor']:.0f} %",
            f"{found['us_per_look']:.0f}",
            f"{found['cpu']['postgres']:.0f} %",
            f"{found['memory']:.0f} MB",
            f"{(found['memory'] - found['memory_before']) * 1024 / arguments.jobs:.1f} KB each",
            f"{found['memory_at_the_end']:.0f} MB",
            f"{found['ended_in']:.1f} s",
        )
    _say(table)
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    asyncio.run(main())
