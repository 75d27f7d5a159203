"""Results and staged files: what a success promises is there as recorded, and nothing is left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Final

from libs.common.domain.errors import StorageUnavailable
from libs.common.domain.model_errors import StagedLost
from libs.common.operations.audit_findings import Findings, Fix, Violation
from libs.common.ports_audit import AuditedTasks, Objects, Promise, PromisedFile, StagedListing, StagedOwners

_AT_ONCE: Final = 8
_PAGE: Final = 1_000
#: The janitor looks every minute at what is older than one.
GRACE_SECONDS: Final = 180.0


class ResultChecks:
    """I17 and I19: reads every object to its end. Results that somebody else's file service keeps cannot be read, and
    their recorded size is what that service said: it may have packed or converted what it was given.
    """

    name = "objects"

    def __init__(self, tasks: AuditedTasks, objects: Objects) -> None:
        self._tasks = tasks
        self._objects = objects

    async def run(self, found: Findings) -> None:
        for invariant in ("I17", "I19"):
            found.looked(invariant, 0)
        async for part in self._tasks.slices():
            promises = await self._tasks.promises(part)
            for start in range(0, len(promises), _AT_ONCE):
                await asyncio.gather(*(self._check(promise, found) for promise in promises[start : start + _AT_ONCE]))

    async def _check(self, promise: Promise, found: Findings) -> None:
        found.looked("I19")
        subject = str(promise.public_id)
        first = promise.files[0] if promise.files else None
        if first is None or first.url != promise.oss_file or first.size != promise.file_size:
            found.add(Violation("I19", subject, "a success whose row and list of files differ"))
        ours = [file for file in promise.files if self._objects.holds(file.url)]
        recorded = sum(file.size or 0 for file in ours)
        if ours and len(ours) == len(promise.files) and promise.staged_size not in (None, recorded):
            found.add(Violation("I17", subject, f"{promise.staged_size} bytes were staged, {recorded} are recorded"))
        for file in ours:
            await self._compare(subject, file, found)

    async def _compare(self, subject: str, file: PromisedFile, found: Findings) -> None:
        found.looked("I17")
        there = await self._objects.find(file.url)
        if there is None:
            found.add(Violation("I19", subject, f"its result is gone: {file.url}"))
        elif there.size != file.size:
            detail = f"its result has {there.size} bytes, {file.size} are recorded: {file.url}"
            found.add(Violation("I19", subject, detail))
        elif file.sha256 and there.sha256 != file.sha256:
            found.add(Violation("I17", subject, f"its result is not what was staged, the hash differs: {file.url}"))


class StagingChecks:
    """I20: staged files belong to open tasks, or wait for a replay of dead ones."""

    name = "staging"

    def __init__(self, owners: StagedOwners, staging: StagedListing) -> None:
        self._owners = owners
        self._staging = staging

    async def run(self, found: Findings) -> None:
        try:
            entries = await self._staging.entries()
        except OSError as error:
            raise unreadable(error) from error
        found.looked("I20", len(entries))
        old = [entry for entry in entries if entry.age > GRACE_SECONDS]
        for start in range(0, len(old), _PAGE):
            page = old[start : start + _PAGE]
            needed = await self._owners.needed_staged([(entry.reference, entry.task) for entry in page])
            self._report([entry.reference for entry in page if entry.reference not in needed], found)

    def _report(self, strays: Sequence[str], found: Findings) -> None:
        for reference in strays:
            remove: Fix = partial(_remove, self._staging, reference)
            found.add(Violation("I20", reference, "a staged file that no task needs", "delete the file", remove))


class StoreAway:
    """What stands for the checks of a store that could not even be opened."""

    def __init__(self, name: str, cause: StorageUnavailable) -> None:
        self.name = name
        self._cause = cause

    async def run(self, found: Findings) -> None:
        raise self._cause


def unreadable(error: OSError) -> StorageUnavailable:
    """The staging folder is another account's, or no folder."""
    return StorageUnavailable(f"the staging folder {error.filename or ''} cannot be read: {error.strerror}")


async def _remove(staging: StagedListing, reference: str) -> bool:
    try:
        await staging.remove(reference)
    except (OSError, StagedLost):
        return False  # its folder is another account's, or lies on another machine
    return True
