"""How much of providers' answers this process has in its memory at the same time.

An answer may have its outputs inside: 64 MiB of it are taken, by hundreds of jobs that end together. So a large answer
waits here, unread, until there is room for it, and keeps its room until its outputs are staged.

A job gives up its slot while it waits for room, and again while it has room and waits for staging. So no holder of a
slot waits for either, and jobs cannot wait for each other in a circle. A tenant may have half of the room: outputs that
cannot be staged for long leave the other half to others.
"""

from __future__ import annotations

import asyncio
from typing import Final

from libs.common.ports_jobs import LITTLE_ANSWER
from libs.common.runtime.room import Room
from services.executor.admission.slots import Slot

_ALL: Final = 256 * 2**20
_OF_A_TENANT: Final = 128 * 2**20
#: An answer that stood unread for longer may have been given up by the other side.
_PATIENCE_SECONDS: Final = 1.0


class AnswerMemory(Room):
    """The room of one process."""

    def __init__(self, *, everything: int = _ALL, of_a_tenant: int = _OF_A_TENANT) -> None:
        super().__init__(everything=everything, of_a_tenant=of_a_tenant)

    def share(self, tenant: int, slot: Slot | None) -> AnswerShare:
        """What one job has of it, nothing yet."""
        return AnswerShare(self, tenant, slot)


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
            about_to_wait = None if self._slot is None else self._slot.give_back
            self._held += await self._memory.take(self._tenant, size, about_to_wait)
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
