"""What the executor asks of PostgreSQL: claims, ends, heartbeats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol, TypeAlias
from uuid import UUID

from libs.common.domain.output import StagedFile
from libs.common.domain.settle import CallAgain, Finish, GiveBack, Park, Retry
from libs.common.domain.task import Phase
from libs.common.ports_dispatch import Placed


@dataclass(frozen=True, slots=True)
class Claim:
    """What starting a message asks for; the token is made by the executor and is its permit's member, too."""

    id: int
    lease: int
    token: UUID
    timeout_seconds: int
    job: bool = False  #: the call will be a provider's job, which has not begun when the attempt does


@dataclass(frozen=True, slots=True)
class Attempt:
    """A started attempt: ours alone while its token stands in the dispatch row."""

    id: int
    public_id: UUID
    lane: int
    tenant_id: int
    model_id: int
    lease: int
    token: UUID
    phase: Phase
    number: int
    retries: int
    lost: int
    input_ref: str
    trace: str | None
    created_at: datetime
    entered_at: datetime  #: since when it waits
    started_at: datetime
    age: float
    upload_age: float
    payload: bytes
    sealed: bytes | None
    staged: tuple[StagedFile, ...]  #: every file of its output; empty while none is recorded
    output_count: int = 1
    deadline_in: float | None = None  #: seconds left for the whole task when it was started


@dataclass(frozen=True, slots=True)
class HandedRow:
    """An upload that another executor handed to us."""

    id: int
    lease: int
    model_id: int
    size: int
    phase: Phase


@dataclass(frozen=True, slots=True)
class NamedRow:
    """A row that names us: as who runs it, with its token, or as who holds it."""

    id: int
    lease: int
    token: UUID | None


class Attempts(Protocol):
    """Attempts, by batches. Every write compares the token: who has lost it changes nothing and is left out."""

    executor: int  #: the number under which we start and hold; it changes when we were presumed dead and join again

    async def start_many(self, claims: Sequence[Claim]) -> list[Attempt]:
        """Claim and start; stale, started and canceled messages are left out, and tasks whose rows somebody's
        transaction keeps locked: nobody has those, so their messages are sent again."""

    async def started_many(self, claims: Sequence[Claim]) -> list[Attempt]:
        """Those that an earlier start with the same tokens, whose answer was lost, did start."""

    async def hold_many(self, messages: Sequence[tuple[int, int]]) -> set[tuple[int, int]]:
        """(id, lease): remember that these wait for a permit with us; stale and locked ones are left out, an older copy
        of one that is held among them. Asking twice is safe."""

    async def release_held(self, ids: Sequence[int]) -> list[Placed]:
        """Give back what waits here, but for locked rows; same place in the queue."""

    async def release_many(self, rows: Sequence[tuple[Attempt, GiveBack, bool]]) -> list[Placed]:
        """Give back started attempts (with: was the model called), using up nothing."""

    async def generated_many(self, rows: Sequence[tuple[Attempt, Sequence[StagedFile]]]) -> set[int]:
        """The output is staged, all files of it."""

    async def migrating_many(self, attempts: Sequence[Attempt]) -> set[int]:
        """The upload lasts."""

    async def finish_many(self, rows: Sequence[tuple[Attempt, Finish]]) -> set[int]:
        """The end: task, attempt row, event, in one transaction."""

    async def retry_many(self, rows: Sequence[tuple[Attempt, Retry]]) -> set[int]:
        """Failed, with attempts left."""

    async def park_many(self, rows: Sequence[tuple[Attempt, Park]]) -> set[int]:
        """The upload alone is due again later."""

    async def call_again_many(self, rows: Sequence[tuple[Attempt, CallAgain]]) -> list[Placed]:
        """The staged output is lost."""

    async def ends_recorded(self, attempts: Sequence[Attempt]) -> set[int]:
        """Of ends whose answer was lost: those that were written."""

    async def hand_over(self, rows: Sequence[tuple[Attempt, int]]) -> set[int]:
        """Hand started uploads to the executor of that number: it has the store where their staged files lie."""

    async def handed(self) -> list[HandedRow]:
        """Uploads that others have handed to us."""

    async def locked(
        self, tasks: Sequence[int], *, giving_back: Sequence[int] = (), beginning: Sequence[int] = ()
    ) -> set[int]:
        """Of these tasks those whose rows somebody's transaction has locked just now; for those of them that give their
        points back that is also the account of their creator, for those that begin a job their model."""

    async def alive(self, attempts: Sequence[Attempt]) -> set[UUID]:
        """Tokens that are still ours."""

    async def named(self) -> list[NamedRow]:
        """Rows that name us, uploads that others have handed to us among them."""

    async def disown(self, rows: Sequence[NamedRow]) -> None:
        """Name nobody in their place, as far as they are as they were: what nobody runs or holds is rescued."""


@dataclass(frozen=True, slots=True)
class ReadFrom:
    """From when on a log must be read to miss nothing unclaimed; both by the database's clock, as its records are."""

    since: datetime
    now: datetime


@dataclass(frozen=True, slots=True)
class UnclaimedPartition:
    """A partition with published rows that nobody has claimed; `age` of the oldest in seconds."""

    model_id: int
    partition: int
    oldest: datetime
    age: float


@dataclass(frozen=True, slots=True)
class WatchedBeat:
    """An executor's heartbeat as somebody else sees it; `age` in seconds by the database's clock."""

    id: int
    name: str
    beat: int
    reading: bool
    age: float
    stores: tuple[str, ...] = ()  #: staging stores it can read
    free: int = 0  #: slots it had left
    adapters: frozenset[str] = frozenset()  #: by which it can call models
    last_resort: bool = False  #: Redis does not answer it, or its staging is full: it reads where nobody else does


#: Why an executor takes new work, or does not.
Posture: TypeAlias = Literal[
    "reading",
    "starting",
    "crowded",
    "redis_unreachable",
    "staging_full",
    "out_of_files",
    "draining",
    "hangs",
    "stopping",
]


@dataclass(frozen=True, slots=True)
class Paused:
    """What is paused: nothing of it may be started."""

    everything: bool = False
    tenants: frozenset[int] = frozenset()
    lanes: frozenset[int] = frozenset()

    def covers(self, tenant: int, lane: int) -> bool:
        """Whether this tenant's lane is paused, by whatever."""
        return self.everything or tenant in self.tenants or lane in self.lanes

    def __bool__(self) -> bool:
        return self.everything or bool(self.tenants or self.lanes)


@dataclass(frozen=True, slots=True)
class Answered:
    """What a heartbeat learns: tasks of mine that somebody wants canceled, whether I shall finish and leave, and what
    is paused."""

    canceled: Sequence[int] = ()
    draining: bool = False
    paused: Paused = Paused()


@dataclass(frozen=True, slots=True)
class Identity:
    """What an executor says of itself when it joins."""

    name: str
    slots: int
    stores: tuple[str, ...]
    version: str
    adapters: tuple[str, ...]


class Membership(Protocol):
    """The executors' heartbeat rows, on a connection that work cannot use up."""

    async def join(self, me: Identity) -> int:
        """A number for this process; another one after it was presumed dead, with its order to drain."""

    async def beat(self, running: int, held: int, posture: Posture) -> Answered | None:
        """I am alive, and this is how I stand. None: I was presumed dead."""

    async def leave(self) -> None:
        """A clean stop."""

    async def watch(self) -> list[WatchedBeat]:
        """The beats of all that have not stopped."""

    async def unclaimed(self) -> list[UnclaimedPartition]:
        """Partitions with published rows that nobody has claimed."""

    async def read_from(self, wanted: Sequence[tuple[int, int]]) -> list[ReadFrom]:
        """For each (lane, partition)."""
