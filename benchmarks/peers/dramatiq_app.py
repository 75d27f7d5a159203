"""Dramatiq on Redis."""

from __future__ import annotations

import os
import sys

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from benchmarks.peers.http_call import KEEPS, PAYLOAD, call

_redis = os.environ["BENCH_REDIS_URL"]
_broker = RedisBroker(url=_redis)  # type: ignore[no-untyped-call]
if KEEPS:
    _broker.add_middleware(Results(backend=RedisBackend(url=_redis), store_results=True))  # type: ignore[no-untyped-call]
dramatiq.set_broker(_broker)
_done = redis.Redis.from_url(_redis)


@dramatiq.actor(max_retries=3)
def work(payload: str) -> str | None:
    """Call the model, and count it in Redis as the run's own measure of progress."""
    answer = call()
    _done.incr("bench:done")
    return answer if KEEPS else None


if __name__ == "__main__":
    for _ in range(int(sys.argv[1])):
        work.send(PAYLOAD.decode())
