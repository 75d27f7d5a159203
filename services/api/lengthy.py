"""What callers sent, read without holding up the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from libs.common.runtime.turns import Turns

Found = TypeVar("Found")

#: Reading a megabyte takes up to 0.6 s: no more of it is what others wait for.
_QUICK_BYTES: Final = 256 * 1024


class Lengthy:
    """Reads what is small at once, and what is large beside the loop, tenants taking turns."""

    def __init__(self) -> None:
        self._turns = Turns()

    async def read(self, tenant_id: int, size: int, work: Callable[[], Found]) -> Found:
        """What `work` makes of so many bytes, or raises."""
        return work() if size <= _QUICK_BYTES else await self._turns.take(tenant_id, work)
