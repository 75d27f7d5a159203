"""Renewal: every open task keeps its gate slot, and every running call its permit.

Slots lapse by themselves, so that a leak heals; this walk is why only leaks do. It goes through PostgreSQL's open tasks
in the order of their ids, a share a round, so that all have been visited well before half of a slot's life is over (an
hour at least), also when a janitor starts beside a million of them, or they become a million on the way. A place that
is missing in Redis is put back, even past the limit: PostgreSQL wins. "Missing" is decided in this order, because tasks
end while we look: open by PostgreSQL, not there by Redis, still open by PostgreSQL.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from libs.common.domain.errors import GateUnavailable
from libs.common.operations.owners import Absent, Places, unowned
from libs.common.ports import OpenTaskSource, Permits, QueueGate
from libs.common.ports_sweeps import OpenSlot, Sweeps
from libs.common.runtime.failpoints import failpoint
from services.janitor.report import did

_PAGE: Final = 1_000
#: A walk takes at most this long: half of the shortest life of a slot is twice as long.
_WALK_SECONDS: Final = 900.0
#: A walk that is late spreads its rest over this, because Redis and PostgreSQL have others to serve.
_LATE_SECONDS: Final = 90.0
#: What is left of a walk is counted this often: 0.1 to 0.4 s of PostgreSQL for a million rows.
_COUNT_SECONDS: Final = 60.0
#: Lanes that may fail in a round before Redis is taken for gone.
_PATIENCE: Final = 3


class SlotRenewal:
    """Renews the slots of open tasks."""

    def __init__(
        self,
        sweeps: Sweeps,
        gate: QueueGate,
        *,
        interval_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sweeps = sweeps
        self._gate = gate
        self._interval = interval_seconds
        self._clock = clock
        self._after = 0
        self._began = self._counted_at = 0.0
        self._left = 0  #: rows that the walk has still to visit

    async def sweep(self) -> int:
        """One share of the walk; returns how many missing slots were put back."""
        restored = 0
        for _ in range(await self._share()):
            page = await self._sweeps.open_page(self._after, _PAGE)
            restored += await self._keep([slot for slot in page if slot.owns_slot])
            self._left = max(0, self._left - len(page))
            if len(page) < _PAGE:
                self._after = 0
                break
            self._after = page[-1].id
        return did("slots-restored", restored)

    async def _share(self) -> int:
        """Pages of this round, with which the walk ends in time."""
        now = self._clock()
        if self._after == 0:
            self._began = now
        if self._after == 0 or now - self._counted_at >= _COUNT_SECONDS:
            self._left, self._counted_at = await self._sweeps.open_rows(self._after), now
        seconds = max(_LATE_SECONDS, self._began + _WALK_SECONDS - now)
        rounds = max(1, int(seconds / self._interval))
        return max(1, -(-self._left // (rounds * _PAGE)))

    async def _keep(self, slots: Sequence[OpenSlot]) -> int:
        restored = failures = 0
        for lane, members in _by_lane(slots).items():
            try:
                await self._gate.renew_many(lane, list(members), next(iter(members.values())))
                restored += await _put_back(self._gate, self._sweeps.absent_slots, lane, members)
            except GateUnavailable:
                failures += 1
                if failures >= _PATIENCE:
                    break
        return restored


class PermitRenewal:
    """Puts back permits that running attempts have lost. Nothing prolongs a permit: it lapses with its attempt."""

    def __init__(self, sweeps: Sweeps, permits: Permits, source: OpenTaskSource) -> None:
        self._sweeps = sweeps
        self._permits = permits
        self._source = source

    async def sweep(self) -> int:
        """One round over the lanes that have something in flight; returns how many permits were put back."""
        restored = failures = 0
        for lane in await self._sweeps.lanes_in_flight():
            try:
                live = dict(await self._source.live_permits(lane))
                restored += await _put_back(self._permits, self._sweeps.absent_permits, lane, live)
            except GateUnavailable:
                failures += 1
                if failures >= _PATIENCE:
                    break
        return did("permits-restored", restored)


async def _put_back(places: Places, absent: Absent, lane: int, members: Mapping[str, int]) -> int:
    """Put back those of these members (by how long each lives) that Redis lacks and PostgreSQL still knows."""
    missing = await places.missing(lane, list(members)) if members else []
    over = set(await unowned(absent, lane, missing))
    still = [(member, members[member]) for member in missing if member not in over]
    if still:
        await failpoint("janitor/before-reconcile")
        await places.restore(lane, still)
    return len(still)


def _by_lane(slots: Iterable[OpenSlot]) -> dict[int, dict[str, int]]:
    lanes: dict[int, dict[str, int]] = {}
    for slot in slots:
        lanes.setdefault(slot.lane, {})[slot.member] = slot.ttl_ms
    return lanes
