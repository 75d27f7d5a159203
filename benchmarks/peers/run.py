"""Runs a peer: its worker, then the tasks; measures until all calls were made."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass

import redis

from benchmarks.cpu import Meter

_WORKERS = {
    "celery": ("celery", "-A", "benchmarks.peers.celery_app", "worker", "-c", "2", "--loglevel", "ERROR",
               "--without-gossip", "--without-mingle", "--without-heartbeat"),
    "dramatiq": ("dramatiq", "benchmarks.peers.dramatiq_app", "--processes", "2", "--threads", "8"),
    "taskiq": ("taskiq", "worker", "benchmarks.peers.taskiq_app:broker", "--workers", "1", "--max-async-tasks", "64",
               "--log-level", "ERROR"),
}  # fmt: skip
_LIMIT_SECONDS = 180.0


@dataclass
class PeerFigures:
    """Microseconds of CPU per task (worker, enqueuing process and Redis), and tasks a second."""

    name: str
    microseconds: float
    per_second: float


async def run_peer(
    name: str, tasks: int, redis_url: str, redis_pid: int, model_port: int, *, keeps: bool
) -> PeerFigures:
    """Measure one peer with `tasks` tasks, whose answers it keeps in Redis or throws away."""
    environment = {**os.environ, "BENCH_REDIS_URL": redis_url, "BENCH_MODEL_PORT": str(model_port)}
    if keeps:
        environment["BENCH_KEEPS"] = "1"
    store = redis.Redis.from_url(redis_url)
    store.flushdb()
    worker = subprocess.Popen([sys.executable, "-m", *_WORKERS[name]], env=environment, stderr=subprocess.DEVNULL)
    try:
        await _enqueue(name, 50, environment)
        await _until(store, 50)
        store.delete("bench:done")
        meter = Meter({"worker": worker.pid, "redis": redis_pid})
        enqueued = _children_seconds()
        began = time.monotonic()
        await _enqueue(name, tasks, environment)
        await _until(store, tasks)
        seconds = time.monotonic() - began
        spent = sum(meter.spent().values()) + _children_seconds() - enqueued
        return PeerFigures(f"{name}, answers kept" if keeps else name, spent / tasks * 1e6, tasks / seconds)
    finally:
        worker.terminate()
        worker.wait(20)
        store.close()


def _children_seconds() -> float:
    """CPU time of ended children: the process that hands tasks in."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


async def _enqueue(name: str, tasks: int, environment: dict[str, str]) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", f"benchmarks.peers.{name}_app", str(tasks), env=environment
    )
    if await process.wait():
        raise RuntimeError(f"{name}: handing in tasks failed")


async def _until(store: redis.Redis, tasks: int) -> None:
    deadline = time.monotonic() + _LIMIT_SECONDS
    while int(store.get("bench:done") or 0) < tasks:
        if time.monotonic() > deadline:
            raise RuntimeError(f"only {store.get('bench:done')!r} of {tasks} tasks ended")
        await asyncio.sleep(0.1)
