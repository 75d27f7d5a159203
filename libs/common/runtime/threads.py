"""Threads that are there before they are needed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier


def open_pool(threads: int, name: str) -> ThreadPoolExecutor:
    """All of them run from the beginning: where no more can be had (containers have a limit), a process does not start,
    instead of failing the work that it has in hand. Raises RuntimeError."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
    together = Barrier(threads)
    try:
        for _ in range(threads):
            pool.submit(together.wait)
    except RuntimeError:
        together.abort()
        pool.shutdown(wait=False)
        raise
    return pool
