"""Making files durable, many with one turn of a thread."""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
from contextlib import suppress
from typing import Any, Final, TypeAlias

from libs.common.runtime.coalescer import Coalescer
from libs.common.runtime.threads import open_pool

_Kept: TypeAlias = tuple[int | None, tuple[str, ...]]

_CLOSE_SECONDS: Final = 10.0
#: From so many files on, one call for the file system costs less than a call each, and hardly takes longer.
_TOGETHER: Final = 4


def _find_syncfs() -> Any:
    """None but on Linux from 5.8 on: before that, syncfs kept write errors to itself."""
    if sys.platform != "linux":
        return None
    major, minor = (int(part) for part in os.uname().release.split(".")[:2])
    return getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None) if (major, minor) >= (5, 8) else None


_SYNCFS: Final = _find_syncfs()


class DiskSync:
    """fsync for an event loop: it blocks for a disk's whole latency, so a thread does it, for all that wait at once.

    Several files together are synced by one call for their file system, where Linux offers it (measured on ext4, files
    of 2 KB by thirties: 7 us of CPU each beside their creation, and 90 by a call each). Whatever else is waiting to be
    written on that file system is written then, too.
    """

    def __init__(self) -> None:
        self._pool = open_pool(1, "disk-sync")
        self._coalescer: Coalescer[_Kept, OSError | None] = Coalescer(self._flush)

    async def keep(self, descriptor: int | None, *folders: str) -> None:
        """Return once the file, which lies in one of these folders, and their entries are on disk.

        Takes over the descriptor.

        Raises OSError when the disk refuses.
        """
        error = await self._coalescer.submit((descriptor, folders))
        if error is not None:
            raise error

    async def close(self) -> None:
        """Finish what was asked for."""
        await self._coalescer.close(_CLOSE_SECONDS)
        self._pool.shutdown(wait=False)

    async def _flush(self, batch: list[_Kept]) -> list[OSError | None]:
        syncing = asyncio.get_running_loop().run_in_executor(self._pool, _sync, batch)
        # Closed here, not in the thread: for each call it would take the interpreter from the loop and give it back
        # (4.5 futex calls a task in a flood of small results, 0.7 like this). Shielded: a flush that is cut off must
        # not close what the thread is at.
        syncing.add_done_callback(lambda _: _close(batch))
        return await asyncio.shield(syncing)


def _sync(batch: list[_Kept]) -> list[OSError | None]:
    if _SYNCFS is not None and len(batch) >= _TOGETHER:
        return _sync_file_systems(batch)
    outcomes = [_sync_file(descriptor) for descriptor, _ in batch]
    folders = {folder: _sync_folder(folder) for _, kept in batch for folder in kept}
    return [outcome or _first(folders, kept) for outcome, (_, kept) in zip(outcomes, batch, strict=True)]


def _sync_file_systems(batch: list[_Kept]) -> list[OSError | None]:
    """One call for each file system that the folders are on; a failed one is everybody's failure there."""
    folders: dict[str, OSError | None] = {}
    devices: dict[int, OSError | None] = {}
    for folder in {folder for _, kept in batch for folder in kept}:
        try:
            opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            folders[folder] = error
            continue
        try:
            device = os.fstat(opened).st_dev
            if device not in devices:
                devices[device] = _sync_file_system(opened)
            folders[folder] = devices[device]
        finally:
            os.close(opened)
    return [_first(folders, kept) for _, kept in batch]


def _first(folders: dict[str, OSError | None], kept: tuple[str, ...]) -> OSError | None:
    """What went wrong with these folders, if anything did."""
    return next((folders[folder] for folder in kept if folders[folder]), None)


def _sync_file_system(descriptor: int) -> OSError | None:
    assert _SYNCFS is not None
    if _SYNCFS(descriptor) == 0:
        return None
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


def _sync_file(descriptor: int | None) -> OSError | None:
    if descriptor is None:
        return None
    try:
        os.fsync(descriptor)
    except OSError as error:
        return error
    return None


def _close(batch: list[_Kept]) -> None:
    for descriptor, _ in batch:
        if descriptor is not None:
            with suppress(OSError):
                os.close(descriptor)


def _sync_folder(folder: str) -> OSError | None:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        return error
    try:
        return _sync_file(descriptor)
    finally:
        os.close(descriptor)
