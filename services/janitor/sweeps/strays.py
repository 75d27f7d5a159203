"""Strays: staged files that nobody needs any longer.

An executor removes what it uploaded; what a dead one left behind, finished or not, is removed here once its task is
over and no dead task names it. A file of an open task is never touched: it may be recorded in the next moment.
"""

from __future__ import annotations

from typing import Final

from libs.common.ports_audit import StagedListing
from libs.common.ports_sweeps import Sweeps
from libs.common.runtime.failpoints import failpoint
from services.janitor.report import did
from services.janitor.staged import remove_staged

_AGE_SECONDS: Final = 60.0
_PAGE: Final = 1_000
#: Pages a round: each costs a look at all open tasks.
_PAGES: Final = 5


class Strays:
    """Cleans the staging store that this janitor can reach, in the order of the files' names."""

    def __init__(self, sweeps: Sweeps, staging: StagedListing) -> None:
        self._sweeps = sweeps
        self._staging = staging
        self._after = ""

    async def sweep(self) -> int:
        """One round; returns how many files went."""
        old = [entry for entry in await self._staging.entries() if entry.age > _AGE_SECONDS]
        old = sorted((entry for entry in old if entry.reference > self._after), key=lambda entry: entry.reference)
        looked = old[: _PAGE * _PAGES]
        self._after = looked[-1].reference if len(old) > len(looked) else ""
        gone = 0
        for start in range(0, len(looked), _PAGE):
            page = looked[start : start + _PAGE]
            needed = await self._sweeps.needed_staged([(entry.reference, entry.task) for entry in page])
            strays = [entry.reference for entry in page if entry.reference not in needed]
            if strays:
                await failpoint("janitor/before-delete")
            gone += await remove_staged(self._staging, strays)
        return did("strays", gone)
