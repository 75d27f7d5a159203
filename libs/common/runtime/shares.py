"""What there is only so much of, shared by tenants."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from contextvars import ContextVar
from typing import Final

#: For which tenant this task works.
on_behalf_of: Final[ContextVar[int]] = ContextVar("on_behalf_of", default=0)


class Shares:
    """So many at once. A tenant may have at most as many as are free: alone half, and who comes next finds room."""

    def __init__(self, total: int) -> None:
        self._free = total
        self._had: Counter[int] = Counter()
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, tenant: int) -> None:
        """Wait for one."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((tenant, turn))
        self._let_in()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._waiting.remove((tenant, turn))
            else:
                self.give_back(tenant)
            raise

    def give_back(self, tenant: int) -> None:
        """Others may have it."""
        self._free += 1
        self._had[tenant] -= 1
        if not self._had[tenant]:
            del self._had[tenant]
        self._let_in()

    def _let_in(self) -> None:
        for waiting in list(self._waiting):
            if not self._free:
                return
            tenant, turn = waiting
            if self._had[tenant] < self._free and not turn.done():
                self._free -= 1
                self._had[tenant] += 1
                self._waiting.remove(waiting)
                turn.set_result(None)
