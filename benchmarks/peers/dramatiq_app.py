"""Dramatiq on Redis."""

from __future__ import annotations

import os
import sys

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker

from benchmarks.peers.http_call import PAYLOAD, call

dramatiq.set_broker(RedisBroker(url=os.environ["BENCH_REDIS_URL"]))  # type: ignore[no-untyped-call]
_done = redis.Redis.from_url(os.environ["BENCH_REDIS_URL"])


@dramatiq.actor(max_retries=3)
def work(payload: str) -> None:
    """Call the model, and count it in Redis as the run's own measure of progress."""
    call()
    _done.incr("bench:done")


if __name__ == "__main__":
    for _ in range(int(sys.argv[1])):
        work.send(PAYLOAD.decode())
