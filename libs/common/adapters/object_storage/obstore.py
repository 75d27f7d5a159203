"""Results in an object store: a local folder, S3, Google Cloud Storage, Azure, or memory, by the URL's scheme."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator
from contextlib import ExitStack, aclosing
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, unquote, urlsplit

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import LocalStore, MemoryStore, from_url

from libs.common.adapters.object_storage.local_folder import LocalFolder
from libs.common.adapters.object_storage.put_memory import PutMemory
from libs.common.adapters.staging import Staging
from libs.common.domain.model_errors import UploadFailed
from libs.common.domain.output import ResultName, StagedFile, StoredFile
from libs.common.ports_execution import UploadCredentials
from libs.common.runtime.seen import seen

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

PUT_BYTES: Final = 1024 * 1024  #: up to here an object is one request
PART_BYTES: Final = 8 * 1024 * 1024
_PARTS_AT_ONCE: Final = 2
_MEMORY_BYTES: Final = (_PARTS_AT_ONCE + 1) * PART_BYTES  #: what an object of any size has in memory meanwhile
_SECONDS: Final = 60.0
_CLOSE_SECONDS: Final = 5.0
_BYTES_PER_SECOND: Final = 1024 * 1024  #: what the slowest link that we wait for carries

#: A store's own retries are short: the executor tries again itself, and parks what lasts longer.
_RETRY: Final[RetryConfig] = {
    "max_retries": 2,
    "retry_timeout": timedelta(seconds=15),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=2), "base": 2},
}
#: Whether it is plain http is the operator's choice by AWS_ENDPOINT_URL; options given here silence AWS_ALLOW_HTTP.
_CLIENT: Final[ClientConfig] = {
    "allow_http": True,
    "connect_timeout": timedelta(seconds=5),
    "timeout": timedelta(seconds=30),
}
#: Browsers run these; a bucket that is served as a site must not show them in place.
_ACTIVE: Final = frozenset({"html", "svg", "xml"})

_STATUS: Final = re.compile(r"status code: ([0-9]{3})")
_CODE: Final = re.compile(r"<Code>([A-Za-z0-9.]{1,80})</Code>")
_SYSTEM_ERROR: Final = re.compile(r"os error ([0-9]{1,5})\)|Os \{\s*code: ([0-9]{1,5}),")
_WRONG_REGION: Final = "incorrectly configured region"


class BadStorageUrl(ValueError):
    """SLUICEWAY_STORAGE_URL names no store that could be opened."""


class _NotWanted(Exception):
    """Nobody waits for this upload any more."""


class ObjectStorage:
    """Puts staged outputs under their names into one store; the same name again replaces the object.

    `public_url` is the prefix under which readers find the objects, if that is not the store's own address.
    """

    def __init__(self, url: str, staging: Staging, *, public_url: str = "", memory: PutMemory | None = None) -> None:
        self._staging = staging
        self._memory = memory or PutMemory()
        self._store = open_store(url)
        self._folder = _folder(url, staging)
        self._base = base_of(url, public_url)
        self._putting: set[asyncio.Task[None]] = set()

    async def put(
        self, name: ResultName, staged: StagedFile, credentials: UploadCredentials | None = None
    ) -> StoredFile:
        """Store an output. Raises UploadFailed, and StagedLost when it is no longer what was staged."""
        key = name.key(staged.file_type)
        needed = min(staged.size, _MEMORY_BYTES) if self._folder is None else 0
        held = await self._memory.hold(name.tenant_id, needed)
        try:
            async with asyncio.timeout(_SECONDS + staged.size / _BYTES_PER_SECOND):
                await self._put(key, staged, held)
        except (PermissionDeniedError, UnauthenticatedError) as error:
            denied = "the object store does not accept the service's own credentials"
            raise _failed("upload_denied", f"{denied}{refusal_code(error)}") from error
        except TimeoutError:
            raise _failed("upload_timeout", "the object store did not take the result in time") from None
        except (BaseError, OSError, ValueError, NotImplementedError) as error:
            raise _failed("upload_unreachable", f"the object store failed: {_reason(error)}") from error
        finally:
            held.close()
        return StoredFile(self.address(key), staged.file_type, staged.size, staged.sha256, key.rpartition("/")[2])

    def address(self, key: str) -> str:
        """Where the object of a key can be read: a durable address, nothing in it expires."""
        return self._base + quote(key)

    async def head(self, key: str) -> int | None:
        """The size of an object, None when there is none."""
        try:
            return int((await obstore.head_async(self._store, key))["size"])
        except FileNotFoundError:
            return None

    async def read(self, key: str) -> bytes:
        """The whole object. Raises FileNotFoundError."""
        return bytes(await (await obstore.get_async(self._store, key)).bytes_async())

    async def listing(self, prefix: str = "") -> AsyncIterator[tuple[str, int]]:
        """Every object below a prefix, with its size."""
        async for page in obstore.list(self._store, prefix or None):
            for found in page:
                yield found["path"], found["size"]

    async def delete(self, key: str) -> None:
        """Delete an object; deleting twice changes nothing. Results that callers know are never deleted by us."""
        try:
            await obstore.delete_async(self._store, key)
        except FileNotFoundError:
            return

    async def close(self) -> None:
        """Let uploads that nobody waits for any more be aborted, for some seconds."""
        if self._putting:
            await asyncio.wait(self._putting, timeout=_CLOSE_SECONDS)

    async def _put(self, key: str, staged: StagedFile, held: ExitStack) -> None:
        if self._folder is None:
            await self._send(key, staged, _attributes(staged), held)
        elif not await self._folder.keep(staged, key):
            await self._send(key, staged, None, held)
            await self._folder.sync(key)

    async def _send(self, key: str, staged: StagedFile, attributes: dict[str, Any] | None, held: ExitStack) -> None:
        if staged.size <= PUT_BYTES:
            content = await self._staging.read(staged)
            await obstore.put_async(self._store, key, content, attributes=attributes, use_multipart=False)
            return
        await self._put_in_parts(key, staged, attributes, held)

    async def _put_in_parts(
        self, key: str, staged: StagedFile, attributes: dict[str, Any] | None, held: ExitStack
    ) -> None:
        """An error of the source, StagedLost among them, aborts the upload before the object exists.

        So does a cancelled caller, a little later, unless all has been read by then: an upload that is cut off leaves
        its parts at the store, where they are paid for and never seen. Until it is over it has its memory (`held`).
        """
        wanted = True

        async def chunks() -> AsyncIterator[bytes]:
            async with aclosing(self._staging.chunks(staged)) as read:
                async for chunk in read:
                    yield chunk
                    if not wanted:
                        raise _NotWanted

        async def put() -> None:
            await obstore.put_async(
                self._store,
                key,
                chunks(),
                attributes=attributes,
                chunk_size=PART_BYTES,
                max_concurrency=_PARTS_AT_ONCE,
            )

        putting = asyncio.create_task(put(), name="put-in-parts")
        self._putting.add(putting)
        putting.add_done_callback(self._putting.discard)
        putting.add_done_callback(seen)
        its_own = held.pop_all()
        putting.add_done_callback(lambda _: its_own.close())
        try:
            await asyncio.shield(putting)
        finally:
            wanted = False
            del putting  # named by a frame of its own error's traceback, it would wait for the garbage collector


def base_of(url: str, public_url: str) -> str:
    """What the addresses of a store's objects begin with, for whoever reads them."""
    return (public_url or url).removesuffix("/") + "/"


def open_store(url: str) -> ObjectStore:
    """The store that a URL names. Raises BadStorageUrl."""
    scheme = urlsplit(url).scheme
    if scheme == "file":
        return LocalStore(_path(url), mkdir=True)
    if scheme == "memory":
        return MemoryStore()
    if scheme not in ("s3", "s3a", "gs", "az", "azure", "abfs", "abfss", "adl"):
        raise BadStorageUrl("SLUICEWAY_STORAGE_URL must begin with file:///, s3://, gs:// or az://")
    try:
        return from_url(url, client_options=_CLIENT, retry_config=_RETRY)
    except (BaseError, ValueError) as error:
        raise BadStorageUrl(f"SLUICEWAY_STORAGE_URL cannot be opened: {str(error).splitlines()[0]}") from error


def _folder(url: str, staging: Staging) -> LocalFolder | None:
    if urlsplit(url).scheme != "file":
        return None
    return LocalFolder(_path(url), staging)


def _path(url: str) -> Path:
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise BadStorageUrl("SLUICEWAY_STORAGE_URL of a local folder is file:///followed/by/its/path")
    return Path(unquote(parts.path))


def _attributes(staged: StagedFile) -> dict[str, Any]:
    attributes = {"Content-Type": staged.mime}
    if staged.file_type in _ACTIVE:
        attributes["Content-Disposition"] = "attachment"
    return attributes


def refusal_code(error: Exception) -> str:
    """The code of a store's refusal, such as ` (RequestTimeTooSkewed)`: a wrong clock is no wrong key."""
    found = _CODE.search(str(error))
    return f" ({found[1]})" if found is not None else ""


def _reason(error: Exception) -> str:
    """Its status or its kind: tenants read this, and its text names addresses that are the operator's."""
    text = str(error)
    if (status := _STATUS.search(text)) is not None:
        return f"it answered {status[1]}{refusal_code(error)}"
    if _WRONG_REGION in text:
        return "it redirects, as for a bucket in another region (AWS_REGION)"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    if (number := _SYSTEM_ERROR.search(text)) is not None:
        return os.strerror(int(number[1] or number[2]))
    return type(error).__name__


def _failed(code: str, message: str) -> UploadFailed:
    return UploadFailed(code, message, retryable=True)
