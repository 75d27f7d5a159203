"""Waiting for a condition inside an event loop, with a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def until(condition: Callable[[], object], *, seconds: float = 5) -> None:
    """Let the loop turn until the condition holds. Raises TimeoutError when the time is up first."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.001)
