"""Tasks whose rows somebody's transaction keeps locked: they wait until they are free, in nobody's way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

from libs.common.domain.errors import OutcomeUnknown, RowsLocked, Unavailable
from libs.common.ports_attempts import Attempt, Attempts
from libs.common.runtime.coalescer import Coalescer, CoalescerClosed
from libs.common.runtime.logging import get_logger

log = get_logger()

_RETRY_SECONDS: Final = (0.05, 0.2, 0.5, 1.0)
_WARN_SECONDS: Final = 10.0

Answer = TypeVar("Answer")


async def until_answered(ask: Callable[[], Awaitable[Answer]]) -> Answer:
    """Ask PostgreSQL until it answers, and there is memory to ask. Raises CoalescerClosed, and what is no outage."""
    tries = 0
    while True:
        try:
            return await ask()
        except CoalescerClosed:
            raise
        except (OutcomeUnknown, Unavailable, MemoryError):
            await asyncio.sleep(_RETRY_SECONDS[min(tries, len(_RETRY_SECONDS) - 1)])
            tries += 1


class LockedRows:
    """Who of the attempts of this process cannot be written now."""

    def __init__(self, attempts: Attempts) -> None:
        self._attempts = attempts
        self._looks = Coalescer[Attempt, bool](self.among)
        self._warn_at = 0.0  #: the monotonic second from which on a locked task is told of: a locked table locks all

    async def among(self, items: Sequence[Any]) -> list[bool]:
        """Of each of these attempts, or tuples of one and what is written of it, whether its rows are locked."""
        ids = [(item if isinstance(item, Attempt) else item[0]).id for item in items]
        locked = await self._attempts.locked(ids)
        return [id_ in locked for id_ in ids]

    async def until_answered(self, ask: Callable[[], Awaitable[Answer]], attempt: Attempt) -> Answer:
        """The same for what is written of one attempt, which is not tried while its rows are locked: each try would
        hold up a batch of others.
        """

        async def when_free() -> Answer:
            try:
                return await ask()
            except RowsLocked:
                await self._until_free(attempt)
                raise

        return await until_answered(when_free)

    async def close(self, timeout: float) -> None:
        """Look no more."""
        await self._looks.close(timeout)

    async def _until_free(self, attempt: Attempt) -> None:
        now = time.monotonic()
        if now >= self._warn_at:
            self._warn_at = now + _WARN_SECONDS
            advice = "`sluiceway doctor` finds old transactions"
            log.warning("task.locked", task_id=str(attempt.public_id), advice=advice)
        while True:
            await asyncio.sleep(_RETRY_SECONDS[-1])
            if not await self._looks.submit(attempt):
                return
