"""How long an event loop stood still, told by what it computed: a busy machine makes no turn slow."""

from __future__ import annotations

import asyncio
import time
from typing import Any


async def slowest_turn(work: asyncio.Future[Any]) -> float:
    """The most processor seconds that this process spent between two turns of the loop until `work` was done.

    Time on the clock would count whoever else computes on the machine. The threads of the process are counted: one that
    keeps the interpreter holds up the loop as well.
    """
    slowest = 0.0
    while not work.done():
        before = time.process_time()
        await asyncio.sleep(0.001)
        slowest = max(slowest, time.process_time() - before)
    return slowest
