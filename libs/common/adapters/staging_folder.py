"""The folder of a staging store: how much lies in it, whose it is, and when it takes nothing more."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar
from uuid import UUID

from libs.common.adapters.disk_sync import DiskSync
from libs.common.domain.model_errors import StagingFull, StagingShareFull
from libs.common.domain.output import IN_DATABASE
from libs.common.runtime.threads import open_pool

_Made = TypeVar("_Made")

#: Names are made by Staging and only there; anything else in a reference points outside or at nothing of ours.
NAME: Final = re.compile(r"[0-9a-f]{32}-[0-9]{1,10}-(?P<tenant>-?[0-9]{1,19})-[0-9a-f]{8}(?:\.part)?")

_PROBE: Final = ".probe"
_PROBE_BYTES: Final = 64 * 1024
_THREADS: Final = 4
#: A store of which so much is in use is full.
_FULL: Final = 15 / 16
_STORE_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True)
class StagedEntry:
    """A file as it lies in the store, finished or not; `age` in seconds since its last write, `task` whose it is."""

    reference: str
    task: UUID
    tenant: int
    size: int
    age: float


class StagingFolder:
    """A folder that several processes may share: in use is what `measure` found, and what this process did since.

    A tenant that has as much in it as is free begins no more: alone it has half, and the next one finds room, however
    long the first one's outputs stay. What it has begun may go on until it has twice as much as is free: alone two
    thirds, the most that an output, or the set of one job's outputs, can have.
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

    def begin(self, tenant: int) -> None:
        """Raises StagingFull unless a tenant may begin an output."""
        self._check(tenant, self._max_total_bytes - self._usage)

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

    def _scan(self) -> list[StagedEntry]:
        now, found = time.time(), []
        with os.scandir(self.root) as listing:
            for item in listing:
                if (named := NAME.fullmatch(item.name)) is None:
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
                os.write(descriptor, bytes(_PROBE_BYTES))
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        finally:
            path.unlink(missing_ok=True)
