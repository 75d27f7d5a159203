"""Tasks whose rows somebody's transaction keeps locked: they wait until they are free, in nobody's way."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias, TypeVar

from libs.common.domain.errors import OutcomeUnknown, RowsLocked, Unavailable
from libs.common.domain.settle import Finish
from libs.common.domain.task import TaskStatus
from libs.common.ports_attempts import Attempt, Attempts
from libs.common.ports_provider_jobs import JobIntent
from libs.common.runtime.coalescer import Coalescer, CoalescerClosed
from libs.common.runtime.logging import get_logger

log = get_logger()

_RETRY_SECONDS: Final = (0.05, 0.2, 0.5, 1.0)
_WARN_SECONDS: Final = 10.0

Answer = TypeVar("Answer")
#: An attempt, or one with what is written of it.
Entry: TypeAlias = Attempt | tuple[Attempt, object] | tuple[Attempt, object, object]


def nothing() -> None:
    """Whoever is told of it does nothing about it."""


async def until_answered(ask: Callable[[], Awaitable[Answer]]) -> Answer:
    """Ask PostgreSQL until it answers, and there is memory to ask. Raises CoalescerClosed, and what is no outage."""
    tries = 0
    while True:
        try:
            return await ask()
        except CoalescerClosed:
            raise
        except (OutcomeUnknown, Unavailable, MemoryError):
            await asyncio.sleep(_pause(tries))
            tries += 1


class LockedRows:
    """Who of the attempts of this process cannot be written now."""

    def __init__(self, attempts: Attempts) -> None:
        self._attempts = attempts
        self._looks = Coalescer[Entry, bool](self.among)
        self._warn_at = 0.0  #: the monotonic second from which on a locked task is told of: a locked table locks all

    async def among(self, items: Sequence[Entry]) -> list[bool]:
        """Of each of these items whether its rows are locked."""
        ids = [_attempt(item).id for item in items]
        locked = await self._attempts.locked(
            ids,
            giving_back=[id_ for id_, item in zip(ids, items, strict=True) if _gives_back(_written(item))],
            beginning=[id_ for id_, item in zip(ids, items, strict=True) if isinstance(_written(item), JobIntent)],
        )
        return [id_ in locked for id_ in ids]

    async def until_answered(
        self, ask: Callable[[], Awaitable[Answer]], item: Entry, *, stuck: Callable[[], None] = nothing
    ) -> Answer:
        """The same for one item, which is not tried while its rows are locked: each try would hold up others. `stuck`
        is told when they are.
        """

        async def when_free() -> Answer:
            try:
                return await ask()
            except RowsLocked:
                stuck()
                await self._until_free(item)
                raise

        return await until_answered(when_free)

    async def close(self, timeout: float) -> None:
        """Look no more."""
        await self._looks.close(timeout)

    async def _until_free(self, item: Entry) -> None:
        now = time.monotonic()
        if now >= self._warn_at:
            self._warn_at = now + _WARN_SECONDS
            advice = "`sluiceway doctor` finds old transactions"
            log.warning("task.locked", task_id=str(_attempt(item).public_id), advice=advice)
        for looks in itertools.count():
            await asyncio.sleep(_pause(looks))  # a neighbour's write, which looks the same, is over in milliseconds
            if not await self._looks.submit(item):
                return


def _pause(times: int) -> float:
    """The next one, after so many of them."""
    return _RETRY_SECONDS[min(times, len(_RETRY_SECONDS) - 1)]


def _attempt(item: Entry) -> Attempt:
    return item if isinstance(item, Attempt) else item[0]


def _written(item: Entry) -> object:
    return None if isinstance(item, Attempt) else item[1]


def _gives_back(written: object) -> bool:
    """Whether points of the task go back: it ends, and with no success."""
    return isinstance(written, Finish) and written.status is not TaskStatus.SUCCESS
