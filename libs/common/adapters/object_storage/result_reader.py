"""Results as their owners download them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final
from urllib.parse import unquote

import obstore
from obstore.exceptions import BaseError

from libs.common.adapters.file_type import TYPES
from libs.common.adapters.object_storage.obstore import base_of, open_store
from libs.common.domain.errors import StorageUnavailable
from libs.common.ports_results import ResultContent, WantedPart

#: Each piece is a request of its own: a reader who is slow holds no connection of the store's, and no request of the
#: store's is cut off because its reader was slow, or because a large object takes longer than a request may.
PIECE_BYTES: Final = 4 * 1024 * 1024
#: Who takes nothing keeps his piece in memory, about twice: while so many have one, others get small ones.
_PIECES_AT_ONCE: Final = 16
_SMALL_PIECE_BYTES: Final = 256 * 1024
_UNKNOWN: Final = "application/octet-stream"
#: What no key of ours has in it, and stores do not read.
_STEPS: Final = frozenset(("", ".", ".."))


class StoredResults:
    """Implements ports_results.ResultReader. Raises BadStorageUrl when made."""

    def __init__(self, url: str, *, public_url: str = "") -> None:
        self._store = open_store(url)
        self._base = base_of(url, public_url)
        self._pieces_out = 0  #: that are not small

    def holds(self, tenant_id: int, url: str) -> bool:
        return url.startswith(f"{self._base}{tenant_id}/") and not _STEPS.intersection(self._key(url).split("/"))

    async def open(self, url: str, part: WantedPart | None = None) -> ResultContent | None:
        key = self._key(url)
        kind = TYPES.get(key.rpartition(".")[2], _UNKNOWN)
        if part is not None:
            return await self._part(key, kind, part)
        try:
            # No more than is taken at once (no result is empty): an answer that is given up in the middle costs its
            # connection, and much of it has come.
            found = await obstore.get_async(self._store, key, options={"range": (0, _SMALL_PIECE_BYTES)})
            size, first = int(found.meta["size"]), bytes(await found.bytes_async())
        except FileNotFoundError:
            return None
        except (BaseError, OSError, ValueError) as error:
            raise _unavailable() from error
        return ResultContent(size, kind, self._pieces(key, range(size), first))

    async def _part(self, key: str, kind: str, part: WantedPart) -> ResultContent | None:
        try:
            size = int((await obstore.head_async(self._store, key))["size"])
        except FileNotFoundError:
            return None
        except (BaseError, OSError, ValueError) as error:
            raise _unavailable() from error
        wanted = part.of(size)
        return ResultContent(size, kind, self._pieces(key, wanted), wanted)

    async def _pieces(self, key: str, wanted: range, first: bytes = b"") -> AsyncIterator[bytes]:
        start = wanted.start + len(first)
        if first:
            yield first
        del first
        while start < wanted.stop:
            whole = self._pieces_out < _PIECES_AT_ONCE
            end = min(start + (PIECE_BYTES if whole else _SMALL_PIECE_BYTES), wanted.stop)
            self._pieces_out += whole
            try:
                yield await self._piece(key, start, end)
            finally:
                self._pieces_out -= whole
            start = end

    async def _piece(self, key: str, start: int, end: int) -> bytes:
        try:
            return bytes(await obstore.get_range_async(self._store, key, start=start, end=end))
        except (BaseError, OSError, ValueError) as error:
            raise _unavailable() from error

    def _key(self, url: str) -> str:
        return unquote(url.removeprefix(self._base))


def _unavailable() -> StorageUnavailable:
    """Without the store's own words: they name addresses that are the operator's."""
    return StorageUnavailable("the object store cannot be read")
