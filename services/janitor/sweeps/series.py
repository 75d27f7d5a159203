"""Series: ended attempts and the backlog become minutes and hours for plots.

Attempts are read by the time of their end, whole minutes at a time, and only once nothing can end in them any more; the
statement that writes a minute moves the mark behind it. So each attempt counts once, however many janitors fold, and
the hot path pays for nothing but an index that grows at its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from libs.common.domain.errors import GateUnavailable
from libs.common.operations.by_lane import counted_by_lane
from libs.common.operations.series import HOURS_KEPT_DAYS, MINUTES_KEPT_HOURS
from libs.common.ports import QueueGate
from libs.common.ports_insight import Backlog, SeriesStore
from libs.common.runtime.failpoints import failpoint
from services.janitor.report import did

#: Of a janitor that was away: so many minutes a statement, so many statements a round.
_MINUTES: Final = 5
_ROUNDS: Final = 100
_PAGE: Final = 5_000


class SeriesFold:
    """Folds and forgets."""

    def __init__(self, store: SeriesStore, gate: QueueGate) -> None:
        self._store = store
        self._gate = gate

    async def fold(self) -> int:
        """One round; returns how many times something was folded."""
        await failpoint("janitor/before-series")
        await self._store.begin()
        settled = await self._store.settled()
        if settled is None:
            return 0
        folded = 0
        backlog = await self._backlog()
        await failpoint("janitor/before-series")
        while folded < _ROUNDS and await self._store.fold_minutes(settled, _MINUTES, backlog):
            folded += 1
        await failpoint("janitor/before-series")
        while await self._store.fold_hour():
            folded += 1
        return folded

    async def prune(self) -> int:
        """One round; returns how many rows went."""
        await failpoint("janitor/before-prune")
        return did("series-pruned", await self._store.prune(MINUTES_KEPT_HOURS, HOURS_KEPT_DAYS, _PAGE))

    async def _backlog(self) -> list[tuple[Backlog, int | None]]:
        lanes = await self._store.backlogs()
        return list(zip(lanes, await self._waiting(lanes), strict=True))

    async def _waiting(self, lanes: Sequence[Backlog]) -> Sequence[int | None]:
        try:
            held = await counted_by_lane(self._gate.depths, [lane.lane for lane in lanes])
        except GateUnavailable:
            return [None] * len(lanes)
        return [
            None if slots is None else max(0, slots - lane.elsewhere) for slots, lane in zip(held, lanes, strict=True)
        ]
