"""What re-sealing asks of the places where sealed values lie, and of the key ring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from libs.common.ports import Ring


class SealError(ValueError):
    """A sealed value that no key of the ring opens: it was changed, moved to another row, or its key is gone."""


class KeyMissing(SealError):
    """The ring of this process lacks the key that sealed the value; another process may have it."""


@dataclass(frozen=True, slots=True)
class SealedValue:
    """A sealed value of a row, and whose it is."""

    id: int
    owner: str
    sealed: bytes = field(repr=False)


class SealedPlace(Protocol):
    """One column of sealed values. Raises DatabaseUnavailable and OutcomeUnknown."""

    @property
    def name(self) -> str: ...

    async def page(self, after: int, limit: int) -> list[SealedValue]:
        """Values past an id, in the order of ids."""

    async def newest(self, limit: int) -> list[SealedValue]:
        """Values of what is in use, the newest first."""

    async def replace(self, values: Sequence[tuple[SealedValue, bytes]]) -> set[int]:
        """Write new bytes where the old ones still are; returns the ids of those."""


class KeyedRing(Ring, Protocol):
    """A ring whose keys have names. The newest one seals; `open` raises SealError."""

    @property
    def newest(self) -> str:
        """The name of the key that seals."""

    def key_of(self, sealed: bytes) -> str:
        """The name of the key that sealed a value."""
