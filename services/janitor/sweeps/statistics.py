"""Statistics: counted calls move into the daily table."""

from __future__ import annotations

from typing import Final

from libs.common.ports_sweeps import Sweeps
from libs.common.runtime.failpoints import failpoint
from services.janitor.report import did

_PAGE: Final = 5_000
_PAGES: Final = 20


class Statistics:
    """Folds the counts; each is taken and added in one statement, so that it counts once."""

    def __init__(self, sweeps: Sweeps) -> None:
        self._sweeps = sweeps

    async def sweep(self) -> int:
        """One round; returns how many counts were moved."""
        moved = 0
        for _ in range(_PAGES):
            await failpoint("janitor/before-statistics")
            page = await self._sweeps.fold_statistics(_PAGE)
            moved += page
            if page < _PAGE:
                break
        return did("statistics", moved)
