"""The dead as every face shows them: listed, grouped by cause, one with everything that is known of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from libs.common.domain.errors import NotFound
from libs.common.ports_dead import DeadEntry, DeadFilter, DeadGroups, DeadKind, DeadPlace, DeadRows, DeadStory
from libs.common.ports_operations import OperationFilter, Operations, OperationView

#: Entries of the operation log that one story shows.
_OPERATIONS: Final = 20


@dataclass(frozen=True, slots=True)
class DeadDetails:
    """One dead thing, and who asked for it."""

    story: DeadStory
    operations: Sequence[OperationView] = ()


class Dead:
    """Reads the dead within a reach: one tenant's, or everybody's for None. Messages belong to no tenant, so only who
    reaches everybody sees them."""

    def __init__(self, rows: DeadRows, operations: Operations) -> None:
        self._rows = rows
        self._operations = operations

    async def page(
        self, reach: int | None, wanted: DeadFilter, after: DeadPlace | None, limit: int
    ) -> tuple[list[DeadEntry], DeadPlace | None]:
        """Newest first, and where the next page goes on. A page may be short and still have a next one."""
        return await self._rows.page(reach, wanted, after, limit)

    async def groups(self, reach: int | None, wanted: DeadFilter) -> DeadGroups:
        """By cause, the largest first."""
        return await self._rows.groups(reach, wanted)

    async def show(self, reach: int | None, kind: DeadKind, id: str) -> DeadDetails:
        """Everything about one; raises NotFound."""
        entry = await self._rows.find(reach, kind, id)
        if entry is None:
            raise NotFound("dead_unknown", f"there is no dead {kind} of this id")
        story = await self._rows.story(reach, entry)
        if entry.task_id is None or entry.tenant_id is None:
            return DeadDetails(story)
        asked = OperationFilter(task_id=entry.task_id)
        operations, _ = await self._operations.list_page(entry.tenant_id, asked, None, _OPERATIONS)
        return DeadDetails(story, operations)
