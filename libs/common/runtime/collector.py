"""The garbage collector: seldom by number, and soon by weight."""

from __future__ import annotations

import asyncio
import gc
from contextlib import suppress
from typing import Final

import psutil

_EVERY: Final = 100_000
_OLDER: Final = (10, 10)
_WATCH_SECONDS: Final = 1.0
_HEAVY_BYTES: Final = 64 * 2**20


def relieve() -> None:
    """What was made until now stays for the process's life: the collector need not walk it again and again. What work
    leaves behind is freed by reference counts: loads of some thousand tasks left seven objects in cycles.
    To find nothing among what was in flight cost 1.3 of its 20 s of CPU with 10,000.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_EVERY, *_OLDER)


async def watch() -> None:
    """Collect whenever the process has grown by 64 MiB: the collector counts objects, and a cycle of fifty, as errors
    leave them in libraries, may hold a body of megabytes. Ends when it is cancelled.
    """
    process = psutil.Process()
    least = process.memory_info().rss
    while True:
        await asyncio.sleep(_WATCH_SECONDS)
        with suppress(OSError):  # no more files can be opened just now
            now = process.memory_info().rss
            if now > least + _HEAVY_BYTES:
                gc.collect()
                least = process.memory_info().rss
            least = min(least, now)
