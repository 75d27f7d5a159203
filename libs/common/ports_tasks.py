"""What the API asks of PostgreSQL: tasks, models and keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple, Protocol, TypeAlias
from uuid import UUID

from libs.common.domain.model import Model
from libs.common.domain.task import TaskStatus


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A caller's own name for a request, with the hash of what was asked."""

    route: str
    key_hash: bytes
    body_hash: bytes


@dataclass(frozen=True, slots=True)
class NewTask:
    """A task as accepted; its gate slot is taken already."""

    public_id: UUID
    tenant_id: int
    lane: int
    payload: bytes
    creator: str = ""
    biz_name: str = ""
    input_ref: str = ""
    priority: int = 0
    not_before: datetime | None = None
    start_by: datetime | None = None
    deadline: datetime | None = None
    output_count: int = 1
    points: int = 0  #: what it costs its creator's quota; 0: nothing is reserved
    webhook_url: str | None = None
    webhook_events: int | None = None
    trace: str | None = None
    key: IdempotencyKey | None = None
    secret: bytes | None = None  #: what its upload may show to the file service, sealed


@dataclass(frozen=True, slots=True)
class Created:
    """Committed. `draft` says that it waits for its time first."""

    id: int
    draft: bool


@dataclass(frozen=True, slots=True)
class Repeated:
    """The key belongs to an earlier task; nothing was written. `same_body` says whether the request was the same."""

    public_id: UUID
    same_body: bool


@dataclass(frozen=True, slots=True)
class LaneClosed:
    """The model was deleted meanwhile; nothing was written."""


@dataclass(frozen=True, slots=True)
class OverQuota:
    """The creator's points of the day do not suffice; nothing was written."""

    limit: int
    used: int


Creation: TypeAlias = Created | Repeated | LaneClosed | OverQuota


@dataclass(frozen=True, slots=True)
class TaskView:
    """A task as its tenant sees it."""

    id: int
    public_id: UUID
    model_name: str
    status: TaskStatus
    attempt: int
    version: int
    creator: str
    biz_name: str
    input_ref: str
    priority: int
    output_count: int
    points: int
    created_at: datetime
    open: bool
    due_at: datetime | None
    not_before: datetime | None
    start_by: datetime | None
    deadline: datetime | None
    entered_at: datetime | None
    leased_at: datetime | None
    started_at: datetime | None
    generated_at: datetime | None
    migrating_at: datetime | None
    finished_at: datetime | None
    fetched_at: datetime | None
    expire_at: datetime | None
    executor_name: str | None
    heartbeat_at: datetime | None
    oss_file: str | None
    file_type: str | None
    file_size: int | None
    files: Sequence[dict[str, Any]]
    error_code: str | None
    error_message: str | None
    provider_job_id: str | None = None
    unit_progress: float | None = None  #: the provider's own percentage


@dataclass(frozen=True, slots=True)
class TaskFilter:
    """What a list of tasks is narrowed to."""

    model_name: str | None = None
    statuses: Sequence[TaskStatus] | None = None
    biz_name: str | None = None


@dataclass(frozen=True, slots=True)
class CanceledTask:
    """A waiting task that was ended; `owned_slot` says whether its gate slot must go back."""

    public_id: UUID
    lane: int
    owned_slot: bool


class Tasks(Protocol):
    """Tasks of tenants. Every method raises DatabaseUnavailable or OutcomeUnknown when PostgreSQL is away."""

    async def create_many(self, tasks: Sequence[NewTask]) -> list[Creation]:
        """Write each task with its payload and dispatch row, all in one transaction; answers in order.

        That of a priced task reserves its points in the same transaction; one that its creator cannot pay is left out.
        """

    async def locked(self, tasks: Sequence[NewTask]) -> list[bool]:
        """Of each, whether somebody's transaction keeps its creator's account locked, so that it cannot be paid now."""

    async def earlier_many(self, tasks: Sequence[NewTask]) -> list[Repeated | None]:
        """The earlier task that each one's key belongs to, in order; None for a free key. Every task has a key."""

    async def final_among(self, tasks: Sequence[tuple[int, UUID]]) -> set[UUID]:
        """Those of these (tenant, public id) that have come to their end, or are gone."""

    async def find_many(self, tenant_id: int, public_ids: Sequence[UUID]) -> list[TaskView]:
        """The tenant's tasks among these; unknown ids are left out."""

    async def list_page(
        self, tenant_id: int, wanted: TaskFilter, before: int | None, limit: int
    ) -> tuple[list[TaskView], int | None]:
        """Newest first, and the cursor of the next page (None at the end). At most 10,000 rows are examined, so a page
        may be short and still have a next one."""

    async def mark_fetched(self, tenant_id: int, public_ids: Sequence[UUID]) -> set[UUID]:
        """Remember the first read of successes; returns those that this call marked. One whose row somebody locks
        now is marked by a later read."""

    async def locked_among(self, ids: Sequence[int]) -> set[int]:
        """Those of these open tasks with a row that somebody's transaction keeps locked, so that none can be canceled
        now; waits for nobody."""

    async def cancel_waiting(self, tenant_id: int, public_ids: Sequence[UUID]) -> list[CanceledTask]:
        """End those that no executor has started, with history and event."""

    async def request_cancel(self, tenant_id: int, public_ids: Sequence[UUID]) -> int:
        """Ask the executors of started ones to stop; returns how many new requests were written."""

    async def payload_head(self, tenant_id: int, public_id: UUID, most: int) -> tuple[bytes, int] | None:
        """The first `most` bytes of what the model gets, and the size of it all."""

    async def list_attempts(self, tenant_id: int, public_id: UUID) -> list[dict[str, Any]]:
        """The newest ended attempts, oldest first."""

    async def list_history(self, tenant_id: int, public_id: UUID) -> list[dict[str, Any]]:
        """What happened last to the task beside its attempts, oldest first."""


class ModelNews(NamedTuple):
    """What a look at the models found."""

    models: Sequence[Model]
    now: datetime  #: the database's clock before looking
    server: datetime  #: since when the server runs that answered


class Models(Protocol):
    """Models of tenants."""

    async def create(self, tenant_id: int, creator: str, fields: dict[str, Any]) -> Model:
        """A new model with its lane; raises Conflict("model_exists") when the name is taken."""

    async def update(self, current: Model, updater: str, fields: dict[str, Any]) -> Model | None:
        """Change the fields given if `current` is still the newest version; None when it is not.

        Raises Conflict: "model_exists" as above, "model_jobs_open" when another adapter is given while providers have
        jobs of the model that are asked about, or still have to be told of their end.
        """

    async def delete(self, tenant_id: int, model_id: int, updater: str) -> Model | None:
        """Delete softly; None when there is none of that id."""

    async def find(self, tenant_id: int, name: str) -> Model | None:
        """The tenant's model of that name."""

    async def find_many(self, names: Sequence[tuple[int, str]]) -> list[Model]:
        """The models of these (tenant, name); names that nobody has are left out."""

    async def find_by_id(self, tenant_id: int, model_id: int) -> Model | None:
        """The tenant's model of that id."""

    async def list_page(self, tenant_id: int, before: int | None, limit: int) -> tuple[list[Model], int | None]:
        """Newest first, with the next page's cursor."""

    async def by_ids(self, ids: Sequence[int]) -> list[Model]:
        """Models by id, deleted ones too."""

    async def changed_since(self, since: datetime | None) -> ModelNews:
        """Models that changed at or after an instant; all for None."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a trusted peer sent along, as it came: for the file service alone, and never for a log."""

    authorization: str = field(default="", repr=False)
    user_info: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class KeyOwner:
    """Who calls: the owner of an API key, or whom a trusted peer vouches for (then `id` is 0)."""

    id: int
    tenant_id: int
    name: str
    scopes: frozenset[str]
    credentials: Credentials | None = None


class ApiKeys(Protocol):
    """API keys, stored as SHA-256 digests of 256 random bits."""

    async def create(self, tenant_id: int, name: str, digest: bytes, scopes: Sequence[str], by: str) -> int:
        """Store a key, and who made it; returns its id."""

    async def find(self, digest: bytes) -> KeyOwner | None:
        """Whose it is; None when unknown or revoked."""

    async def list_of(self, tenant_id: int) -> list[dict[str, Any]]:
        """A tenant's keys, without secrets."""

    async def revoke(self, key_id: int, by: str) -> bool:
        """Make it useless, and record who did; False when there was nothing to revoke."""


class ConsoleSessions(Protocol):
    """Who is signed in to the console. Keys and sessions are known by their SHA-256 digests alone."""

    async def open(self, key: bytes, session: bytes, seconds: int, scopes: Sequence[str]) -> KeyOwner | None:
        """Sign the owner of a key in for so long, if the key has one of the scopes; None when unknown or revoked."""

    async def find(self, session: bytes) -> KeyOwner | None:
        """Who is signed in; None when the session is over or its key was revoked."""

    async def close(self, session: bytes) -> None:
        """Sign out; harmless to repeat."""
