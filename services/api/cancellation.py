"""How a task is canceled, with a verdict that holds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final
from uuid import UUID

from libs.common.contracts import hints as wire
from libs.common.domain.errors import GateUnavailable, NotFound
from libs.common.domain.task import TaskStatus
from libs.common.ports import Hints, QueueGate
from libs.common.ports_tasks import CanceledTask, KeyOwner, Tasks, TaskView
from libs.common.runtime.failpoints import failpoint
from libs.common.runtime.logging import get_logger

log = get_logger()

#: A task can slip between waiting and started while we look; so often in a row it cannot.
_LOOKS: Final = 3


class Verdict(Enum):
    """What a cancel came to."""

    CANCELED = "canceled"
    REQUESTED = "cancel_requested"
    ALREADY_FINAL = "already_final"


@dataclass(frozen=True, slots=True)
class Cancellation:
    """The verdict, and the status that the task has after it."""

    verdict: Verdict
    status: TaskStatus


class Canceling:
    """Ends tasks that wait, and asks for the end of those that run. The first terminal write wins."""

    def __init__(self, tasks: Tasks, gate: QueueGate, hints: Hints) -> None:
        self._tasks = tasks
        self._gate = gate
        self._hints = hints

    async def cancel(self, caller: KeyOwner, public_id: UUID) -> Cancellation:
        """Cancel one task; raises NotFound when the caller's tenant has none of that id."""
        task = await self._task(caller, public_id)
        for _ in range(_LOOKS):
            if not task.open:
                return Cancellation(Verdict.ALREADY_FINAL, task.status)
            await failpoint("api/before-cancel")
            waiting = await self._tasks.cancel_waiting(caller.tenant_id, [public_id])
            if waiting:
                await failpoint("api/after-cancel")
                await self._let_go(waiting[0])
                return Cancellation(Verdict.CANCELED, TaskStatus.CANCELED)
            if await self._tasks.request_cancel(caller.tenant_id, [public_id]):
                self._hints.publish_soon(wire.CANCEL, str(task.id))
                return Cancellation(Verdict.REQUESTED, task.status)
            # It ended, or was handed back, between the two; or somebody has asked already.
            task = await self._task(caller, public_id)
        return Cancellation(Verdict.REQUESTED, task.status)

    async def _task(self, caller: KeyOwner, public_id: UUID) -> TaskView:
        found = await self._tasks.find_many(caller.tenant_id, [public_id])
        if not found:
            raise NotFound("task_unknown", "there is no such task")
        return found[0]

    async def _let_go(self, canceled: CanceledTask) -> None:
        if canceled.owned_slot:
            try:
                await self._gate.release_many([(canceled.lane, str(canceled.public_id))])
            except GateUnavailable:
                log.warning("slot.leaked", lane=canceled.lane, task_id=canceled.public_id)  # reconcile finds it
        self._hints.publish_soon(wire.DISPATCH, wire.room(canceled.lane))
        log.info("task.canceled", task_id=canceled.public_id)
