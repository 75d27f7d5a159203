"""What the API asks of PostgreSQL to push the changes of tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Protocol
from uuid import UUID

from libs.common.domain.task import TaskStatus


class Stage(NamedTuple):
    """How far a task has come; a later one is larger."""

    version: int
    unit_progress: float


@dataclass(frozen=True, slots=True)
class TaskState:
    """Where a task is, as its tenant sees it. `open` tells a failure before its retry from an end."""

    id: int
    public_id: UUID
    tenant_id: int
    model_name: str
    status: TaskStatus
    version: int
    attempt: int
    open: bool
    unit_progress: float | None
    error_code: str | None
    error_message: str | None
    created_at: datetime
    at: datetime  #: when it came to this status, or a provider said more of it
    read_at: datetime  #: no later than the look that this came from
    job_message: str = ""  #: what its provider says

    @property
    def stage(self) -> Stage:
        return Stage(self.version, -1.0 if self.unit_progress is None else self.unit_progress)


class TaskStates(Protocol):
    """Where tasks are now. Every method raises DatabaseUnavailable or OutcomeUnknown when PostgreSQL is away."""

    async def by_ids(self, tasks: Sequence[tuple[int, int]]) -> list[TaskState]:
        """Those of these (tenant, id) that exist."""

    async def find(self, tenant_id: int, public_id: UUID) -> TaskState | None:
        """The tenant's task of that id."""

    async def newest(self, tenant_id: int, before: int | None, limit: int) -> list[TaskState]:
        """A page of the tenant's tasks, newest first."""
