"""The object store as an auditor reads it."""

from __future__ import annotations

from hashlib import sha256
from urllib.parse import unquote

import obstore
from obstore.exceptions import BaseError

from libs.common.adapters.object_storage.obstore import base_of, open_store
from libs.common.adapters.object_storage.result_reader import PIECE_BYTES
from libs.common.domain.errors import StorageUnavailable
from libs.common.ports_audit import StoredObject


class AuditedObjects:
    """Implements ports_audit.Objects. Raises BadStorageUrl when made, StorageUnavailable later."""

    def __init__(self, url: str, *, public_url: str = "") -> None:
        self._store = open_store(url)
        self._base = base_of(url, public_url)

    def holds(self, url: str) -> bool:
        return url.startswith(self._base)

    async def find(self, url: str) -> StoredObject | None:
        digest, key = sha256(), unquote(url.removeprefix(self._base))
        try:
            size = int((await obstore.head_async(self._store, key))["size"])
            for start in range(0, size, PIECE_BYTES):
                end = min(start + PIECE_BYTES, size)
                digest.update(await obstore.get_range_async(self._store, key, start=start, end=end))
        except (FileNotFoundError, ValueError):
            return None  # a ValueError: no object can have this key
        except (BaseError, OSError) as error:
            raise StorageUnavailable(f"the object store cannot be read: {str(error).splitlines()[0]}") from error
        return StoredObject(size, digest.hexdigest())
