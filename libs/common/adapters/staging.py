"""The staging store: model outputs on a local or shared disk until they have been uploaded."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar
from uuid import UUID

from libs.common.adapters.disk_sync import DiskSync
from libs.common.adapters.staging_writer import INLINE_BYTES, LARGE_BYTES, OutputWriter
from libs.common.domain.model_errors import StagedLost, StagingFull, StagingShareFull
from libs.common.domain.output import IN_DATABASE, StagedFile
from libs.common.ports_execution import OutputSet
from libs.common.runtime.threads import open_pool

if TYPE_CHECKING:
    from hashlib import _Hash as HASH

_Made = TypeVar("_Made")

CHUNK_BYTES: Final = 1024 * 1024
_PROBE: Final = ".probe"
#: What says nothing of the file that was to be read.
_PASSING: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ETIMEDOUT})
_THREADS: Final = 4
#: A store of which so much is in use is full.
_FULL: Final = 15 / 16
#: Names are made here and only here; anything else in a reference points outside or at nothing of ours.
_NAME: Final = re.compile(r"[0-9a-f]{32}-[0-9]{1,10}-(?P<tenant>-?[0-9]{1,19})-[0-9a-f]{8}(?:\.part)?")
_STORE_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True)
class StagedEntry:
    """A file as it lies in the store, finished or not; `age` in seconds since its last write, `task` whose it is."""

    reference: str
    task: UUID
    tenant: int
    size: int
    age: float


class Staging:
    """Outputs in one folder, which several processes may share; a reference is `store id:name`.

    A tenant that has as much in it as is free begins no more: alone it has half, and the next one finds room, however
    long the first one's outputs stay. What it has begun may go on until it has twice as much as is free: alone two
    thirds, the most that an output, or the set of one job's outputs, can have.

    Names are never used twice, so what a presumed-dead executor still does here touches nobody else's output. What
    `commit` returned is on disk; a small output is nowhere but in what it returned (StagedFile.content).
    """

    def __init__(self, root: Path, store_id: str, *, max_file_bytes: int, max_total_bytes: int) -> None:
        if not _STORE_ID.fullmatch(store_id) or f"{store_id}:" == IN_DATABASE:
            raise ValueError(
                "the name of a staging store has letters, digits, dots, dashes and underscores, and is not 'database'"
            )
        self.root = root
        self.store_id = store_id
        #: What is larger would find no room in an empty store either (see go_on).
        self.max_set_bytes = max_total_bytes * 2 // 3
        self.max_file_bytes = min(max_file_bytes, self.max_set_bytes)
        self.disk = DiskSync()
        self._prefix = os.path.join(root, "")
        self._max_total_bytes = max_total_bytes
        self._usage = 0
        self._usage_of: Counter[int] = Counter()  #: by tenant
        self._refused = ""
        self._pool = open_pool(_THREADS, "staging")
        root.mkdir(mode=0o700, parents=True, exist_ok=True)

    @property
    def usage(self) -> int:
        """Bytes in the store: as last measured, and what this process did since."""
        return self._usage

    @property
    def full(self) -> bool:
        """Whether it takes nothing now: over its size, or the disk refused the last write."""
        return bool(self._refused) or self._usage >= self._max_total_bytes * _FULL

    def create(self, task: UUID, attempt: int, tenant: int, one_of: OutputSet | None = None) -> OutputWriter:
        """Begin an output; one of a set becomes a file, however small. Raises StagingFull."""
        if one_of is not None and one_of.size:
            self.go_on(tenant)
        else:
            self._check(tenant, self._max_total_bytes - self._usage)
        return OutputWriter(self, f"{task.hex}-{attempt}-{tenant}", tenant, one_of)

    def go_on(self, tenant: int) -> None:
        """Raises StagingFull unless what a tenant has begun may grow."""
        self._check(tenant, 2 * (self._max_total_bytes - self._usage) + 1)

    def _check(self, tenant: int, share: int) -> None:
        """Raises StagingFull for a full store, and for a tenant that has so much."""
        if self.full:
            raise self.refusal()
        if self._usage_of[tenant] >= share:
            raise StagingShareFull(
                f"staging takes nothing more of this tenant, which has {self._usage_of[tenant]} bytes there"
            )

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
        if staged.size <= CHUNK_BYTES:
            await self.read(staged)
        else:
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

    async def entries(self) -> list[StagedEntry]:
        """All that lies in the store, for the audit and for cleaning up after processes that died."""
        return await self.in_thread(self._scan)

    async def measure(self) -> int:
        """Count anew, since several processes may share the folder, and try a disk that refused; gives the usage."""
        found: Counter[int] = Counter()
        for entry in await self.entries():
            found[entry.tenant] += entry.size
        self._usage, self._usage_of = found.total(), found
        if self._refused:
            with suppress(OSError):
                await self.in_thread(self._probe)
                self._refused = ""
        return self._usage

    async def close(self) -> None:
        """Let go of the threads."""
        await self.disk.close()
        self._pool.shutdown(wait=False)

    def count(self, tenant: int, size: int) -> None:
        """Bytes were written or, negative, deleted."""
        self._usage = max(0, self._usage + size)
        self._usage_of[tenant] += size
        if self._usage_of[tenant] <= 0:
            del self._usage_of[tenant]

    def refusal(self, error: OSError | None = None) -> StagingFull:
        """What to raise when it takes nothing; with the disk's error it stays full until `measure` finds otherwise."""
        if error is not None:
            self._refused = error.strerror or type(error).__name__
        reason = self._refused or f"{self._usage} of {self._max_total_bytes} bytes are in use"
        return StagingFull(f"staging takes nothing: {reason}")

    def in_thread(self, work: Callable[[], _Made]) -> asyncio.Future[_Made]:
        """Run what blocks for long beside the loop."""
        return asyncio.get_running_loop().run_in_executor(self._pool, work)

    def path(self, name: str) -> str:
        """Where a file of this name lies. As text: pathlib would cost more than the file's system calls."""
        return self._prefix + name

    def _path(self, reference: str) -> str:
        store, _, name = reference.partition(":")
        if store != self.store_id or not _NAME.fullmatch(name):
            raise StagedLost("the staged output lies in another store")
        return self._prefix + name

    def _scan(self) -> list[StagedEntry]:
        now, found = time.time(), []
        with os.scandir(self.root) as listing:
            for item in listing:
                if (named := _NAME.fullmatch(item.name)) is None:
                    continue
                with suppress(FileNotFoundError):
                    state = item.stat(follow_symlinks=False)
                    reference = f"{self.store_id}:{item.name}"
                    age = max(0.0, now - state.st_mtime)
                    found.append(StagedEntry(reference, UUID(item.name[:32]), int(named["tenant"]), state.st_size, age))
        return found

    def _probe(self) -> None:
        path = self.root / f"{_PROBE}-{os.getpid()}"
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            try:
                os.write(descriptor, bytes(INLINE_BYTES))
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        finally:
            path.unlink(missing_ok=True)


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
    named = _NAME.fullmatch(os.path.basename(path))
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
