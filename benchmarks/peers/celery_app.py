"""Celery on Redis; late acknowledgement, as an accepted task must not be lost with its worker."""

from __future__ import annotations

import os
import sys

from celery import Celery

from benchmarks.peers.http_call import KEEPS, PAYLOAD, call

_redis = os.environ["BENCH_REDIS_URL"]
app = Celery("bench", broker=_redis, backend=_redis if KEEPS else None)
app.conf.update(
    task_acks_late=True, worker_prefetch_multiplier=16, task_ignore_result=not KEEPS, worker_hijack_root_logger=False
)
_done = None


@app.task(name="bench.call")
def work(payload: str) -> str:
    """Call the model, and count it in Redis as the run's own measure of progress."""
    global _done
    answer = call()
    if _done is None:
        import redis

        _done = redis.Redis.from_url(_redis)
    _done.incr("bench:done")
    return answer


if __name__ == "__main__":
    for _ in range(int(sys.argv[1])):
        work.delay(PAYLOAD.decode())
