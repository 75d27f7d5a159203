"""What the API asks of the place where results are kept."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class WantedPart:
    """Bytes of a file whose size is not known yet: from `first` on, up to and with `last`; without a first, so many
    from its end. With `known` they are wanted only of the file with that tag, and of any other one the whole."""

    first: int | None
    last: int | None
    known: str | None = None

    def of(self, size: int) -> range:
        """Which they are in a file of this size; empty where it has none of them."""
        if self.first is None:
            return range(size - min(self.last or 0, size), size)
        end = size if self.last is None else min(self.last + 1, size)
        return range(self.first, end) if self.first < end else range(0)


@dataclass(frozen=True, slots=True)
class ResultContent:
    """A stored file, ready to be passed on. Chunks raise StorageUnavailable where the store fails in between."""

    size: int
    media_type: str
    chunks: AsyncIterator[bytes]
    part: range | None = None  #: which bytes the chunks are, where a part was asked for


class ResultReader(Protocol):
    """The object store, read for the tenants that own its objects."""

    def holds(self, tenant_id: int, url: str) -> bool:
        """Whether the address is one of this store's and of this tenant's part of it."""

    async def open(self, url: str, part: WantedPart | None = None) -> ResultContent | None:
        """The object of such an address, or a part of it: then no other byte is read. None when there is no
        such object. Raises StorageUnavailable."""
