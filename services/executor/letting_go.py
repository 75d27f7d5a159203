"""What goes back when an attempt ends: its permit, and the gate slot of its task.

Best effort, never in the way of a state change: what Redis does not take, lapses or is found by the reconcile. A permit
is named by its attempt's token, so giving it back late or twice frees nobody else's. A slot is named by its task, which
may take it again for a retry: it is given back once, at once, or not at all.
"""

from __future__ import annotations

import asyncio
from typing import Final
from uuid import UUID

from libs.common.domain.errors import GateUnavailable
from libs.common.operations.by_lane import kept_by_lane
from libs.common.ports import Permits, QueueGate
from libs.common.ports_attempts import Attempt
from libs.common.runtime.logging import get_logger

log = get_logger()

_MOST_PERMITS: Final = 20_000
#: A lane in trouble adds one for each look at it; what it loses here lapses.
_MOST_PUT_OFF: Final = 1_000
_RETRY_SECONDS: Final = 1.0


class LettingGo:
    """Gives back in batches: what comes while one is under way goes with the next."""

    def __init__(self, permits: Permits, gate: QueueGate) -> None:
        self._permits = permits
        self._gate = gate
        self._open_permits: list[tuple[int, str]] = []
        self._open_slots: list[tuple[int, str]] = []
        self._put_off: list[tuple[int, str]] = []  #: permits of lanes in trouble: they delay nobody else's
        self._again: asyncio.TimerHandle | None = None
        self._flight: asyncio.Task[None] | None = None

    def permit(self, lane: int, token: UUID) -> None:
        """This attempt calls its model no more."""
        if len(self._open_permits) < _MOST_PERMITS:
            self._open_permits.append((lane, str(token)))
            self._take_off()

    def slot(self, attempt: Attempt) -> None:
        """This task waits and runs no more."""
        self._open_slots.append((attempt.lane, str(attempt.public_id)))
        self._take_off()

    async def close(self, timeout: float) -> None:
        """Give back what is left, within `timeout` seconds."""
        if self._again is not None:
            self._again.cancel()
            self._once_more()
        if self._flight is not None:
            await asyncio.wait((self._flight,), timeout=timeout)
        if self._flight is not None:
            self._flight.cancel()
        if self._again is not None:
            self._again.cancel()

    def _take_off(self) -> None:
        if self._flight is None:
            self._flight = asyncio.get_running_loop().create_task(self._fly(), name="letting-go")

    async def _fly(self) -> None:
        try:
            while self._open_permits or self._open_slots:
                permits, self._open_permits = self._open_permits, []
                slots, self._open_slots = self._open_slots, []
                if not await self._give_back(permits, slots):
                    self._open_permits += permits
                    await asyncio.sleep(_RETRY_SECONDS)
        finally:
            self._flight = None  # no await since the last look at what is open

    async def _give_back(self, permits: list[tuple[int, str]], slots: list[tuple[int, str]]) -> bool:
        """Returns whether Redis answered for the permits."""
        answered = True
        if permits:
            try:
                refused = [*await kept_by_lane(self._permits.release_many, permits)]
            except GateUnavailable as error:
                log.warning("permits.not_released", count=len(permits), message=str(error)[:200])
                answered = False
            else:
                self._later(refused)
        if slots:
            try:
                await self._gate.release_many(slots)
            except GateUnavailable as error:
                log.warning("slots.not_released", count=len(slots), message=str(error)[:200])
        return answered

    def _later(self, refused: list[tuple[int, str]]) -> None:
        """These are of lanes in trouble: tried again by themselves, a bounded number of them."""
        if not refused:
            return
        log.warning("permits.not_released", count=len(refused), lanes=sorted({lane for lane, _ in refused})[:20])
        self._put_off += refused[: _MOST_PUT_OFF - len(self._put_off)]
        if self._again is None:
            self._again = asyncio.get_running_loop().call_later(_RETRY_SECONDS, self._once_more)

    def _once_more(self) -> None:
        self._again = None
        self._open_permits += self._put_off
        self._put_off = []
        self._take_off()
