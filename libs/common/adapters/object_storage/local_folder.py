"""Results in a folder of this machine, taken over from staging without copying them."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from libs.common.adapters.disk_sync import DiskSync

#: The staging folder lies on another disk, or on one without hard links.
_CANNOT_LINK: Final = frozenset({errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS})


class LocalFolder:
    """The folder of a file:// store.

    A staged output on the same disk becomes a result by a second name for the same file: no byte is copied or written
    to disk again (measured for 2 KB: 60 us, and 200 us and more as a copy). Staged files are never written to after
    they were committed, so the result cannot change when the first name is deleted.
    """

    def __init__(self, root: Path, disk: DiskSync | None) -> None:
        self._prefix = os.path.join(root, "")
        self._disk = disk

    async def take(self, staged: str, key: str) -> bool:
        """Give the staged file its final name, in place of an older object of that name; False where that cannot be.

        With a disk the names are on it when this returns. Raises OSError.
        """
        folder, _, name = key.rpartition("/")
        folder = self._prefix + folder
        try:
            _make(folder)
            _link(staged, folder, name)
        except OSError as error:
            if error.errno in _CANNOT_LINK:
                return False
            raise
        if self._disk is not None:
            await self._disk.keep(None, folder, os.path.dirname(folder))
        return True


def _make(folder: str) -> None:
    """A task has a folder of its own, so it is new as a rule and nothing needs to be looked up first."""
    try:
        os.mkdir(folder)
    except FileExistsError:
        return
    except FileNotFoundError:
        os.makedirs(folder, exist_ok=True)


def _link(staged: str, folder: str, name: str) -> None:
    target = f"{folder}/{name}"
    try:
        os.link(staged, target)
    except FileExistsError:  # an earlier upload of the same attempt, whose end was never recorded
        if not os.path.samefile(staged, target):
            _replace(staged, target, beside=f"{folder}/.{name}.{os.urandom(4).hex()}")


def _replace(staged: str, target: str, beside: str) -> None:
    os.link(staged, beside)
    try:
        os.rename(beside, target)
    except OSError:
        with suppress(OSError):
            os.unlink(beside)
        raise
