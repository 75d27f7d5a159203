"""The object store as an auditor reads it."""

from __future__ import annotations

from hashlib import sha256
from typing import Final
from urllib.parse import unquote

import obstore
from obstore.exceptions import BaseError

from libs.common.adapters.object_storage.obstore import open_store
from libs.common.domain.errors import StorageUnavailable
from libs.common.ports_audit import StoredObject

_CHUNK_BYTES: Final = 1024 * 1024


class AuditedObjects:
    """Implements ports_audit.Objects. Raises BadStorageUrl when made, StorageUnavailable later."""

    def __init__(self, url: str, *, public_url: str = "") -> None:
        self._store = open_store(url)
        base = public_url or url
        self._base = base if base.endswith("/") else base + "/"

    def holds(self, url: str) -> bool:
        return url.startswith(self._base)

    async def find(self, url: str) -> StoredObject | None:
        digest, size = sha256(), 0
        try:
            found = await obstore.get_async(self._store, unquote(url.removeprefix(self._base)))
            async for chunk in found.stream(min_chunk_size=_CHUNK_BYTES):
                digest.update(chunk)
                size += len(chunk)
        except FileNotFoundError:
            return None
        except (BaseError, OSError) as error:
            raise StorageUnavailable(f"the object store cannot be read: {str(error).splitlines()[0]}") from error
        return StoredObject(size, digest.hexdigest())
