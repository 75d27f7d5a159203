"""How long to wait before the next try, and waiting it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from random import Random
from typing import Final

from libs.common.domain.settle import backoff_seconds

#: Jitter only ever adds (reliability: a stated delay is never cut short, and retries must not come back as a wall).
_JITTER: Final = 0.25


def delay_after(failures: int, rng: Random) -> timedelta:
    """The pause after the n-th failure in a row (n from 1): 1, 2, 4, 8, 16, 32, 32 ... s, and up to a quarter more."""
    return timedelta(seconds=backoff_seconds(failures) * (1 + _JITTER * rng.random()))


def reconnect_delays(rng: Random | None = None, *, first: float = 0.1, cap: float = 5.0) -> Iterator[float]:
    """Seconds to wait between tries to reach a server: doubling from `first` to `cap`, for ever, jitter added.

    Begin a new one after each success.
    """
    rng = rng or Random()  # noqa: S311  no secret depends on it
    delay = first
    while True:
        yield delay * (1 + _JITTER * rng.random())
        delay = min(delay * 2, cap)


async def pause(seconds: float, stopped: asyncio.Event) -> None:
    """Sleep; a stop cuts it short."""
    if seconds > 0 and not stopped.is_set():
        await set_within(stopped, seconds)


async def set_within(event: asyncio.Event, seconds: float | None) -> bool:
    """Wait until the event is set, for so many seconds at most (None: as long as it takes); False if it is not."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
