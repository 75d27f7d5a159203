"""Operations: the log of creates is complete for what was accepted, and no longer than it must be.

An API process writes its entries within 200 ms; one that is killed before leaves tasks without. They are found by
walking up to a mark, each task once: the mark is set to the newest task, and moved on when every transaction that ran
then is over, so that no task can appear behind it. A task is not cleaned before the walk has passed it.
"""

from __future__ import annotations

from typing import Final

from libs.common.ports_sweeps import Sweeps
from libs.common.runtime.failpoints import failpoint
from services.janitor.report import did

_PAGE: Final = 2_000
_PAGES: Final = 20
#: An API process that lives has written its entries by then.
_LATEST_SECONDS: Final = 5.0


class Operations:
    """Fills and prunes the operation log."""

    def __init__(self, sweeps: Sweeps, *, days: int) -> None:
        self._sweeps = sweeps
        self._days = days
        self._after = 0

    async def fill(self) -> int:
        """One round; returns how many entries were missing."""
        await failpoint("janitor/before-operations")
        missing = 0
        for _ in range(_PAGES):
            filled, more = await self._sweeps.fill_operations(_PAGE, _LATEST_SECONDS)
            missing += filled
            if not more:
                break
        await failpoint("janitor/before-operations")
        await self._sweeps.mark_operations()
        return did("operations", missing)

    async def prune(self) -> int:
        """Some pages of the log; returns how many entries went. The walk begins again when what follows is young."""
        gone = 0
        for _ in range(_PAGES):
            await failpoint("janitor/before-prune")
            page, following = await self._sweeps.prune_operations(self._days, self._after, _PAGE)
            gone += page
            self._after = following or 0
            if following is None:
                break
        return did("operations-pruned", gone)
