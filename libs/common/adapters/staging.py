"""The staging store: model outputs on a local or shared disk until they have been uploaded."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final
from uuid import UUID

from libs.common.adapters.staging_folder import NAME, StagingFolder
from libs.common.adapters.staging_writer import INLINE_BYTES, LARGE_BYTES, OutputWriter
from libs.common.domain.model_errors import StagedLost
from libs.common.domain.output import IN_DATABASE, StagedFile
from libs.common.ports_execution import OutputSet

if TYPE_CHECKING:
    from hashlib import _Hash as HASH

CHUNK_BYTES: Final = 1024 * 1024
#: What says nothing of the file that was to be read.
_PASSING: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ETIMEDOUT})


class Staging(StagingFolder):
    """Outputs in a folder; a reference is `store id:name`.

    Names are never used twice, so what a presumed-dead executor still does here touches nobody else's output. What
    `commit` returned is on disk; a small output is nowhere but in what it returned (StagedFile.content).
    """

    def create(self, task: UUID, attempt: int, tenant: int, one_of: OutputSet | None = None) -> OutputWriter:
        """Begin an output; one of a set becomes a file, however small. Raises StagingFull."""
        if one_of is not None and one_of.size:
            self.go_on(tenant)
        else:
            self.begin(tenant)
        return OutputWriter(self, f"{task.hex}-{attempt}-{tenant}", tenant, one_of)

    def holds(self, reference: str) -> bool:
        """Whether the output can be read here: it lies in this store, or in PostgreSQL."""
        return reference.partition(":")[0] == self.store_id or reference == IN_DATABASE

    async def read(self, staged: StagedFile) -> bytes:
        """A small output as a whole. Raises StagedLost when it is gone or is not what was written, OSError when nothing
        can be read now."""
        if staged.reference == IN_DATABASE:
            return _kept(staged)
        path = self._path(staged.reference)
        if staged.size <= INLINE_BYTES:
            return _read(path, staged)
        return await self.in_thread(lambda: _read(path, staged))

    async def chunks(self, staged: StagedFile) -> AsyncGenerator[bytes, None]:
        """An output of any size, CHUNK_BYTES at a time.

        The last chunk comes only after the whole was found to be what was written, else StagedLost: who passes it on
        has then not yet passed on a complete output.
        """
        if staged.size <= CHUNK_BYTES:
            yield await self.read(staged)
            return
        descriptor = _open(self._path(staged.reference))
        try:
            digest, size, held = sha256(), 0, b""
            while chunk := await self.in_thread(partial(_next_chunk, descriptor, size, digest)):
                if held:
                    yield held
                held = chunk
                size += len(chunk)
            _compare(staged, size, digest.digest())
            yield held
        finally:
            os.close(descriptor)

    async def verified_path(self, staged: StagedFile) -> str:
        """Where an output lies, after its content was compared. Raises StagedLost."""
        async for _ in self.chunks(staged):
            pass
        return self._path(staged.reference)

    async def remove(self, reference: str) -> None:
        """Delete an output; deleting twice, or one that lies in another store, changes nothing."""
        if reference == IN_DATABASE or not self.holds(reference):
            return
        path = self._path(reference)
        with suppress(FileNotFoundError):
            size = os.stat(path).st_size
            if size <= LARGE_BYTES:
                os.unlink(path)
                self.count(_tenant_of(path), -size)
            else:  # shielded: who is cancelled meanwhile will not come back for it
                await asyncio.shield(asyncio.ensure_future(self._remove_large(path, size)))

    async def _remove_large(self, path: str, size: int) -> None:
        await self.in_thread(partial(os.unlink, path))
        self.count(_tenant_of(path), -size)

    def _path(self, reference: str) -> str:
        store, _, name = reference.partition(":")
        if store != self.store_id or not NAME.fullmatch(name):
            raise StagedLost("the staged output lies in another store")
        return self.path(name)


@asynccontextmanager
async def open_staging(
    root: Path, store_id: str, *, max_file_bytes: int, max_total_bytes: int
) -> AsyncIterator[Staging]:
    """A store that knows its usage, closed at the end."""
    staging = Staging(root, store_id, max_file_bytes=max_file_bytes, max_total_bytes=max_total_bytes)
    try:
        await staging.measure()
        yield staging
    finally:
        await staging.close()


def _tenant_of(path: str) -> int:
    named = NAME.fullmatch(os.path.basename(path))
    assert named is not None  # made by _path
    return int(named["tenant"])


def _kept(staged: StagedFile) -> bytes:
    if staged.content is None:
        raise StagedLost("the staged output is gone from the database")
    return staged.content


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise _unreadable(error) from None


def _read(path: str, staged: StagedFile) -> bytes:
    descriptor = _open(path)
    try:
        parts = []
        # one byte more than expected, so that a file that grew is noticed, too
        wanted = staged.size + 1
        while wanted and (part := os.read(descriptor, wanted)):
            parts.append(part)
            wanted -= len(part)
    except OSError as error:
        raise _unreadable(error) from None
    finally:
        os.close(descriptor)
    content = b"".join(parts)
    _compare(staged, len(content), sha256(content).digest())
    return content


def _next_chunk(descriptor: int, place: int, digest: HASH) -> bytes:
    """By position: if the reader was cancelled and its descriptor now is another file's, nothing moves in that."""
    try:
        chunk = os.pread(descriptor, CHUNK_BYTES, place)
    except OSError as error:
        raise _unreadable(error) from None
    digest.update(chunk)
    return chunk


def _unreadable(error: OSError) -> Exception:
    """Lost, unless nothing could be read now: then it lies there as before, and is no reason to call a model again."""
    if error.errno in _PASSING:
        return error
    return StagedLost(f"the staged output cannot be read: {error.strerror}")


def _compare(staged: StagedFile, size: int, digest: bytes) -> None:
    if size != staged.size:
        raise StagedLost(f"the staged output has {size} bytes where {staged.size} were written")
    if digest != staged.sha256:
        raise StagedLost("the staged output is not what was written: its hash differs")
