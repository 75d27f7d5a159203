"""Waits that are nobody's delay but ours."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable


async def off_the_clock(limit: asyncio.Timeout, waited: Awaitable[None]) -> None:
    """Wait for something without using up the time of `limit`, inside of which we are."""
    loop, until = asyncio.get_running_loop(), limit.when()
    left = None if until is None else until - loop.time()
    limit.reschedule(None)
    try:
        await waited
    finally:
        if left is not None:
            limit.reschedule(loop.time() + left)
