"""What the API asks of the place where results are kept."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ResultContent:
    """A stored file, ready to be passed on. Chunks raise StorageUnavailable where the store fails in between."""

    size: int
    media_type: str
    chunks: AsyncIterator[bytes]


class ResultReader(Protocol):
    """The object store, read for the tenants that own its objects."""

    def holds(self, tenant_id: int, url: str) -> bool:
        """Whether the address is one of this store's and of this tenant's part of it."""

    async def open(self, url: str) -> ResultContent | None:
        """The object of such an address; None when there is none. Raises StorageUnavailable."""
