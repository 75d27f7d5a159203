"""A look that many want at once is taken once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

Seen = TypeVar("Seen")

FRESH_SECONDS: Final = 1.0
#: Looking takes at most this share of the time, however many ask, as long as it takes less than a second: what one slow
#: answer showed, say in an outage, must not be shown for minutes.
_SHARE: Final = 20
_STALE_SECONDS: Final = 15.0


class Shared(Generic[Seen]):
    """The result of `look`, at most a second old, or older where looking takes long. Who asks meanwhile shares one."""

    def __init__(self, look: Callable[[], Awaitable[Seen]], clock: Callable[[], float] = time.monotonic) -> None:
        self._look = look
        self._clock = clock
        self._until = float("-inf")
        self._seen: asyncio.Task[Seen] | None = None

    async def get(self) -> Seen:
        """What was seen last, or is seen now. Raises what the look raises."""
        if self._seen is None or (self._seen.done() and self._clock() >= self._until):
            self._seen = asyncio.create_task(self._take(), name="look")
        return await asyncio.shield(self._seen)

    async def _take(self) -> Seen:
        began = self._clock()
        try:
            seen = await self._look()
        except BaseException:
            self._until = float("-inf")
            raise
        ended = self._clock()
        self._until = ended + min(max(FRESH_SECONDS, _SHARE * (ended - began)), _STALE_SECONDS)
        return seen
