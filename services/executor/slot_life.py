"""The gate slot of a task that begins late in its slot's life lives on with it, also while no janitor renews it.

Best effort: the janitor's walk over open tasks is what slots live by, and a call is never kept waiting for this.
"""

from __future__ import annotations

import asyncio

from libs.common.domain.errors import GateUnavailable
from libs.common.domain.model import Model
from libs.common.ports import QueueGate
from libs.common.ports_attempts import Attempt
from libs.common.runtime.logging import get_logger

log = get_logger()


class SlotLife:
    """Renews in batches: what comes while one is under way goes with the next."""

    def __init__(self, gate: QueueGate) -> None:
        self._gate = gate
        self._due: dict[tuple[int, int], list[str]] = {}  #: members by lane and length of life
        self._flight: asyncio.Task[None] | None = None

    def begun(self, attempt: Attempt, model: Model) -> None:
        """This task begins. Only one that is older than half of a slot's life can have a slot that is."""
        life = model.slot_ttl_ms
        if attempt.age * 1_000 < life / 2:
            return
        self._due.setdefault((attempt.lane, life), []).append(str(attempt.public_id))
        if self._flight is None:
            self._flight = asyncio.get_running_loop().create_task(self._fly(), name="slot-life")

    async def _fly(self) -> None:
        try:
            while self._due:
                due, self._due = self._due, {}
                for (lane, life), members in due.items():
                    await self._renew(lane, members, life)
        finally:
            self._flight = None  # no await since the last look at what is due

    async def _renew(self, lane: int, members: list[str], life: int) -> None:
        """Who has ended meanwhile has given its slot back: renewing adds nobody."""
        try:
            await self._gate.renew_many(lane, members, life)
        except GateUnavailable as error:
            log.warning("slots.not_renewed", count=len(members), message=str(error)[:200])
