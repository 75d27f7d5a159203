"""What goes back to Redis once PostgreSQL has committed: gate slots and permits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final
from uuid import UUID

from libs.common.domain.errors import GateUnavailable, OutcomeUnknown, Unavailable
from libs.common.operations.by_lane import Place, kept_by_lane, members_of_lanes
from libs.common.operations.owners import Absent
from libs.common.ports import Permits, QueueGate
from libs.common.ports_sweeps import LostAttempt, OverdueAttempt
from libs.common.runtime.logging import get_logger

log = get_logger()

#: More than this waits for no Redis: reconcile finds the rest.
_MOST: Final = 100_000
_SHOWN: Final = 20


class Returns:
    """Gives slots and permits back. While Redis is away they wait here, and go with the next call.

    Losing them (this process dies) costs time, never a task: reconcile gives back what no open task owns. A permit is
    its attempt's. A slot is its task's: one that had to wait goes only if PostgreSQL says that no open task owns it,
    since a retry or a replay in any process may have found it in place and gone on with it.
    """

    def __init__(self, gate: QueueGate, permits: Permits, absent: Absent) -> None:
        self._gate = gate
        self._permits = permits
        self._absent = absent
        self._slots_waiting: dict[Place, None] = {}
        self._permits_waiting: dict[Place, None] = {}
        self._calls = 0  #: that are at slots which had to wait

    async def give(self, *, slots: Iterable[Place] = (), permits: Iterable[Place] = ()) -> None:
        """Give these back, now or as soon as Redis answers."""
        self._permits_waiting.update(dict.fromkeys(permits))
        fresh = dict.fromkeys(slots)
        if not await self.flush():
            self._keep(fresh, {})
        elif fresh:
            try:
                await self._gate.release_many(list(fresh))
            except GateUnavailable as error:
                log.warning("returns.kept", slots=len(fresh), message=str(error))
                self._keep(fresh, {})

    async def give_both(self, over: Sequence[LostAttempt | OverdueAttempt]) -> None:
        """Give back slot and permit of each of these attempts."""
        await self.give(
            slots=[(attempt.lane, str(attempt.public_id)) for attempt in over],
            permits=[(attempt.lane, str(attempt.token)) for attempt in over],
        )

    async def flush(self) -> bool:
        """Give back what waits; False while Redis, or PostgreSQL where it has to be asked, is away, and while another
        call is at it.

        What belongs to a lane that alone cannot be answered for waits on and holds nobody up: no task takes a slot
        there meanwhile.
        """
        at_slots = bool(self._slots_waiting)
        self._calls += at_slots
        try:
            given = await self._give_waiting()
        finally:
            self._calls -= at_slots
        return given and not self._calls

    async def _give_waiting(self) -> bool:
        # Swapped out first: sweeps run side by side, and giving back twice would be harmless but not free.
        slots, self._slots_waiting = self._slots_waiting, {}
        permits, self._permits_waiting = self._permits_waiting, {}
        try:
            permits = await kept_by_lane(self._permits.release_many, list(permits))
            slots = await kept_by_lane(self._gate.release_many, await self._unowned(slots)) if slots else slots
        except (Unavailable, OutcomeUnknown) as error:
            log.warning("returns.kept", slots=len(slots), permits=len(permits), message=str(error))
            self._keep(slots, permits)
            return False
        if slots or permits:
            log.warning("returns.kept_of_lanes", lanes=sorted({lane for lane, _ in (*slots, *permits)})[:_SHOWN])
            self._keep(slots, permits)
        return True

    async def _unowned(self, slots: Iterable[Place]) -> list[Place]:
        lanes = members_of_lanes((lane, UUID(member)) for lane, member in slots)
        return [(lane, str(member)) for lane, of in lanes.items() for member in await self._absent(lane, of)]

    def _keep(self, slots: dict[Place, None], permits: dict[Place, None]) -> None:
        self._slots_waiting = dict(list({**slots, **self._slots_waiting}.items())[-_MOST:])
        self._permits_waiting = dict(list({**permits, **self._permits_waiting}.items())[-_MOST:])
