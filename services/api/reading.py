"""How tasks are read: one, several, a list, and what happened to one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from libs.common.domain.errors import NotFound
from libs.common.domain.task import TaskStatus
from libs.common.ports_tasks import KeyOwner, TaskFilter, Tasks, TaskView
from libs.common.runtime.failpoints import failpoint
from services.api.waiting import Leaving, WaitRoom


class Reading:
    """Reads tasks of the caller's tenant. The first read of a success marks it as fetched; lists never do."""

    def __init__(self, tasks: Tasks, room: WaitRoom) -> None:
        self._tasks = tasks
        self._room = room

    async def one(self, caller: KeyOwner, public_id: UUID, wait_seconds: float, leaving: Leaving) -> TaskView:
        """One task, at its end if that comes within the wait; raises NotFound. Who leaves before has read nothing."""
        task, here = await self._awaited(caller, public_id, wait_seconds, leaving)
        return (await self._first_read(caller, [task]))[0] if here else task

    async def outcome(self, caller: KeyOwner, public_id: UUID, wait_seconds: float, leaving: Leaving) -> TaskView:
        """The same, for whoever has just created it, or asks for no body: that is no first read."""
        return (await self._awaited(caller, public_id, wait_seconds, leaving))[0]

    async def several(self, caller: KeyOwner, public_ids: Sequence[UUID]) -> list[TaskView]:
        """The tasks among these ids, in their order, each once."""
        return await self._first_read(caller, await self.look(caller, list(dict.fromkeys(public_ids))))

    async def peek(self, caller: KeyOwner, public_id: UUID) -> TaskView:
        """One task, for people who look after it: it is not marked as fetched; raises NotFound."""
        found = await self._tasks.find_many(caller.tenant_id, [public_id])
        if not found:
            raise NotFound("task_unknown", "there is no such task")
        return found[0]

    async def look(self, caller: KeyOwner, public_ids: Sequence[UUID]) -> list[TaskView]:
        """The same for several, in the order of their ids."""
        found = {task.public_id: task for task in await self._tasks.find_many(caller.tenant_id, public_ids)}
        return [found[public_id] for public_id in public_ids if public_id in found]

    async def payload_head(self, caller: KeyOwner, public_id: UUID, most: int) -> tuple[bytes, int] | None:
        """The first `most` bytes of what the model gets, and the size of it all; None when it is gone."""
        return await self._tasks.payload_head(caller.tenant_id, public_id, most)

    async def page(
        self, caller: KeyOwner, wanted: TaskFilter, before: int | None, limit: int
    ) -> tuple[list[TaskView], int | None]:
        """A page of tasks, newest first, and where the next one goes on."""
        return await self._tasks.list_page(caller.tenant_id, wanted, before, limit)

    async def locked(self, tasks: Sequence[TaskView]) -> set[int]:
        """The ids of those that somebody's transaction keeps as they are, right now."""
        return await self._tasks.locked_among([task.id for task in tasks])

    async def attempts(self, caller: KeyOwner, public_id: UUID) -> list[dict[str, Any]]:
        """The newest ended attempts, oldest first; raises NotFound."""
        await self.peek(caller, public_id)
        return await self._tasks.list_attempts(caller.tenant_id, public_id)

    async def history(self, caller: KeyOwner, public_id: UUID) -> list[dict[str, Any]]:
        """What happened last beside the attempts, oldest first; raises NotFound."""
        await self.peek(caller, public_id)
        return await self._tasks.list_history(caller.tenant_id, public_id)

    async def mark_fetched(self, caller: KeyOwner, unread: Sequence[UUID]) -> set[UUID]:
        """Remember the first read of successes: from now on they are fetched, and cleaned in their time.

        Returns those whose first read this was. Two callers may have seen one unread at the same moment: only one of
        them was the first.
        """
        await failpoint("api/before-fetched")
        return await self._tasks.mark_fetched(caller.tenant_id, unread)

    async def _awaited(
        self, caller: KeyOwner, public_id: UUID, wait_seconds: float, leaving: Leaving
    ) -> tuple[TaskView, bool]:
        """The task, and whether its caller is still there."""
        task = await self.peek(caller, public_id)
        if not task.open or wait_seconds <= 0:
            return task, True
        if not await self._room.wait(caller.tenant_id, public_id, wait_seconds, leaving):
            return task, False
        return await self.peek(caller, public_id), True

    async def _first_read(self, caller: KeyOwner, tasks: list[TaskView]) -> list[TaskView]:
        """These tasks, marked as fetched; those that another caller was faster with are shown as it left them."""
        unread = [task.public_id for task in tasks if task.status is TaskStatus.SUCCESS and task.fetched_at is None]
        if not unread:
            return tasks
        late = set(unread) - await self.mark_fetched(caller, unread)
        if not late:
            return tasks
        found = {task.public_id: task for task in await self._tasks.find_many(caller.tenant_id, list(late))}
        return [found.get(task.public_id, task) for task in tasks]
