"""Bodies of requests, parsed without holding up other callers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from libs.common.runtime.turns import Turns

Parsed = TypeVar("Parsed")

#: Parsing a megabyte takes up to 0.6 s: no more of it is what others wait for.
_QUICK_BYTES: Final = 256 * 1024


class Parsing:
    """Parses what is small at once, and what is large beside the loop, tenants taking turns."""

    def __init__(self) -> None:
        self._turns = Turns()

    async def run(self, tenant_id: int, size: int, parse: Callable[[], Parsed]) -> Parsed:
        """What `parse` makes of so many bytes, or raises."""
        return parse() if size <= _QUICK_BYTES else await self._turns.take(tenant_id, parse)
