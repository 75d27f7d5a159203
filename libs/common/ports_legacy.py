"""What the old routes ask of PostgreSQL: rows as the old gateway's tables had them, in pages with a total."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Protocol
from uuid import UUID

from libs.common.domain.model import Model
from libs.common.domain.task import TaskStatus


@dataclass(frozen=True, slots=True)
class ModelRow:
    """A model, and who wrote it when."""

    model: Model
    creator: str
    updater: str
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class TaskRow:
    """A task with its payload; `payload` is None where a page would have become too large."""

    id: int
    tenant_id: int
    public_id: UUID
    model_name: str
    status: TaskStatus
    creator: str
    biz_name: str
    input_ref: str
    payload: bytes | None
    oss_file: str | None
    file_type: str | None
    file_size: int | None
    error_message: str | None
    retries: int
    created_at: datetime
    entered_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    fetched_at: datetime | None
    expire_at: datetime | None


@dataclass(frozen=True, slots=True)
class TaskSearch:
    """What listTask is narrowed to: substrings, and statuses. `fetched` tells the two kinds of success apart."""

    model_name: str = ""
    task_id: str = ""
    statuses: Sequence[TaskStatus] | None = None
    fetched: bool | None = None


@dataclass(frozen=True, slots=True)
class StatRow:
    """How often a user's tasks called a model on a day."""

    day: date
    tenant_id: int
    creator: str
    model_name: str
    request_count: int
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class StatSearch:
    """What statistics are narrowed to; None is no limit, `tenant_id` None is all tenants."""

    tenant_id: int | None
    start_day: date | None = None
    end_day: date | None = None
    creator: str = ""
    model_name: str = ""


class LegacyRows(Protocol):
    """Every method raises DatabaseUnavailable or OutcomeUnknown when PostgreSQL is away."""

    async def model(self, tenant_id: int, model_id: int) -> ModelRow | None:
        """The tenant's model of that id."""

    async def models(self, tenant_id: int, name_part: str, offset: int, limit: int) -> tuple[list[ModelRow], int]:
        """A page of the tenant's models whose name contains a text, newest first, and how many there are."""

    async def task(self, tenant_id: int, public_id: UUID) -> TaskRow | None:
        """The tenant's task of that id."""

    async def tasks(self, tenant_id: int, wanted: TaskSearch, offset: int, limit: int) -> tuple[list[TaskRow], int]:
        """A page of the tenant's tasks, newest first, and how many there are."""

    async def statistics(self, wanted: StatSearch, offset: int, limit: int) -> tuple[list[StatRow], int]:
        """A page of counts, by day then count, both descending, and how many there are; unfolded ones included."""
