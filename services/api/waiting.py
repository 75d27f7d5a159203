"""Where callers wait for the end of their tasks.

One query asks for all who are due to be told, whatever their number. Who has waited for long is asked about less
often: an answer is late by a tenth of the wait, at least 20 ms and at most half a second.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias
from uuid import UUID

from libs.common.domain.errors import OutcomeUnknown, Unavailable
from libs.common.runtime.backoff import set_within
from libs.common.runtime.logging import get_logger

log = get_logger()

_FIRST_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 0.5
_SHARE: Final = 0.1
_MOST_AT_ONCE: Final = 1_000

Finals: TypeAlias = Callable[[Sequence[tuple[int, UUID]]], Awaitable[set[UUID]]]

#: Returns when the caller has left.
Leaving: TypeAlias = Callable[[], Coroutine[Any, Any, None]]


@dataclass(eq=False, slots=True)
class _Waiter:
    tenant_id: int
    public_id: UUID
    since: float
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    gone: bool = False


class WaitRoom:
    """Wakes waiters when their task has ended; `run` must be running."""

    def __init__(self, finals: Finals, clock: Callable[[], float] = time.monotonic) -> None:
        self._finals = finals
        self._clock = clock
        self._due: list[tuple[float, int, _Waiter]] = []
        self._order = itertools.count()
        self._somebody = asyncio.Event()
        self._closed = asyncio.Event()
        self.waiting = 0  #: callers, at this moment

    async def wait(self, tenant_id: int, public_id: UUID, seconds: float, leaving: Leaving) -> bool:
        """Return when the task has ended, after `seconds`, or when the room closes; whichever comes first. False when
        the caller has left before."""
        waiter = _Waiter(tenant_id, public_id, self._clock())
        self._schedule(waiter)
        self.waiting += 1
        left = asyncio.create_task(leaving(), name="waiter-leaving")
        left.add_done_callback(lambda _: waiter.ended.set())
        try:
            await set_within(waiter.ended, seconds)
        finally:
            waiter.gone = True
            self.waiting -= 1
            here = left.cancel()
        return here

    def close(self) -> None:
        """Let everybody go, at once and from now on."""
        self._closed.set()
        self._somebody.set()

    async def run(self) -> None:
        """Ask for those who are due, until closed."""
        while not self._closed.is_set():
            await self._rest()
            asked = self._take_due()
            if asked:
                await self._look(asked)
        for _, _, waiter in self._due:
            waiter.ended.set()
        self._due.clear()

    async def _rest(self) -> None:
        self._somebody.clear()
        pause = self._due[0][0] - self._clock() if self._due else None
        if not self._closed.is_set() and (pause is None or pause > 0):
            await set_within(self._somebody, pause)

    def _take_due(self) -> list[_Waiter]:
        # Who is due within the next few milliseconds comes along: one query instead of two.
        horizon = self._clock() + _FIRST_PAUSE / 4
        asked: list[_Waiter] = []
        while self._due and self._due[0][0] <= horizon and len(asked) < _MOST_AT_ONCE:
            waiter = heapq.heappop(self._due)[2]
            if not waiter.gone:
                asked.append(waiter)
        return asked

    async def _look(self, asked: Sequence[_Waiter]) -> None:
        try:
            ended = await self._finals([(waiter.tenant_id, waiter.public_id) for waiter in asked])
        except (Unavailable, OutcomeUnknown):
            ended = set()  # away: they wait on, each to its own end
        except Exception as error:  # the loop's end would be the process's
            log.error("waiting.failed", error=type(error).__name__, message=str(error)[:500])
            ended = set()
        for waiter in asked:
            if waiter.public_id in ended:
                waiter.ended.set()
            else:
                self._schedule(waiter)

    def _schedule(self, waiter: _Waiter) -> None:
        if self._closed.is_set():
            waiter.ended.set()
            return
        now = self._clock()
        pause = min(max(_FIRST_PAUSE, _SHARE * (now - waiter.since)), _LONGEST_PAUSE)
        due = now + pause
        earlier = not self._due or due < self._due[0][0]
        heapq.heappush(self._due, (due, next(self._order), waiter))
        if earlier:
            self._somebody.set()
