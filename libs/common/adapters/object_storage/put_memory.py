"""How much of outputs on their way to storage this process has in its memory at the same time.

What storage takes slowly, or not at all for a while, is uploaded by as many attempts as there are slots.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import Final

from libs.common.domain.model_errors import UploadFailed
from libs.common.runtime.room import Room

_ALL: Final = 512 * 2**20
_OF_A_TENANT: Final = 256 * 2**20
#: So much is had by each attempt anyway.
_LITTLE: Final = 64 * 1024
#: Whoever waits longer is parked: it has a slot, and a place in its lane's window. Longer than most uploads take: of
#: several files all are uploaded again when one was parked.
_PATIENCE_SECONDS: Final = 120.0


class PutMemory:
    """The room of one process. A tenant whose outputs are not taken leaves half of it to others."""

    def __init__(
        self, *, everything: int = _ALL, of_a_tenant: int = _OF_A_TENANT, patience: float = _PATIENCE_SECONDS
    ) -> None:
        self._room = Room(everything=everything, of_a_tenant=of_a_tenant)
        self._patience = patience

    async def hold(self, tenant: int, size: int) -> ExitStack:
        """Wait for so much of it, which is free again when what this gives is closed. Raises UploadFailed."""
        held = ExitStack()
        if size > _LITTLE:
            try:
                async with asyncio.timeout(self._patience):
                    taken = await self._room.take(tenant, size)
            except TimeoutError:
                why = "storage takes other results too slowly: there was no memory for one more upload"
                raise UploadFailed("upload_busy", why, retryable=True) from None
            held.callback(self._room.give_back, tenant, taken)
        return held
