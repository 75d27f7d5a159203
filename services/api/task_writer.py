"""The flush behind the creates."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from libs.common.domain.errors import OutcomeUnknown
from libs.common.operations.wake import Wake
from libs.common.ports import Hints
from libs.common.ports_dispatch import Key, Placed
from libs.common.ports_tasks import Created, Creation, NewTask, Tasks
from libs.common.runtime.failpoints import failpoint
from libs.common.runtime.seen import seen

_WRITE_SECONDS: Final = 5.0  #: longer than any healthy commit, shorter than a caller's patience
_FRESH: Final = 1  #: the class of tasks that never ran, in dispatch hints


class TaskWriter:
    """Writes batches of tasks: one transaction, then one hint for each lane that got something to do."""

    def __init__(self, tasks: Tasks, hints: Hints) -> None:
        self._tasks = tasks
        self._hints = hints
        self._wake = Wake(hints)
        self._writing: set[asyncio.Task[list[Creation]]] = set()

    async def write(self, batch: Sequence[NewTask]) -> list[Creation]:
        """All tasks of the batch in one transaction; raises what Tasks.create_many raises.

        OutcomeUnknown also when PostgreSQL is slow: the transaction goes on, its callers are not kept waiting.
        """
        writing = asyncio.create_task(self._commit(batch), name="create-tasks")
        self._writing.add(writing)
        writing.add_done_callback(self._writing.discard)
        writing.add_done_callback(seen)  # its callers may have been told that nobody knows
        done, _ = await asyncio.wait([writing], timeout=_WRITE_SECONDS)
        if not done:
            raise OutcomeUnknown("PostgreSQL takes too long")
        return writing.result()

    async def _commit(self, batch: Sequence[NewTask]) -> list[Creation]:
        await failpoint("api/before-commit")
        creations = await self._tasks.create_many(batch)
        try:
            await failpoint("api/after-commit")
            self._nudge(batch, creations)
        except Exception as error:
            # The tasks are there: whoever heard of anything but an unknown outcome would take their slots from them.
            raise OutcomeUnknown("a surprise behind the commit") from error
        return creations

    def _nudge(self, batch: Sequence[NewTask], creations: Sequence[Creation]) -> None:
        self._wake.placed(
            Placed(task.lane, _FRESH, Key(task.priority, creation.id))
            for task, creation in zip(batch, creations, strict=True)
            if isinstance(creation, Created) and not creation.draft
        )
        self._hints.changed(
            (task.tenant_id, creation.id)
            for task, creation in zip(batch, creations, strict=True)
            if isinstance(creation, Created)
        )
