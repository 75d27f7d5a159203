"""One output on its way into the staging store."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from hashlib import sha256
from types import TracebackType
from typing import Final, Self

from libs.common.adapters.file_type import HEAD_BYTES, sniff
from libs.common.adapters.staging_folder import StagingFolder
from libs.common.domain.model_errors import ModelError
from libs.common.domain.output import IN_DATABASE, IN_DATABASE_BYTES, StagedFile
from libs.common.ports_execution import OutputSet

#: Up to here a file is written in the loop: it costs less than waking a thread.
INLINE_BYTES: Final = 64 * 1024
#: From here on bytes go to disk instead of waiting in memory.
SPILL_BYTES: Final = 256 * 1024
#: From here on a file is deleted beside the loop: that takes ext4 a millisecond for each 4 MiB.
LARGE_BYTES: Final = 16 * 1024 * 1024
PART: Final = ".part"  #: ends the name of what is not finished

_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class OutputWriter:
    """Bytes in, a StagedFile out. Used as a context, it leaves nothing behind unless committed.

    An output of at most IN_DATABASE_BYTES, alone, becomes no file at all: it is the StagedFile's content, and durable
    when that is recorded. A middling one is one write under its final name, known to nobody before `commit` returns. A
    large one grows as `<name>.part` and is renamed when it is complete and on disk.
    """

    def __init__(self, folder: StagingFolder, name: str, tenant: int, one_of: OutputSet | None) -> None:
        self._folder = folder
        self._tenant = tenant
        self._set = one_of or OutputSet()
        self._in_database_bytes = IN_DATABASE_BYTES if one_of is None else 0
        self._name = name
        self._buffer: list[bytes] = []
        self._buffered = 0
        self._size = 0
        self._counted = 0  #: bytes that staging knows of
        self._head = b""
        self._digest = sha256()
        self._descriptor: int | None = None
        self._left: str | None = None  #: the file that has to be deleted unless it is kept
        self._kept = False
        self._working: asyncio.Future[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._kept:
            self._set.size -= self._size
        self._drop()

    async def write(self, chunk: bytes) -> None:
        """Take the next bytes. Raises StagingFull, and ModelError `answer_too_large` past the cap of one file, or past
        what staging could ever hold of the set."""
        self._size += len(chunk)
        self._set.size += len(chunk)
        if self._size > (most := self._folder.max_file_bytes):
            raise ModelError("answer_too_large", f"the output is larger than {most} bytes", retryable=False)
        if self._set.size > (most := self._folder.max_set_bytes):
            raise ModelError("answer_too_large", f"the outputs together are larger than {most} bytes", retryable=False)
        self._buffer.append(chunk)
        self._buffered += len(chunk)
        if self._buffered >= SPILL_BYTES:
            self._folder.go_on(self._tenant)
            content = self._taken()
            self._count(len(content))
            await self._beside_the_loop(self._append, content)

    async def commit(self, content_type: str = "") -> StagedFile:
        """Keep it. Raises StagingFull; then nothing is kept."""
        if self._size <= self._in_database_bytes:
            return _in_database(self._taken(), content_type)
        try:
            await self._finish()
            descriptor, self._descriptor = self._descriptor, None
            await self._folder.disk.keep(descriptor, self._folder.path(""))
        except OSError as error:
            raise self._folder.refusal(error) from None
        self._left, self._kept = None, True
        self._close()
        self._count(self._size - self._counted)
        self._counted = 0
        kind = sniff(self._head, complete=self._size <= HEAD_BYTES, content_type=content_type)
        reference = f"{self._folder.store_id}:{self._name}"
        return StagedFile(reference, self._size, self._digest.digest(), kind.extension, kind.mime)

    async def _finish(self) -> None:
        if self._left is not None:
            await self._beside_the_loop(self._finish_large, self._taken())
        elif self._buffered <= INLINE_BYTES:
            self._write_small(self._taken())
        else:
            await self._beside_the_loop(self._write_small, self._taken())

    def _write_small(self, content: bytes) -> None:
        self._create()
        self._append(content)

    def _append(self, content: bytes) -> None:
        descriptor = self._descriptor if self._descriptor is not None else self._create(PART)
        if not self._head:
            self._head = content[:HEAD_BYTES]
        self._digest.update(content)
        write_all(descriptor, content)

    def _finish_large(self, content: bytes) -> None:
        self._append(content)
        assert self._descriptor is not None
        os.fsync(self._descriptor)
        path = self._folder.path(self._name)
        os.rename(path + PART, path)
        self._left = self._name

    def _create(self, ending: str = "") -> int:
        # Never used twice: an executor that was presumed dead may still be at work on the same attempt.
        self._name += f"-{os.urandom(4).hex()}"
        self._descriptor = os.open(self._folder.path(self._name + ending), _CREATE, 0o644)
        self._left = self._name + ending
        return self._descriptor

    def _drop(self) -> None:
        if self._working is not None and not self._working.done():
            self._working.add_done_callback(lambda _: self._drop())  # a thread still writes to the file
            return
        self._buffer.clear()
        self._count(-self._counted)
        self._close()
        if self._left is not None:
            path, self._left = self._folder.path(self._left), None
            if self._size <= LARGE_BYTES:
                _delete(path)
            else:
                with suppress(RuntimeError):  # the store is closed; then the cleaning finds it
                    self._folder.in_thread(partial(_delete, path))

    def _count(self, size: int) -> None:
        self._counted += size
        if size:
            self._folder.count(self._tenant, size)

    def _taken(self) -> bytes:
        content = self._buffer[0] if len(self._buffer) == 1 else b"".join(self._buffer)
        self._buffer, self._buffered = [], 0
        return content

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    async def _beside_the_loop(self, step: Callable[[bytes], None], content: bytes) -> None:
        """Shielded: a cancelled caller must not close a file that the thread is writing to."""
        self._working = self._folder.in_thread(lambda: step(content))
        try:
            await asyncio.shield(self._working)
        except OSError as error:
            raise self._folder.refusal(error) from None


def _delete(path: str) -> None:
    with suppress(OSError):  # gone already, or the disk is; then the cleaning finds it
        os.unlink(path)


def _in_database(content: bytes, content_type: str) -> StagedFile:
    kind = sniff(content[:HEAD_BYTES], complete=len(content) <= HEAD_BYTES, content_type=content_type)
    return StagedFile(IN_DATABASE, len(content), sha256(content).digest(), kind.extension, kind.mime, content)


def write_all(descriptor: int, content: bytes) -> None:
    """os.write until all is written. Raises OSError."""
    written = os.write(descriptor, content)
    while written < len(content):  # a full disk takes a part first and refuses then
        written += os.write(descriptor, memoryview(content)[written:])
