"""Whose turn it is when there is less room than there are arrivals."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from libs.common.domain.model import Model
from libs.common.domain.task import Phase
from services.executor.admission.slots import Slots


@dataclass(slots=True, eq=False)
class Arrival:
    """A message of one of our partitions: what claiming it needs. The model is the topic's, not the message's.

    A doubtful one is likely to be stale: it is older than our reading of its partition.
    """

    id: int
    lease: int
    size: int
    phase: Phase
    model: Model
    doubtful: bool = False
    held_at: float = 0.0

    @property
    def lane(self) -> int:
        return self.model.lane

    @property
    def tenant(self) -> int:
        return self.model.tenant_id

    @property
    def needs_permit(self) -> bool:
        """Only a call that begins needs one: a provider's job has its own, and what is generated is only uploaded."""
        return self.phase is Phase.NONE


class Rotation:
    """Tenants take turns, and inside a tenant its lanes; inside a lane first come, first served.

    Never first in, first out over all: a tenant with many lanes would take every slot. A tenant's uploads come before
    its calls: they are nearly done.
    """

    def __init__(self) -> None:
        self._last_tenant = -1
        self._last_lane: dict[int, int] = {}  #: by tenant

    def choose(self, arrivals: Sequence[Arrival], slots: Slots) -> tuple[list[Arrival], list[Arrival]]:
        """Take slots for those whose turn it is; returns them, and the others."""
        chosen: list[Arrival] = []
        tenants = self._by_turn(arrivals)
        while tenants:
            tenant, lanes = tenants.popleft()
            if not slots.take(tenant):
                continue  # slots only become fewer here: it gets none in this round
            waiting = lanes.popleft()
            chosen.append(waiting.popleft())
            self._last_tenant, self._last_lane[tenant] = tenant, chosen[-1].lane
            if waiting:
                lanes.append(waiting)
            if lanes:
                tenants.append((tenant, lanes))
        taken = set(chosen)
        return chosen, [arrival for arrival in arrivals if arrival not in taken]

    def _by_turn(self, arrivals: Sequence[Arrival]) -> deque[tuple[int, deque[deque[Arrival]]]]:
        """Tenants in the order of their numbers, beginning after the one that was served last; so their lanes."""
        by_tenant: dict[int, dict[int, deque[Arrival]]] = {}
        for arrival in sorted(arrivals, key=lambda arrival: arrival.needs_permit):
            lanes = by_tenant.setdefault(arrival.tenant, {})
            lanes.setdefault(arrival.lane, deque()).append(arrival)
        order = sorted(by_tenant, key=lambda tenant: (tenant <= self._last_tenant, tenant))
        return deque((tenant, self._lanes(tenant, by_tenant[tenant])) for tenant in order)

    def _lanes(self, tenant: int, lanes: dict[int, deque[Arrival]]) -> deque[deque[Arrival]]:
        last = self._last_lane.get(tenant, -1)
        order = sorted(lanes, key=lambda lane: (lanes[lane][0].needs_permit, lane <= last, lane))
        return deque(lanes[lane] for lane in order)
