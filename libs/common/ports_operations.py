"""What the API asks of the operation log: every attempt to create a task, accepted or refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Protocol
from uuid import UUID


class Operation(NamedTuple):
    """One attempt, fit to be stored. `age` is seconds since it happened; an accepted one names its task."""

    tenant_id: int
    age: float
    creator: str
    ip: str
    user_agent: str
    path: str
    method: str
    biz_name: str
    model: str
    task_id: UUID | None
    success: bool
    replayed: bool  #: an earlier request with the same key had made the task
    error: str
    cost_ms: int
    request: str
    response: str


@dataclass(frozen=True, slots=True)
class OperationView:
    """An entry as its tenant sees it. `cost_ms` and the bodies are unknown where the API process died on the way."""

    id: int
    at: datetime
    creator: str
    ip: str
    user_agent: str
    path: str
    method: str
    biz_name: str
    model: str
    task_id: UUID | None
    type: str
    success: bool
    replayed: bool
    error: str
    cost_ms: int | None
    request: str | None
    response: str | None


@dataclass(frozen=True, slots=True)
class OperationFilter:
    """What a list of entries is narrowed to."""

    task_id: UUID | None = None
    biz_name: str | None = None


class Operations(Protocol):
    """The operation log. Every method raises DatabaseUnavailable or OutcomeUnknown when PostgreSQL is away."""

    async def add_many(self, operations: Sequence[Operation]) -> None:
        """Write entries, all or none; those of tasks that have their entry already are left out."""

    async def list_page(
        self, tenant_id: int, wanted: OperationFilter, before: int | None, limit: int
    ) -> tuple[list[OperationView], int | None]:
        """Newest first, and the cursor of the next page (None at the end). At most 10,000 entries are examined, so a
        page may be short and still have a next one."""
