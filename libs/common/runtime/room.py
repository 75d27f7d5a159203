"""Memory that a process spends on one kind of thing, shared by tenants."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class _Waiting:
    tenant: int
    size: int
    turn: asyncio.Future[None]


class Room:
    """So many bytes; those who wait are let in in their order, but for tenants that have their part."""

    def __init__(self, *, everything: int, of_a_tenant: int) -> None:
        self._free = everything
        self._of_a_tenant = of_a_tenant
        self._taken: Counter[int] = Counter()
        self._waiting: deque[_Waiting] = deque()

    async def take(self, tenant: int, size: int, about_to_wait: Callable[[], None] | None = None) -> int:
        """Wait for so much room, or as much as anybody gets; how much that is."""
        size = min(size, self._of_a_tenant)
        waiting = _Waiting(tenant, size, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._let_in()
        if about_to_wait is not None and not waiting.turn.done():
            about_to_wait()
        try:
            await waiting.turn
        except asyncio.CancelledError:
            if waiting.turn.cancelled():
                self._waiting.remove(waiting)
                self._let_in()  # it may have stood before others that fit
            else:
                self.give_back(tenant, size)
            raise
        return size

    def give_back(self, tenant: int, size: int) -> None:
        """Others may have it."""
        self._free += size
        self._taken[tenant] -= size
        if not self._taken[tenant]:
            del self._taken[tenant]
        self._let_in()

    def _let_in(self) -> None:
        for waiting in list(self._waiting):
            if waiting.turn.done() or self._taken[waiting.tenant] + waiting.size > self._of_a_tenant:
                continue  # done: cancelled a moment ago, and about to leave
            if waiting.size > self._free:
                return  # nothing smaller overtakes it: it would wait for ever
            self._free -= waiting.size
            self._taken[waiting.tenant] += waiting.size
            self._waiting.remove(waiting)
            waiting.turn.set_result(None)
