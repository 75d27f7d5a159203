"""How many calls this process can carry, whose they are, and who may have one more."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from typing import Final

#: A tenant may have so many slots for each free one. Alone it leaves a twentieth free, and with it another tenant.
_FOR_EACH_FREE_ONE: Final = 19
#: Twice what a tenant alone leaves free is room enough to read for; with less, an executor would come and go with every
#: call.
_ENOUGH_SHARE: Final = 0.1


class Slots:
    """A slot is taken before a start is asked for, and goes back when the attempt ends or was not ours.

    However much one tenant has to run, the next one that comes finds a slot; the fewer are free, the fewer a tenant may
    have. Executors of fewer than twenty slots keep none: there a tenant alone may use them all.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.used = 0
        self.enough = max(1, int(total * _ENOUGH_SHARE))  #: so many free ones are worth reading for
        self._used_by: Counter[int] = Counter()
        self._returning: dict[int, deque[asyncio.Future[None]]] = {}  #: by tenant

    @property
    def free(self) -> int:
        return self.total - self.used

    @property
    def scarce(self) -> bool:
        """Whether there are hardly more than what is kept for who comes next."""
        return self.free < self.enough

    def open_to(self, tenant: int) -> bool:
        """Whether a tenant may have one more."""
        return self._used_by[tenant] < self.free * _FOR_EACH_FREE_ONE

    def take(self, tenant: int) -> bool:
        """Take one for a tenant, if it may have it."""
        if not self.open_to(tenant):
            return False
        self.used += 1
        self._used_by[tenant] += 1
        return True

    def give_back(self, tenant: int) -> None:
        """Give back one that was taken for this tenant."""
        self.used -= 1
        self._used_by[tenant] -= 1
        if not self._used_by[tenant]:
            del self._used_by[tenant]
        if self._returning:
            self._let_return()

    async def come_back(self, tenant: int) -> None:
        """Take one as soon as the tenant may have it: before anything new, for what is nearly done."""
        if tenant not in self._returning and self.take(tenant):
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._returning.setdefault(tenant, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give_back(tenant)
            raise

    def _let_return(self) -> None:
        for tenant, waiting in list(self._returning.items()):
            while waiting and (waiting[0].done() or self.take(tenant)):
                turn = waiting.popleft()
                if not turn.done():
                    turn.set_result(None)
            if not waiting:
                del self._returning[tenant]


class Slot:
    """The slot of one attempt: given back while it only waits for others, and taken again, until the attempt ends."""

    __slots__ = ("_freed", "_held", "_over", "_slots", "_tenant")

    def __init__(self, slots: Slots, tenant: int, freed: Callable[[], None]) -> None:
        self._slots = slots
        self._tenant = tenant
        self._freed = freed
        self._held = True
        self._over = False

    def give_back(self) -> None:
        """Others may have it; saying so twice is harmless."""
        if self._held:
            self._held = False
            self._slots.give_back(self._tenant)
            self._freed()

    async def take_again(self) -> None:
        """Wait until it is ours again. What outlives the attempt, such as an answer to its submit, needs none."""
        if not self._held and not self._over:
            await self._slots.come_back(self._tenant)
            self._held = True
            if self._over:
                self.give_back()

    def end(self) -> None:
        """The attempt is over: nobody would give it back again."""
        self._over = True
        self.give_back()
