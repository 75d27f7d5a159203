"""What the audit asks of the stores. Reading changes nothing; what repairs says so."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Protocol
from uuid import UUID

from libs.common.domain.task import TaskStatus
from libs.common.ports_dispatch import Headers


class Slice(NamedTuple):
    """The tasks with after < id <= upto."""

    after: int
    upto: int


class Finding(NamedTuple):
    """A row that a check of PostgreSQL turned up; `id` is what its repair is told, None where none would be safe."""

    id: int | None
    subject: str
    detail: str


@dataclass(frozen=True, slots=True)
class TaskEnd:
    """The end of a task as its row says it, which is what its event must say."""

    public_id: UUID
    tenant_id: int
    creator: str
    biz_name: str
    version: int
    status: TaskStatus
    attempt: int
    finished_at: datetime | None
    oss_file: str | None
    file_type: str | None
    file_size: int | None
    error_code: str | None
    waiting: bool = False  #: its event still waits to leave
    replayed: int | None = None  #: the version of its last recorded replay


@dataclass(frozen=True, slots=True)
class PromisedFile:
    """One file of a result as the task's row describes it."""

    url: str
    size: int | None = None
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Promise:
    """A success, and the files that it promises; `staged_size` is what the attempt had staged, all together."""

    public_id: UUID
    oss_file: str | None
    file_size: int | None
    staged_size: int | None
    files: tuple[PromisedFile, ...]


@dataclass(frozen=True, slots=True)
class AuditedLane:
    """A lane and its gate's limit."""

    lane: int
    tenant_id: int
    model: str
    queue_limit: int


@dataclass(frozen=True, slots=True)
class OpenMember:
    """An open task that owns a gate slot, and the token under which it must hold a permit, if it must."""

    lane: int
    member: str
    slot_ttl_ms: int
    token: str | None
    permit_ttl_ms: int | None


class AuditedTasks(Protocol):
    """PostgreSQL, read by an auditor: statements may take their time, and are planned for the whole."""

    def slices(self) -> AsyncIterator[Slice]:
        """All tasks, cut so that a check of each costs about the same."""

    async def counts(self, part: Slice) -> dict[str, int]:
        """How many tasks, open, attempts and dead there are in a slice."""

    async def check_slice(self, name: str, part: Slice, *limits: float) -> list[Finding]:
        """What a check by name finds among the tasks of a slice."""

    async def check(self, name: str, *limits: float) -> list[Finding]:
        """What a check by name finds over everything."""

    async def ends(self, part: Slice, since: datetime) -> list[TaskEnd]:
        """The ends of a slice since an instant."""

    async def tasks_now(self, wanted: Sequence[tuple[int, UUID]]) -> list[TaskEnd]:
        """The tasks (tenant, public id) as they are now; open ones too."""

    async def cleaned(self, owners: Sequence[tuple[int, str]]) -> dict[tuple[int, str], int]:
        """How many tasks of these (tenant, creator) are no longer stored; left out where none is."""

    async def shortest_life_seconds(self) -> int:
        """No task is cleaned sooner after its end."""

    async def promises(self, part: Slice) -> list[Promise]:
        """The successes of a slice."""

    async def lanes(self, after: int, limit: int) -> list[AuditedLane]:
        """A page of lanes."""

    async def open_members(self, part: Slice) -> list[OpenMember]:
        """Open tasks of a slice that own a slot."""

    async def absent_slots(self, lane: int, members: Sequence[UUID]) -> list[UUID]:
        """Members that have no open task of the lane that owns a slot."""

    async def absent_permits(self, lane: int, tokens: Sequence[UUID]) -> list[UUID]:
        """Tokens that no running attempt of the lane has."""

    async def models(self) -> list[tuple[int, str]]:
        """(id, name) of models whose topics may hold records."""

    async def claimed(self, messages: Sequence[tuple[int, int]]) -> set[tuple[int, int]]:
        """Which of these (task, lease) nobody waits to claim any more."""

    async def buried(self, topic: str, partition: int, offsets: Sequence[int]) -> set[int]:
        """Which of these offsets are among the dead messages."""

    async def restore_row(self, task: int) -> tuple[int, str, int] | None:
        """Repair: a dispatch row for an open task that has none; (lane, member, ttl) of the slot it needs."""

    async def drop_row(self, task: int) -> tuple[int, UUID] | None:
        """Repair: no dispatch row for what is over; (lane, member) of the slot that it may have had."""

    async def mend_lane_pause(self, lane: int) -> bool:
        """Repair: the lane is held, and a pause says so."""

    async def mend_tenant_pause(self, tenant: int) -> bool:
        """Repair: the tenant is held, and a pause says so."""

    async def drop_staged_output(self, task: int) -> bool:
        """Repair: no staged output that no task needs; False when one needs it after all."""


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One record as it lies in a topic."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers


class FirstRecord(NamedTuple):
    """Where a partition's log begins."""

    offset: int
    timestamp_ms: int


class Log(Protocol):
    """Kafka, read from the start. Raises BrokerUnavailable."""

    async def begins(self, topic: str) -> list[FirstRecord]:
        """The first record of each partition that has any; nothing for a topic that does not exist."""

    def read(self, topics: Sequence[str]) -> AsyncIterator[list[LogRecord]]:
        """Everything that the topics hold now, in batches; topics that do not exist are passed over."""


class StoredObject(NamedTuple):
    """What an object store has under an address."""

    size: int
    sha256: str


class Objects(Protocol):
    """The object store, read by an auditor."""

    def holds(self, url: str) -> bool:
        """Whether the address is one of this store's; others cannot be checked."""

    async def find(self, url: str) -> StoredObject | None:
        """What lies there, read to its end; None when nothing does."""


class StagedEntry(Protocol):
    """A file in staging: `age` seconds since its last write, and whose output it is."""

    @property
    def reference(self) -> str: ...
    @property
    def task(self) -> UUID: ...
    @property
    def age(self) -> float: ...


class StagedOwners(Protocol):
    """Who needs what is staged."""

    async def needed_staged(self, files: Sequence[tuple[str, UUID]]) -> set[str]:
        """Which of these staged files (reference, task) an open or a dead task still needs."""


class StagedListing(Protocol):
    """The staging store, listed."""

    async def entries(self) -> Sequence[StagedEntry]:
        """All that lies in the store, finished or not."""

    async def remove(self, reference: str) -> None:
        """Delete an output; deleting twice, or one that lies in another store, changes nothing."""
