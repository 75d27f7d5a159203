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
        self._root = root
        self._disk = disk

    def path(self, key: str) -> Path:
        """Where the object of a key lies."""
        return self._root / key

    async def take(self, staged: Path, key: str) -> bool:
        """Give the staged file its final name, in place of an older object of that name; False where that cannot be.

        With a disk the names are on it when this returns. Raises OSError.
        """
        target = self._root / key
        try:
            _link(staged, target)
        except OSError as error:
            if error.errno in _CANNOT_LINK:
                return False
            raise
        if self._disk is not None:
            await self._disk.keep(None, target.parent, target.parent.parent)
        return True


def _link(staged: Path, target: Path) -> None:
    try:
        os.link(staged, target)
    except FileNotFoundError:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(staged, target)
    except FileExistsError:
        if not target.samefile(staged):
            _replace(staged, target)


def _replace(staged: Path, target: Path) -> None:
    """An earlier upload of the same attempt, whose end was never recorded."""
    beside = target.with_name(f".{target.name}.{os.urandom(4).hex()}")
    os.link(staged, beside)
    try:
        os.rename(beside, target)
    finally:
        with suppress(FileNotFoundError):
            beside.unlink()
