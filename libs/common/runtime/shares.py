"""What there is only so much of, shared by tenants."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextvars import ContextVar
from typing import Final

#: For which tenant this task works.
on_behalf_of: Final[ContextVar[int]] = ContextVar("on_behalf_of", default=0)


class Shares:
    """So many at once. A tenant may have at most as many as are free: alone half, and who comes next finds room."""

    def __init__(self, total: int) -> None:
        self._free = total
        self._had: Counter[int] = Counter()
        #: By tenant, whose turn is next first; of each, who came first first.
        self._waiting: dict[int, dict[asyncio.Future[None], None]] = {}

    async def take(self, tenant: int) -> None:
        """Wait for one."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(tenant, {})[turn] = None
        self._let_in()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._forget(tenant, turn)
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
        """Costs by tenants that wait, however much each of them waits for."""
        while (tenant := next((one for one in self._waiting if self._had[one] < self._free), None)) is not None:
            turn = next(iter(self._waiting[tenant]))
            self._forget(tenant, turn)
            if tenant in self._waiting:
                self._waiting[tenant] = self._waiting.pop(tenant)  # behind the others
            if not turn.done():
                self._free -= 1
                self._had[tenant] += 1
                turn.set_result(None)

    def _forget(self, tenant: int, turn: asyncio.Future[None]) -> None:
        turns = self._waiting.get(tenant, {})
        turns.pop(turn, None)
        if not turns:
            self._waiting.pop(tenant, None)
