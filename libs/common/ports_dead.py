"""What operators ask about the dead: one list of all kinds, and the jobs that replay or drop them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, NamedTuple, Protocol
from uuid import UUID

from libs.common.ports_dispatch import Headers, Moved


class DeadKind(StrEnum):
    """What can be dead. The order is the order of equal instants in the list."""

    TASK = "task"  #: its attempts are used up, or its last error is final
    EVENT = "event"  #: a completion event that the broker refused for good
    DELIVERY = "delivery"  #: a webhook delivery that was given up
    MESSAGE = "message"  #: bytes on a topic of ours that could not be understood


@dataclass(frozen=True, slots=True)
class DeadFilter:
    """What a list, a group or a job is narrowed to; None narrows nothing. Died: since <= instant < until."""

    kind: DeadKind | None = None
    code: str | None = None
    model: str | None = None
    tenant: int | None = None
    since: datetime | None = None
    until: datetime | None = None
    text: str | None = None  #: a part of the last error's message
    model_id: int | None = None  #: that model, of which there may have been others of its name; NO_MODEL: of none
    webhook: int | None = None  #: deliveries of this one alone


EVERYTHING: Final = DeadFilter()
#: Of no model: messages, and deliveries whose task was cleaned.
NO_MODEL: Final = 0
#: Its name on every face.
NO_MODEL_WORD: Final = "none"
#: More of a message's value is not kept: such a one cannot be replayed as it was.
KEPT_BYTES: Final = 1_048_576


class DeadPlace(NamedTuple):
    """A place in the list, which is sorted from the newest down."""

    at: datetime
    rank: int  #: of the kind
    id: int


@dataclass(frozen=True, slots=True)
class DeadEntry:
    """One dead thing in the list."""

    kind: DeadKind
    key: int  #: its row
    id: str  #: for faces: a task's id, else the row's number
    tenant_id: int | None
    model: str | None
    code: str
    message: str
    died_at: datetime
    task_id: UUID | None = None
    status: str | None = None  #: a task's, or what an event announces
    attempt: int | None = None
    version: int | None = None
    staged: bool = False  #: its output is there: a replay uploads it without another call
    topic: str | None = None
    partition: int | None = None
    offset: int | None = None
    webhook: int | None = None  #: whose delivery it is
    pending: int | None = None  #: the replay job that has it in hand, where who asks may see it
    in_hand: bool = False  #: a replay job has it, whosever


@dataclass(frozen=True, slots=True)
class DeadGroup:
    """The dead of one kind with one cause in one model."""

    kind: DeadKind
    code: str
    tenant_id: int | None
    model_id: int | None
    model: str | None
    count: int
    first_at: datetime
    last_at: datetime
    example_id: str  #: the youngest of them
    example: str  #: what its last error says


@dataclass(frozen=True, slots=True)
class DeadGroups:
    """Groups, the largest first. `complete` is false where more are dead than one look counts, or more groups exist."""

    items: Sequence[DeadGroup]
    counted: int
    complete: bool


@dataclass(frozen=True, slots=True)
class SentRequest:
    """What the model was sent, as its configuration is now. Secrets are masked by who shows it."""

    http_method: str
    base_url: str
    route: str
    bindings: bytes | None  #: sealed
    tenant_id: int
    payload: bytes  #: its beginning
    payload_size: int


@dataclass(frozen=True, slots=True)
class DeadStory:
    """One dead thing with everything that is known of it. Mappings are rows."""

    entry: DeadEntry
    attempts: Sequence[Mapping[str, Any]] = ()
    history: Sequence[Mapping[str, Any]] = ()
    provider_jobs: Sequence[Mapping[str, Any]] = ()
    events: Sequence[Mapping[str, Any]] = ()
    replays: Sequence[Mapping[str, Any]] = ()
    request: SentRequest | None = None
    key: bytes | None = None
    value: bytes | None = None  #: its beginning, where it is larger
    value_size: int = 0
    headers: Headers = ()


class Action(StrEnum):
    """What a job does with the dead."""

    REPLAY = "replay"
    DROP = "drop"


class JobState(StrEnum):
    """Where a job stands; stopped and done are final."""

    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    DONE = "done"


class ItemResult(StrEnum):
    """What became of one dead thing of a job; none while it waits."""

    REPLAYED = "replayed"
    DROPPED = "dropped"
    GONE = "gone"  #: it was not dead any more: replayed, dropped or cleaned by somebody else
    REFUSED = "refused"  #: it cannot be replayed; the detail says why
    STOPPED = "stopped"  #: the job was stopped first


@dataclass(frozen=True, slots=True)
class JobOrder:
    """A job as asked for. Either `keys` (rows of that kind) or what the filter selects, the oldest first."""

    action: Action
    kind: DeadKind
    wanted: DeadFilter
    keys: Sequence[int] | None
    limit: int
    rate: float  #: a second
    reason: str
    asked_by: str
    reach: int | None  #: the tenant whose dead it may touch; None for all
    mended: bytes | None = None  #: what a message is sent as instead


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it stands."""

    id: int
    reach: int | None
    action: Action
    kind: DeadKind
    asked: Mapping[str, Any]  #: filter or number of ids, as it was asked for
    limit: int
    rate: float
    reason: str
    asked_by: str
    state: JobState
    total: int
    results: Mapping[str, int] = field(default_factory=dict)  #: by ItemResult
    refusals: int = 0  #: looks that found a gate full, or that had to be put off
    note: str = ""  #: what holds it up, if something does
    created_at: datetime | None = None
    changed_at: datetime | None = None
    ended_at: datetime | None = None

    @property
    def pending(self) -> int:
        """How many still wait for their turn."""
        return self.total - sum(self.results.values())


@dataclass(frozen=True, slots=True)
class JobItem:
    """One dead thing of a job, and what became of it."""

    key: int
    id: str
    tenant_id: int | None
    code: str
    result: ItemResult | None
    detail: str
    tries: int
    due_at: datetime | None
    ended_at: datetime | None


@dataclass(frozen=True, slots=True)
class Selection:
    """What an order selects now. `busy` are left out: another job has them in hand."""

    count: int
    busy: int
    groups: Sequence[DeadGroup]
    refused: Mapping[str, int] = field(default_factory=dict)  #: of the count, by why: the job would not replay them


class DeadRows(Protocol):
    """The dead, for reading. `reach` is the tenant whose dead may be seen, None for all."""

    async def page(
        self, reach: int | None, wanted: DeadFilter, after: DeadPlace | None, limit: int
    ) -> tuple[list[DeadEntry], DeadPlace | None]:
        """Newest first. A page looks at a bounded number of rows: it may be short, and still have a next one."""

    async def groups(self, reach: int | None, wanted: DeadFilter) -> DeadGroups:
        """By cause. Counts the newest of each kind, up to a bound."""

    async def find(self, reach: int | None, kind: DeadKind, id: str) -> DeadEntry | None:
        """One of them."""

    async def keys(self, reach: int | None, kind: DeadKind, ids: Sequence[str]) -> dict[str, int]:
        """The rows of these ids, as far as they are dead."""

    async def story(self, reach: int | None, entry: DeadEntry) -> DeadStory:
        """Everything about one of them. Jobs out of reach have no number."""


class ReplayJobs(Protocol):
    """Jobs, as operators make and steer them."""

    async def select(self, order: JobOrder) -> Selection:
        """What the order would take; changes nothing."""

    async def create(self, order: JobOrder) -> Job:
        """Write the job with all its items. What another open job has in hand is left out."""

    async def page(self, reach: int | None, before: int | None, limit: int) -> tuple[list[Job], int | None]:
        """Newest first."""

    async def find(self, reach: int | None, id: int) -> Job | None:
        """One job."""

    async def items(self, job: int, after: int | None, limit: int) -> tuple[list[JobItem], int | None]:
        """In the order of their rows."""

    async def steer(self, reach: int | None, id: int, state: JobState) -> Job | None:
        """Pause, go on or stop, where the job's state has that arrow; the job as it is afterwards."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A running job that this process has in hand, and how many items its pace allows now."""

    id: int
    action: Action
    kind: DeadKind
    budget: int
    reason: str
    asked_by: str
    by_tenant: bool  #: ordered within one tenant, by that tenant; else by an operator


@dataclass(frozen=True, slots=True)
class DueItem:
    """An item whose turn has come. A dead task of a model that is not deleted brings what its gate slot needs."""

    key: int
    public_id: UUID | None = None
    lane: int | None = None
    points: int = 0
    queue_limit: int = 0
    slot_ttl_ms: int = 0


@dataclass(frozen=True, slots=True)
class DueMessage:
    """A message to be sent again, as it lies; `problem` says why it cannot be. No topic: it is not dead any more."""

    key: int
    topic: str | None
    partition: int
    record_key: bytes | None
    value: bytes | None
    headers: Headers
    problem: str = ""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that could not be understood, on its way to the dead-letter topic; `key` is its row, once it has one."""

    topic: str
    partition: int
    offset: int
    record_key: bytes | None
    value: bytes | None
    headers: Headers
    code: str
    cause: str
    size: int  #: of the value, of which only the beginning may be left
    key: int = 0


class ReplayWork(Protocol):
    """Jobs, as they are worked off. Every call is safe to run twice and in two processes at once."""

    async def take(self, runner: UUID, kinds: Sequence[DeadKind], lease_seconds: float) -> list[Turn]:
        """Running jobs that are nobody else's now, each with its budget."""

    async def due(self, turn: Turn, limit: int, full: Collection[int]) -> list[DueItem]:
        """Its items whose turn has come, of all lanes but those that are full."""

    async def hold_up(self, turn: Turn, lanes: int, note: str) -> None:
        """Tell the job that so many lanes were found full; none takes the note back."""

    async def replay_tasks(self, turn: Turn, items: Sequence[DueItem]) -> tuple[list[Moved], list[int]]:
        """Dead tasks go back into the queue with a fresh budget, and the record says so, in one write. Those that
        cannot are recorded too. Points are reserved again; second come those whose users have none left, unchanged.
        Nothing happens unless the job still runs."""

    async def replay_outbox(self, turn: Turn, keys: Sequence[int]) -> int:
        """Dead events, or deliveries, are due again under their ids."""

    async def messages(self, turn: Turn, keys: Sequence[int]) -> list[DueMessage]:
        """What is to be sent, while the job runs: of these the first few MiB, or the first."""

    async def sent_messages(self, turn: Turn, keys: Sequence[int]) -> int:
        """They are on their topics again: off the list. Holds for a job that was stopped meanwhile, too."""

    async def drop(self, turn: Turn, keys: Sequence[int]) -> int:
        """Off the list, for good."""

    async def refuse(self, turn: Turn, refused: Sequence[tuple[int, str]]) -> None:
        """(row, why) that cannot be replayed."""

    async def put_off(self, turn: Turn, later: Sequence[tuple[int, float]], note: str) -> None:
        """(row, seconds) that are tried again later, and why."""

    async def locked(self, turn: Turn, keys: Sequence[int]) -> set[int]:
        """Whose rows, or whose user's account, somebody's transaction keeps locked."""

    async def absent_slots(self, lane: int, members: Sequence[UUID]) -> list[UUID]:
        """Which of these gate members have no open task that owns a slot."""

    async def finish(self, turn: Turn) -> bool:
        """The job is done, if nothing of it waits."""


class DeadLetterBook(Protocol):
    """Records that could not be understood, as PostgreSQL keeps them."""

    async def bury(self, letters: Sequence[DeadLetter]) -> list[DeadLetter]:
        """Keep these; the same record twice is kept once. Returns those without a letter, with their rows."""

    async def unlettered(self, older_than_seconds: float, limit: int) -> list[DeadLetter]:
        """Dead messages that the dead-letter topic has not got yet."""

    async def lettered(self, keys: Sequence[int]) -> None:
        """It has them now."""
