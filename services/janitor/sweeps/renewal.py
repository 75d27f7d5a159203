"""Renewal: every open task keeps its gate slot, and every running call its permit.

Slots lapse by themselves, so that a leak heals; this walk is why only leaks do. It goes through PostgreSQL's open tasks
in the order of their ids, a share a round, so that all have been visited well before half of a slot's life is over (an
hour at least). A place that is missing in Redis is put back, even past the limit: PostgreSQL wins. "Missing" is decided
in this order, because tasks end while we look: open by PostgreSQL, not there by Redis, still open by PostgreSQL.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final
from uuid import UUID

from libs.common.domain.errors import GateUnavailable
from libs.common.ports import OpenTaskSource, Permits, QueueGate
from libs.common.ports_sweeps import OpenSlot, Sweeps
from libs.common.runtime.failpoints import failpoint
from services.janitor.report import did

_PAGE: Final = 1_000
#: A walk takes at most this long: half of the shortest life of a slot is twice as long.
_WALK_SECONDS: Final = 900.0
#: Lanes that may fail in a round before Redis is taken for gone.
_PATIENCE: Final = 3


class SlotRenewal:
    """Renews the slots of open tasks."""

    def __init__(self, sweeps: Sweeps, gate: QueueGate, *, interval_seconds: float) -> None:
        self._sweeps = sweeps
        self._gate = gate
        self._rounds = max(1, int(_WALK_SECONDS / interval_seconds))
        self._after = 0
        self._walked = 0
        self._pages = 1

    async def sweep(self) -> int:
        """One share of the walk; returns how many missing slots were put back."""
        restored = 0
        for _ in range(self._pages):
            page = await self._sweeps.open_page(self._after, _PAGE)
            restored += await self._keep([slot for slot in page if slot.owns_slot])
            self._walked += len(page)
            if len(page) < _PAGE:
                self._begin_again()
                break
            self._after = page[-1].id
        return did("slots-restored", restored)

    def _begin_again(self) -> None:
        # The next walk has about as many tasks to visit as this one had, and the same time.
        self._pages = 1 + self._walked // (self._rounds * _PAGE)
        self._after = self._walked = 0

    async def _keep(self, slots: Sequence[OpenSlot]) -> int:
        restored = failures = 0
        for lane, members in _by_lane(slots).items():
            try:
                await self._gate.renew_many(lane, list(members), next(iter(members.values())))
                restored += await self._restore(lane, members)
            except GateUnavailable:
                failures += 1
                if failures >= _PATIENCE:
                    break
        return restored

    async def _restore(self, lane: int, members: dict[str, int]) -> int:
        missing = await self._gate.missing(lane, list(members))
        if not missing:
            return 0
        over = {str(member) for member in await self._sweeps.absent_slots(lane, [UUID(member) for member in missing])}
        still = [(member, members[member]) for member in missing if member not in over]
        if still:
            await failpoint("janitor/before-reconcile")
            await self._gate.restore(lane, still)
        return len(still)


class PermitRenewal:
    """Puts back permits that running attempts have lost. Nothing prolongs a permit: it lapses with its attempt."""

    def __init__(self, sweeps: Sweeps, permits: Permits, source: OpenTaskSource) -> None:
        self._sweeps = sweeps
        self._permits = permits
        self._source = source

    async def sweep(self) -> int:
        """One round over the lanes that have something in flight; returns how many permits were put back."""
        restored = failures = 0
        for figure in await self._sweeps.lane_figures():
            if figure.in_flight == 0:
                continue
            try:
                restored += await self._restore(figure.lane)
            except GateUnavailable:
                failures += 1
                if failures >= _PATIENCE:
                    break
        return did("permits-restored", restored)

    async def _restore(self, lane: int) -> int:
        live = dict(await self._source.live_permits(lane))
        missing = await self._permits.missing(lane, list(live)) if live else []
        if not missing:
            return 0
        over = {str(token) for token in await self._sweeps.absent_permits(lane, [UUID(token) for token in missing])}
        still = [(token, live[token]) for token in missing if token not in over]
        if still:
            await failpoint("janitor/before-reconcile")
            await self._permits.restore(lane, still)
        return len(still)


def _by_lane(slots: Iterable[OpenSlot]) -> dict[int, dict[str, int]]:
    lanes: dict[int, dict[str, int]] = {}
    for slot in slots:
        lanes.setdefault(slot.lane, {})[slot.member] = slot.ttl_ms
    return lanes
