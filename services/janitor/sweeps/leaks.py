"""Leaks: slots and permits that no open task owns go back.

A process that died between Redis and PostgreSQL leaves a place behind that nobody owns. It would lapse, but a slot
lives for an hour. Only what PostgreSQL did not know in two looks far enough apart (APART_SECONDS), nor right before its
removal, is removed.

The lanes are visited in turn, and a round goes on until the turn is over, or it has asked for a fixed number of places
and lanes, also in the middle of a lane; so a million open tasks make the turn longer, never a round.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from libs.common.domain.errors import GateUnavailable, LaneUnavailable
from libs.common.operations.by_lane import counted_by_lane
from libs.common.operations.owners import Absent, Places, unowned
from libs.common.ports import Permits, QueueGate
from libs.common.ports_sweeps import APART_SECONDS, Sweeps
from libs.common.runtime.failpoints import failpoint
from services.janitor.report import did

_LANES: Final = 500
_PAGE: Final = 1_000
#: Places that a round reads, and lanes of which it counts them: some 0.1 s of PostgreSQL, or of Redis.
_BUDGET: Final = 10_000
#: Suspects that one lane may have at a time.
_SUSPECTS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Kind:
    """Slots or permits: how they are counted, where they are, and which of them nobody owns."""

    name: str
    count: Callable[[Sequence[int]], Awaitable[list[int]]]
    places: Places
    absent: Absent


def slots(sweeps: Sweeps, gate: QueueGate) -> Kind:
    """Gate slots, owned by open tasks."""
    return Kind("slots-freed", gate.depths, gate, sweeps.absent_slots)


def permits(sweeps: Sweeps, semaphore: Permits) -> Kind:
    """Permits, owned by running attempts."""
    return Kind("permits-freed", semaphore.in_use, semaphore, sweeps.absent_permits)


@dataclass(slots=True)
class _Visit:
    """A lane in the middle of which the last round stopped."""

    lane: int
    cursor: int = 0
    absent: set[str] = field(default_factory=set)


class Leaks:
    """Finds and frees leaked places of one kind."""

    def __init__(self, sweeps: Sweeps, kind: Kind, clock: Callable[[], float] = time.monotonic) -> None:
        self._sweeps = sweeps
        self._kind = kind
        self._clock = clock
        self._after = 0
        self._lanes: list[int] = []
        self._visit: _Visit | None = None
        self._suspects: dict[int, dict[str, float]] = {}

    async def sweep(self) -> int:
        """One round; returns how many places were freed. Ends early while Redis is away."""
        budget, freed = _BUDGET, 0
        await failpoint("janitor/before-reconcile")
        try:
            last = self._visiting and self._after == 0
            while budget > 0 and (self._visiting or not last):
                if not self._visiting:
                    budget -= await self._next_lanes()
                    last = self._after == 0
                    continue
                visit = self._visit = self._visit or _Visit(self._lanes.pop(0))
                try:
                    budget -= await self._read(visit)
                    if visit.cursor == 0:
                        self._visit = None
                        freed += await self._judge(visit)
                except LaneUnavailable:  # its own trouble: the next lane
                    self._visit = None
                    budget -= 1
        except GateUnavailable:
            self._visit = None
        return did(self._kind.name, freed)

    @property
    def _visiting(self) -> bool:
        return self._visit is not None or bool(self._lanes)

    async def _next_lanes(self) -> int:
        """The next lanes that have any place taken; returns how many were looked at."""
        page = await self._sweeps.lanes_page(self._after, _LANES)
        self._after = page[-1] if len(page) == _LANES else 0
        if page:
            self._lanes = await self._taken(page)
            for lane in set(page).difference(self._lanes):
                self._suspects.pop(lane, None)
        return len(page)

    async def _taken(self, lanes: list[int]) -> list[int]:
        try:
            numbers = await counted_by_lane(self._kind.count, lanes)
        except GateUnavailable:
            return lanes
        return [lane for lane, number in zip(lanes, numbers, strict=True) if number]

    async def _read(self, visit: _Visit) -> int:
        visit.cursor, page = await self._kind.places.members(visit.lane, visit.cursor, _PAGE)
        visit.absent.update(await unowned(self._kind.absent, visit.lane, page))
        return max(len(page), 1)

    async def _judge(self, visit: _Visit) -> int:
        now, known = self._clock(), self._suspects.pop(visit.lane, {})
        suspects = {member: known.get(member, now) for member in sorted(visit.absent)[:_SUSPECTS]}
        old = [member for member, since in suspects.items() if now - since >= APART_SECONDS]
        # A large lane was read minutes ago, and a retry goes on with the slot that its task left behind: asked again.
        leaked = await unowned(self._kind.absent, visit.lane, old)
        if leaked:
            await self._kind.places.release_many([(visit.lane, member) for member in leaked])
        waiting = {member: since for member, since in suspects.items() if now - since < APART_SECONDS}
        if waiting:
            self._suspects[visit.lane] = waiting
        return len(leaked)
