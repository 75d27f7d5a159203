"""Strays: staged files that nobody needs any longer.

An executor removes what it uploaded; what a dead one left behind is removed here, once its task is over and no dead task
names it. Files that were never finished go after the longest time that a call may last.
"""

from __future__ import annotations

from typing import Final

from libs.common.domain.model import DAY_SECONDS
from libs.common.domain.model_errors import StagedLost
from libs.common.ports_audit import StagedListing
from libs.common.ports_sweeps import Sweeps
from libs.common.runtime.failpoints import failpoint
from libs.common.runtime.logging import get_logger
from services.janitor.report import did

log = get_logger()

#: Long enough for an executor to record what it staged, an outage of PostgreSQL's included (the task is open then).
_FINISHED_SECONDS: Final = 600.0
#: A call lasts a day at most (its timeout's ceiling), and its file may grow all the while.
_UNFINISHED_SECONDS: Final = DAY_SECONDS + 3_600.0
_PAGE: Final = 1_000


class Strays:
    """Cleans the staging store that this janitor can reach."""

    def __init__(self, sweeps: Sweeps, staging: StagedListing) -> None:
        self._sweeps = sweeps
        self._staging = staging

    async def sweep(self) -> int:
        """One round; returns how many files went."""
        entries = await self._staging.entries()
        gone = [entry for entry in entries if not entry.finished and entry.age > _UNFINISHED_SECONDS]
        old = [entry for entry in entries if entry.finished and entry.age > _FINISHED_SECONDS]
        for start in range(0, len(old), _PAGE):
            page = old[start : start + _PAGE]
            needed = await self._sweeps.needed_staged([(entry.reference, entry.task) for entry in page])
            gone += [entry for entry in page if entry.reference not in needed]
        if gone:
            await failpoint("janitor/before-delete")
        for entry in gone:
            try:
                await self._staging.remove(entry.reference)
            except (OSError, StagedLost) as error:
                log.warning("staged.not_removed", reference=entry.reference, error=type(error).__name__)
        return did("strays", len(gone))
