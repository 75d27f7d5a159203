"""Results in a folder of this machine: small ones written there, large ones taken over from staging without a copy."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from libs.common.adapters.staging import Staging
from libs.common.adapters.staging_writer import write_all
from libs.common.domain.output import IN_DATABASE, StagedFile

#: The staging folder lies on another disk, or on one without hard links.
_CANNOT_LINK: Final = frozenset({errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS})
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class LocalFolder:
    """The folder of a file:// store.

    A staged file on the same disk becomes a result by a second name for the same file: no byte is copied or written to
    disk again. Staged files are never written to after they were committed, so the result cannot change when the first
    name is deleted.
    """

    def __init__(self, root: Path, staging: Staging) -> None:
        self._prefix = os.path.join(root, "")
        self._staging = staging

    async def keep(self, staged: StagedFile, key: str) -> bool:
        """Give the output its final name, in place of an older object of that name; False where that cannot be.

        It is on disk when this returns. Raises OSError, and StagedLost.
        """
        target = self._prefix + key
        descriptor: int | None = None
        if staged.reference == IN_DATABASE:
            descriptor = _write(target, await self._staging.read(staged))
        else:
            path = await self._staging.verified_path(staged)
            try:
                _link(path, target)
            except OSError as error:
                if error.errno in _CANNOT_LINK:
                    return False
                raise
        await self._staging.disk.keep(descriptor, os.path.dirname(target))
        return True

    async def sync(self, key: str) -> None:
        """See to it that an object which was written here by others is on disk. Raises OSError."""
        target = self._prefix + key
        await self._staging.disk.keep(os.open(target, os.O_RDONLY | os.O_CLOEXEC), os.path.dirname(target))


def _write(target: str, content: bytes) -> int:
    """Write a result and leave it open. Nobody knows its name before its end is recorded."""
    try:
        return _new(target, content)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        return _write(target, content)
    except FileExistsError:  # an earlier upload of the same attempt, whose end was never recorded
        beside = _beside(target)
        descriptor = _new(beside, content)
        try:
            _replace(beside, target)
        except OSError:
            os.close(descriptor)
            raise
        return descriptor


def _new(path: str, content: bytes) -> int:
    descriptor = os.open(path, _CREATE, 0o644)
    try:
        write_all(descriptor, content)
    except OSError:
        # Each try would leave another one on a disk that is full already. Not what somebody else has put there since.
        with suppress(OSError):
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                os.unlink(path)
        os.close(descriptor)
        raise
    return descriptor


def _link(staged: str, target: str) -> None:
    try:
        os.link(staged, target)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.link(staged, target)
    except FileExistsError:
        if not os.path.samefile(staged, target):
            beside = _beside(target)
            os.link(staged, beside)
            _replace(beside, target)


def _beside(target: str) -> str:
    folder, name = os.path.split(target)
    return f"{folder}/.{name}.{os.urandom(4).hex()}"


def _replace(beside: str, target: str) -> None:
    try:
        os.rename(beside, target)
    except OSError:
        with suppress(OSError):
            os.unlink(beside)
        raise
