"""What goes back to Redis once PostgreSQL has committed: gate slots and permits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from libs.common.domain.errors import GateUnavailable
from libs.common.ports import Permits, QueueGate
from libs.common.runtime.logging import get_logger

log = get_logger()

Place = tuple[int, str]

#: More than this waits for no Redis: reconcile finds the rest.
_MOST: Final = 100_000


class Returns:
    """Gives slots and permits back. While Redis is away they wait here, and go with the next call.

    Losing them (this process dies) costs time, never a task: reconcile gives back what no open task owns.
    """

    def __init__(self, gate: QueueGate, permits: Permits) -> None:
        self._gate = gate
        self._permits = permits
        self._slots_waiting: dict[Place, None] = {}
        self._permits_waiting: dict[Place, None] = {}

    async def give(self, *, slots: Iterable[Place] = (), permits: Iterable[Place] = ()) -> None:
        """Give these back, now or as soon as Redis answers."""
        self._slots_waiting.update(dict.fromkeys(slots))
        self._permits_waiting.update(dict.fromkeys(permits))
        await self.flush()

    async def flush(self) -> bool:
        """Give back what waits; False while Redis is away."""
        # Swapped out first: sweeps run side by side, and giving back twice would be harmless but not free.
        slots, self._slots_waiting = self._slots_waiting, {}
        permits, self._permits_waiting = self._permits_waiting, {}
        try:
            if permits:
                await self._permits.release_many(list(permits))
                permits = {}
            if slots:
                await self._gate.release_many(list(slots))
        except GateUnavailable as error:
            log.warning("returns.kept", slots=len(slots), permits=len(permits), message=str(error))
            self._keep(slots, permits)
            return False
        return True

    def _keep(self, slots: dict[Place, None], permits: dict[Place, None]) -> None:
        self._slots_waiting = dict(list({**slots, **self._slots_waiting}.items())[-_MOST:])
        self._permits_waiting = dict(list({**permits, **self._permits_waiting}.items())[-_MOST:])
