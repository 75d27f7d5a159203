"""How a task is canceled, with a verdict that holds."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final
from uuid import UUID

from libs.common.contracts import hints as wire
from libs.common.domain.errors import GateUnavailable, NotFound, RowsLocked
from libs.common.domain.task import TaskStatus
from libs.common.ports import Hints, QueueGate
from libs.common.ports_tasks import CanceledTask, KeyOwner, TaskFilter, Tasks, TaskView
from libs.common.runtime.failpoints import failpoint
from libs.common.runtime.logging import get_logger
from services.api.reading import Reading

log = get_logger()

#: A task can slip between waiting and started while we look; so often in a row it cannot.
_LOOKS: Final = 3
#: What one bulk cancel takes; larger ones are repeated.
BULK_LIMIT: Final = 1_000
#: Pages of 10,000 tasks that a bulk cancel looks through.
_MOST_PAGES: Final = 10
#: Cancels under way at once: each takes a connection.
_AT_ONCE: Final = 4
#: So many that turn out to be locked although a look found them free, at 2 s each, and the others are left: perhaps
#: a whole table is.
_MOST_LOCKED: Final = 10
#: Whoever is just moving a task has done so by then.
_LOCKED_PAUSE: Final = 0.5
#: What may still be open: a failed one waits for its retry, perhaps.
_MAYBE_OPEN: Final = tuple(set(TaskStatus) - {TaskStatus.SUCCESS, TaskStatus.CANCELED})


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
                self._hints.changed([(caller.tenant_id, task.id)])
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


@dataclass(frozen=True, slots=True)
class Counted:
    """What a filter finds that can still be canceled; `upto` is the id of the newest, `following` where older ones
    begin that one bulk cancel does not take, or that were not looked at (None: there are none)."""

    tasks: int
    waiting: int
    upto: int
    following: int | None


@dataclass(frozen=True, slots=True)
class BulkResult:
    """How a bulk cancel ended: ended at once, asked to stop, over already, as before, since somebody's transaction
    keeps their rows locked, or not tried; `following` as it was counted, or where those that were not tried begin."""

    canceled: int
    requested: int
    already_final: int
    locked: int
    untried: int
    following: int | None


class BulkCancel:
    """Cancels what a filter finds: counted first, and then never more than was counted."""

    def __init__(self, reading: Reading, canceling: Canceling) -> None:
        self._reading = reading
        self._canceling = canceling

    async def count(self, caller: KeyOwner, wanted: TaskFilter, before: int | None = None) -> Counted:
        """How many open tasks a cancel by this filter would end, older ones than `before` only."""
        found, following = await self._find(caller, wanted, before)
        waiting = sum(task.started_at is None for task in found)
        return Counted(len(found), waiting, found[0].id if found else 0, following)

    async def cancel(self, caller: KeyOwner, wanted: TaskFilter, upto: int) -> BulkResult:
        """Cancel the open tasks that the filter finds, none newer than `upto`.

        Those that a look finds locked come behind the others, and a pause. They are looked at again, and left if they
        are locked still.
        """
        found, following = await self._find(caller, wanted, upto + 1)
        locked = await self._reading.locked(found)
        verdicts, untried = await self._try(caller, [task for task in found if task.id not in locked])
        behind = [task for task in found if task.id in locked]
        if behind:
            await asyncio.sleep(_LOCKED_PAUSE)
        locked = await self._reading.locked(behind)
        late, untried_late = await self._try(caller, [task for task in behind if task.id not in locked])
        verdicts += late
        untried += untried_late
        return BulkResult(
            verdicts[Verdict.CANCELED],
            verdicts[Verdict.REQUESTED],
            verdicts[Verdict.ALREADY_FINAL],
            verdicts[None] + len(locked),
            len(untried),
            max(task.id for task in untried) + 1 if untried else following,
        )

    async def _try(self, caller: KeyOwner, tasks: list[TaskView]) -> tuple[Counter[Verdict | None], list[TaskView]]:
        """What the cancels of these came to, and which were not tried."""
        verdicts: Counter[Verdict | None] = Counter()
        for start in range(0, len(tasks), _AT_ONCE):
            if verdicts[None] > _MOST_LOCKED:
                return verdicts, tasks[start:]
            some = tasks[start : start + _AT_ONCE]
            verdicts.update(await asyncio.gather(*(self._verdict(caller, task.public_id) for task in some)))
        return verdicts, []

    async def _verdict(self, caller: KeyOwner, public_id: UUID) -> Verdict | None:
        """None for one whose rows are locked: the others are canceled all the same."""
        try:
            return (await self._canceling.cancel(caller, public_id)).verdict
        except NotFound:
            return Verdict.ALREADY_FINAL  # it ended, and was cleaned, since it was found
        except RowsLocked:
            return None

    async def _find(
        self, caller: KeyOwner, wanted: TaskFilter, before: int | None
    ) -> tuple[list[TaskView], int | None]:
        found: list[TaskView] = []
        wanted = replace(wanted, statuses=wanted.statuses or _MAYBE_OPEN)  # a filter looks through larger pages, too
        for _ in range(_MOST_PAGES):
            tasks, before = await self._reading.page(caller, wanted, before, BULK_LIMIT)
            found += [task for task in tasks if task.open]
            if before is None or len(found) >= BULK_LIMIT:
                break
        taken = found[:BULK_LIMIT]
        return taken, taken[-1].id if len(found) > BULK_LIMIT else before
