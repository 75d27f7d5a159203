"""Retries: failed tasks whose time has come go back into the queue, as far as the gate has room.

Where they stand in it (head or tail) was decided when they failed, and is looked at again now: a task may have grown
too old for the tail. A failed task has no gate slot, so each takes one first; the gate's own limit decides, strictly.
Who finds it full looks again a few seconds later, spread, so that ten thousand failures of one second neither come back
as a wall nor cost a statement each second.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Final

from libs.common.domain.errors import GateUnavailable
from libs.common.operations.by_lane import by_lane, members_of_lanes
from libs.common.operations.wake import Wake
from libs.common.ports import QueueGate, SlotRequest, SlotVerdict
from libs.common.ports_sweeps import DueRetry, Sweeps
from libs.common.runtime.failpoints import failpoint
from services.janitor.report import did
from services.janitor.returns import Returns

_ADMITTED: Final = (SlotVerdict.TAKEN, SlotVerdict.HELD)
_PAGE: Final = 1_000
#: A round stops here even if more is due: the next one follows in a second.
_PAGES: Final = 10
_SOONEST_SECONDS: Final = 2.0
_SPREAD_SECONDS: Final = 8.0
_LATEST_SECONDS: Final = 300.0
#: Looks a second that one full lane may cost: the more wait, the further they are spread.
_LOOKS_PER_SECOND: Final = 100


class Retries:
    """Moves due retries."""

    def __init__(self, sweeps: Sweeps, gate: QueueGate, returns: Returns, wake: Wake, rng: Random) -> None:
        self._sweeps = sweeps
        self._gate = gate
        self._returns = returns
        self._wake = wake
        self._rng = rng

    async def sweep(self) -> int:
        """One round; returns how many are in the queue again. While Redis is away nothing is put off."""
        moved = 0
        refused: Counter[int] = Counter()
        # A slot that still waits to be given back must not be taken for the retry's own.
        if not await self._returns.flush():
            return moved
        for _ in range(_PAGES):
            due = await self._sweeps.due_retries(_PAGE)
            if not due:
                break
            try:
                moved += await self._move(due, refused)
            except GateUnavailable:
                break
            if len(due) < _PAGE:
                break
        return did("retries", moved, gate_full=refused.total())

    async def _move(self, due: Sequence[DueRetry], refused: Counter[int]) -> int:
        requests = [
            SlotRequest(retry.lane, str(retry.public_id), retry.queue_limit, retry.slot_ttl_ms) for retry in due
        ]
        verdicts = await by_lane(self._gate.take_many, requests, lambda request: request.lane)
        # Who waits for a lane that cannot be answered for leaves the head of the line to the others, too.
        full = [retry for retry, verdict in zip(due, verdicts, strict=True) if verdict in (SlotVerdict.FULL, None)]
        admitted = [retry for retry, verdict in zip(due, verdicts, strict=True) if verdict in _ADMITTED]
        moved: set[int] = set()
        if admitted:
            await failpoint("janitor/before-requeue")
            back = await self._sweeps.requeue(admitted)
            self._wake.moved(back)
            moved = {task.id for task in back}
        taken = [retry for retry, verdict in zip(due, verdicts, strict=True) if verdict is SlotVerdict.TAKEN]
        await self._give_back([retry for retry in taken if retry.id not in moved])
        if full:
            await failpoint("janitor/before-put-off")
            await self._sweeps.put_off(self._later(full, refused))
        return len(moved)

    async def _give_back(self, losers: Sequence[DueRetry]) -> None:
        """Those changed meanwhile, by a cancel or by another janitor.

        The other janitor found our slot and went on with it ("held"): so only the slot of a task that PostgreSQL says
        owns none goes back.
        """
        for lane, members in members_of_lanes((retry.lane, retry.public_id) for retry in losers).items():
            absent = await self._sweeps.absent_slots(lane, members)
            await self._returns.give(slots=[(lane, str(member)) for member in absent])

    def _later(self, full: Sequence[DueRetry], refused: Counter[int]) -> list[tuple[DueRetry, float]]:
        refused.update(retry.lane for retry in full)
        return [(retry, self._pause(refused[retry.lane])) for retry in full]

    def _pause(self, refused_in_lane: int) -> float:
        spread = max(_SPREAD_SECONDS, min(refused_in_lane / _LOOKS_PER_SECOND, _LATEST_SECONDS))
        return _SOONEST_SECONDS + spread * self._rng.random()
