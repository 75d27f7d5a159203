"""What the janitor asks of PostgreSQL. Every call is safe to run twice and on several janitors at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple, Protocol
from uuid import UUID

from libs.common.domain.task import TaskStatus
from libs.common.ports_attempts import WatchedBeat
from libs.common.ports_dispatch import Moved

#: A slot or a permit without an owner in two looks so far apart has none: a create takes its slot, and a start its
#: permit, before the row is written, and no transaction of ours lasts that long.
APART_SECONDS: Final = 30.0


class Ended(NamedTuple):
    """A task that was ended; `owned_slot` says whether a gate slot goes back (a failed task has none)."""

    tenant_id: int
    id: int
    lane: int
    member: str
    owned_slot: bool


@dataclass(frozen=True, slots=True)
class DueRetry:
    """A failed task whose retry is due, once the gate has a slot for it."""

    id: int
    public_id: UUID
    lane: int
    version: int
    queue_limit: int
    slot_ttl_ms: int
    head: bool  #: where it goes in the queue


@dataclass(frozen=True, slots=True)
class Rescued:
    """A row taken from a silent executor; `token` is the permit that goes back (None for held rows)."""

    moved: Moved
    token: UUID | None


@dataclass(frozen=True, slots=True)
class LostAttempt:
    """A running attempt to be ended from outside, by its token; `canceled` if its caller asked for that."""

    id: int
    public_id: UUID
    tenant_id: int
    lane: int
    token: UUID
    canceled: bool = False


@dataclass(frozen=True, slots=True)
class OverdueAttempt:
    """A running attempt far past its deadline, with what deciding about it needs; ages in seconds."""

    id: int
    public_id: UUID
    tenant_id: int
    lane: int
    token: UUID
    phase: int
    retries: int
    lost: int
    age: float
    upload_age: float
    retry_times: int
    retry_queue_max_seconds: int
    deadline_in: float | None = None  #: seconds left for the whole task


@dataclass(frozen=True, slots=True)
class ExpiredRow:
    """A waiting task that has come too late: for its start, or for its deadline."""

    id: int
    version: int
    not_started: bool


@dataclass(frozen=True, slots=True)
class OpenRow:
    """An open task on a page of them all; `waited` in seconds in its queue, `age` since its creation."""

    id: int
    version: int
    phase: int
    idle: bool
    paused: bool
    draft: bool
    waited: float
    age: float


@dataclass(frozen=True, slots=True)
class OpenSlot:
    """An open task on a page of them all, as the gate sees it; `owns_slot` is false while it waits for a retry."""

    id: int
    lane: int
    member: str
    owns_slot: bool
    ttl_ms: int


class DuePlace(NamedTuple):
    """A place among rows in the order of the time that they wait for."""

    due_at: datetime
    id: int


class OverTask(NamedTuple):
    """A task whose time is over, as it was looked at, and the references of its staged files, if it is dead."""

    id: int
    version: int
    staged: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of a task that nobody runs, if it still has this version."""

    id: int
    version: int
    status: TaskStatus
    code: str
    message: str
    dead: bool


@dataclass(frozen=True, slots=True)
class LaneFigure:
    """A lane that has something ready or in flight.

    `elsewhere` is what of its gate's slots does not wait for its turn, None where nothing of it does.
    """

    lane: int
    model_id: int
    in_flight: int
    elsewhere: int | None
    oldest_seconds: float


@dataclass(frozen=True, slots=True)
class OutboxFigure:
    """What still has to leave by one channel; counted up to a limit."""

    channel: str
    rows: int
    lag_seconds: float


class Sweeps(Protocol):
    """The janitor's statements."""

    async def promote_due(self, limit: int) -> list[Moved]:
        """Rows whose time has come are ready."""

    async def due_retries(self, limit: int) -> list[DueRetry]:
        """Failed tasks whose retry is due."""

    async def requeue(self, retries: Sequence[DueRetry]) -> list[Moved]:
        """Back into the queue, to the head or behind all others; those changed meanwhile are left out."""

    async def put_off(self, retries: Sequence[tuple[DueRetry, float]]) -> None:
        """Look at each again after its seconds."""

    async def watch(self) -> list[WatchedBeat]:
        """Heartbeats of all executors that have not stopped."""

    async def executors_with_work(self) -> set[int]:
        """Who is named by a running or held row."""

    async def bury_executors(self, beats: Sequence[WatchedBeat]) -> list[int]:
        """Presume these dead unless they have beaten since; returns who may not come back under their numbers."""

    async def rescue(self, executors: Sequence[int], lost_budget: int) -> list[Rescued]:
        """Take back what dead executors held or ran."""

    async def lost_for_good(self, executors: Sequence[int], lost_budget: int) -> list[LostAttempt]:
        """What they ran that was lost too often already, or was to be canceled."""

    async def overdue(self, grace_seconds: float, upload_seconds: float, limit: int) -> list[OverdueAttempt]:
        """Calls past their deadline, uploads that have lasted too long, both by more than the grace."""

    async def end_running(self, ends: Sequence[tuple[LostAttempt | OverdueAttempt, TaskStatus, str, str]]) -> set[int]:
        """End attempts from outside, fenced by their tokens; dead unless canceled."""

    async def retry_running(self, retries: Sequence[tuple[OverdueAttempt, float, bool, str, str]]) -> set[int]:
        """Fail attempts from outside that have further attempts: (attempt, delay, head, code, message)."""

    async def waiting_page(self, after: int, limit: int, seconds: int) -> list[OpenRow]:
        """Open rows in the order of their ids. Of those past so many seconds, `waited` leaves out what was a pause."""

    async def rows_of_closed_lanes(self, limit: int) -> list[tuple[int, int]]:
        """(id, version) of what waits for deleted models: ready, on the road, for its time, or for a retry."""

    async def expired_rows(self, limit: int) -> list[ExpiredRow]:
        """Waiting tasks whose start_by or deadline has passed."""

    async def requested_waiting(self, limit: int) -> list[tuple[int, int]]:
        """(id, version) of tasks whose cancel was requested and that nobody runs any more."""

    async def end_waiting(self, endings: Sequence[Ending]) -> list[Ended]:
        """End tasks that nobody runs, if they are still as they were looked at; returns those."""

    async def heal_leases(self, older_than_seconds: float) -> list[Moved]:
        """Rows of dispatchers that died between taking and acknowledgement."""

    async def republish_lost(self, older_than_seconds: float, limit: int) -> list[Moved]:
        """Published, never picked up."""

    async def expired_page(self, after: DuePlace | None, limit: int) -> tuple[list[OverTask], DuePlace | None]:
        """Fetched tasks past expire_at whose events have left, on a page in the order of that time; where the next page
        begins, None at the end."""

    async def unfetched_page(
        self, days: int | None, canceled_days: int, after: int, limit: int
    ) -> tuple[list[OverTask], int | None]:
        """Successes nobody fetched for so many days (None: for ever), and canceled tasks of their age, on a page of the
        oldest; the id to go on after, None when nothing older remains."""

    async def dead_over(self, days: int, limit: int) -> list[OverTask]:
        """Dead tasks past their retention."""

    async def delete_tasks(self, tasks: Sequence[OverTask]) -> list[int]:
        """Delete tasks with everything that is theirs, if they are still as they were looked at; returns those."""

    async def needed_staged(self, files: Sequence[tuple[str, UUID]]) -> set[str]:
        """Which of these staged files (reference, task) an open or a dead task still needs."""

    async def prune(self, limit: int) -> int:
        """Old idempotency keys, done cancel requests, long stopped executors; returns how many keys went."""

    async def prune_quota(self, days: int, limit: int) -> int:
        """Points used on days that long ago."""

    async def prune_dead_events(self, days: int, limit: int) -> int:
        """Events that died that long ago."""

    async def prune_dead_messages(self, days: int, limit: int) -> int:
        """Records that could not be understood, that old."""

    async def prune_deliveries(self, delivered_days: int, dead_days: int, limit: int) -> int:
        """Deliveries of webhooks that arrived, or died, that long ago, and removed webhooks that have none left."""

    async def prune_operations(self, days: int, after: int, limit: int) -> tuple[int, int | None]:
        """Delete what is that old in the operation log's next page after an id; returns how many went, and the id to go
        on after, unless what follows is young."""

    async def mark_operations(self) -> None:
        """Choose up to which task the operation log is proved next."""

    async def fill_operations(self, limit: int, older_than_seconds: float) -> tuple[int, bool]:
        """Write the entries that tasks below the mark lack, if the mark is that old and nothing can commit below it any
        more; returns how many, and whether there are more tasks to look at."""

    async def fold_statistics(self, limit: int) -> int:
        """Move counted calls into the daily table; returns how many counts were moved."""

    async def open_page(self, after: int, limit: int) -> list[OpenSlot]:
        """Open tasks in the order of their ids, with their slots' lives."""

    async def open_rows(self, after: int) -> int:
        """How many open tasks there are behind an id."""

    async def lanes_page(self, after: int, limit: int) -> list[int]:
        """The next lanes after one, those of deleted models too, in order."""

    async def absent_slots(self, lane: int, members: Sequence[UUID]) -> list[UUID]:
        """Members that have no open task that owns a slot."""

    async def absent_permits(self, lane: int, tokens: Sequence[UUID]) -> list[UUID]:
        """Tokens that no running attempt has."""

    async def lanes_in_flight(self) -> list[int]:
        """Lanes that have something in flight."""

    async def lane_figures(self) -> list[LaneFigure]:
        """Lanes that have something ready or in flight. Costs by lanes and windows, not by how much waits."""

    async def outbox_figures(self, count_limit: int) -> list[OutboxFigure]:
        """What still has to leave, by channel."""

    async def oldest_transaction_seconds(self) -> float:
        """How long somebody has held a transaction open."""
