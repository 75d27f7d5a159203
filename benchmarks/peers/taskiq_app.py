"""TaskIQ on Redis streams (acknowledged), with aiohttp for the call."""

from __future__ import annotations

import asyncio
import os
import sys

import aiohttp
import redis.asyncio
from taskiq import TaskiqEvents, TaskiqState
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

from benchmarks.peers.http_call import KEEPS, PAYLOAD

broker = RedisStreamBroker(url=os.environ["BENCH_REDIS_URL"])
if KEEPS:
    broker = broker.with_result_backend(RedisAsyncResultBackend(os.environ["BENCH_REDIS_URL"]))
_state: dict[str, object] = {}


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
async def open_session(_: TaskiqState) -> None:
    """One session for the process."""
    _state["session"] = aiohttp.ClientSession()
    _state["done"] = redis.asyncio.Redis.from_url(os.environ["BENCH_REDIS_URL"])


@broker.task(task_name="bench.call")
async def work(payload: str) -> str:
    """Call the model, and count it in Redis as the run's own measure of progress."""
    session, done = _state["session"], _state["done"]
    assert isinstance(session, aiohttp.ClientSession)
    assert isinstance(done, redis.asyncio.Redis)
    async with session.post(f"http://127.0.0.1:{os.environ['BENCH_MODEL_PORT']}/x", data=payload) as answer:
        content = await answer.read()
    await done.incr("bench:done")
    return content.decode("latin-1")


async def enqueue(count: int) -> None:
    """Hand in `count` tasks."""
    await broker.startup()
    for _ in range(count):
        await work.kiq(PAYLOAD.decode())
    await broker.shutdown()


if __name__ == "__main__":
    asyncio.run(enqueue(int(sys.argv[1])))
