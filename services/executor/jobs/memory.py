"""How much of providers' answers this process has in its memory at the same time.

An answer may have its outputs inside: 64 MiB of it are taken, by hundreds of jobs that end together. So a large answer
waits here, unread, until there is room for it, and keeps its room until its outputs are staged.

Who waits for room has had its slot, and leaves it to others meanwhile, and who has room may wait for staging, without
its slot too: so who has a slot waits for neither, and nobody in a circle. A tenant may have half of the room, so that
outputs which cannot be staged for long leave the other half to others.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from dataclasses import dataclass
from typing import Final

from libs.common.ports_jobs import LITTLE_ANSWER
from services.executor.admission.slots import Slot

_ALL: Final = 256 * 2**20
_OF_A_TENANT: Final = 128 * 2**20
#: What stood unread for longer may have been given up by the other side.
_PATIENCE_SECONDS: Final = 1.0


@dataclass(slots=True, eq=False)
class _Waiting:
    tenant: int
    size: int
    turn: asyncio.Future[None]


class AnswerMemory:
    """The room of one process; those who wait are let in in their order, but for tenants that have their part."""

    def __init__(self, *, everything: int = _ALL, of_a_tenant: int = _OF_A_TENANT) -> None:
        self._free = everything
        self._of_a_tenant = of_a_tenant
        self._taken: Counter[int] = Counter()
        self._waiting: deque[_Waiting] = deque()

    def share(self, tenant: int, slot: Slot | None) -> AnswerShare:
        """What one job has of it, nothing yet."""
        return AnswerShare(self, tenant, slot)

    async def take(self, tenant: int, size: int, slot: Slot | None = None) -> int:
        """Wait for so much room, or as much as anybody gets; how much that is. Who has to wait gives back the slot."""
        size = min(size, self._of_a_tenant)
        waiting = _Waiting(tenant, size, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._let_in()
        if slot is not None and not waiting.turn.done():
            slot.give_back()
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


class AnswerShare:
    """The room of one job's last answer. A little one needs none."""

    __slots__ = ("_held", "_memory", "_slot", "_tenant", "waited")

    def __init__(self, memory: AnswerMemory, tenant: int, slot: Slot | None) -> None:
        self._memory = memory
        self._tenant = tenant
        self._slot = slot
        self._held = 0
        self.waited = False  #: an answer stood unread for long, and its connection may not have borne it

    async def take(self, size: int) -> None:
        """Wait until there is room for an answer of this size, in the place of what there was before."""
        if size <= self._held:
            self._give_back(self._held - size)
        elif size > LITTLE_ANSWER:
            self.release()
            began = asyncio.get_running_loop().time()
            if self._slot is not None:
                await self._slot.take_again()
            self._held += await self._memory.take(self._tenant, size, self._slot)
            if self._slot is not None:
                await self._slot.take_again()
            self.waited = asyncio.get_running_loop().time() - began > _PATIENCE_SECONDS

    def release(self) -> None:
        """Nothing of the answer is kept any more; saying so twice is harmless."""
        self._give_back(self._held)

    def _give_back(self, size: int) -> None:
        if size:
            self._held -= size
            self._memory.give_back(self._tenant, size)
