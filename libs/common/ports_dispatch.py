"""What the dispatcher asks of PostgreSQL and Kafka."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Protocol, TypeAlias
from uuid import UUID

from libs.common.domain.task import TaskStatus
from libs.common.ports_webhooks import HookedEvent


class Key(NamedTuple):
    """A place in a lane's queue: smaller goes first, class by class."""

    priority: int
    position: int


class Placed(NamedTuple):
    """A row that became ready at a place of its lane; what a hint is made of."""

    lane: int
    klass: int
    key: Key


class Moved(NamedTuple):
    """A task that became ready, and whose task it is: dispatchers hear of the place, listeners of the task."""

    tenant_id: int
    id: int
    place: Placed


@dataclass(frozen=True, slots=True)
class LaneAsk:
    """One lane of a turn: how many rows it may give, where to start looking, and whether fresh ones go first."""

    lane: int
    quantum: int
    low: int
    returning: Key
    fresh: Key
    fresh_first: bool = False


class LeasedRow(NamedTuple):
    """A row taken by a turn, to be published."""

    id: int
    lane: int
    klass: int
    key: Key
    attempt: int
    lease: int
    phase: int
    input_size: int
    leased_at: datetime


@dataclass(frozen=True, slots=True)
class LaneRoom:
    """What a turn saw of a lane: the room before it took rows, and the lowest lease number still in flight."""

    lane: int
    room: int
    low: int | None


@dataclass(frozen=True, slots=True)
class Turn:
    """What a turn did. Lanes in `busy` were locked by another dispatcher; paused and closed ones appear nowhere."""

    rooms: Sequence[LaneRoom]
    rows: Sequence[LeasedRow]
    busy: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class LaneInfo:
    """What the dispatcher knows of a lane."""

    lane: int
    tenant_id: int
    model_id: int
    model_name: str
    partitions: int  #: that its topic should have
    spread: int  #: over which its messages are said to be spread
    closed: bool
    weight: int
    changed_at: datetime


class EventKey(NamedTuple):
    """Which event: a number may be given anew where PostgreSQL goes on from an older state."""

    id: int
    finished_at: datetime


@dataclass(frozen=True, slots=True)
class EventRow:
    """A completion event on its way out."""

    id: int
    public_id: UUID
    tenant_id: int
    creator: str
    biz_name: str
    model_name: str
    version: int
    status: TaskStatus
    attempt: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime
    oss_file: str | None
    file_type: str | None
    file_size: int | None
    files: str | None
    error_code: str | None
    error_message: str | None
    sends: int
    hooked: bool = False  #: the tenant has webhooks
    webhook_url: str | None = None  #: the task's own, and the bits of the ends that it wants
    webhook_events: int = 0

    @property
    def key(self) -> EventKey:
        return EventKey(self.id, self.finished_at)


class DispatchQueue(Protocol):
    """The queue in PostgreSQL, from the dispatcher's side."""

    async def new_dispatcher(self) -> int:
        """A number for this process."""

    async def lease_due(
        self, asks: Sequence[LaneAsk], batch: int, dispatcher: int, acknowledged: Sequence[int]
    ) -> Turn:
        """Take due rows within each lane's window, fair between the lanes asked, under one new lease; forget the
        acknowledged leases. Two dispatchers never take beyond a window together."""

    async def close_leases(self, leases: Sequence[int]) -> None:
        """Forget acknowledged leases."""

    async def lanes_with_work(self) -> list[int]:
        """The truth behind the hints: lanes with ready rows and room."""

    async def server_began(self) -> datetime:
        """Since when the server runs that answers: another one may go on from an older state."""

    async def lanes_changed(self, since: datetime | None) -> list[LaneInfo]:
        """Lanes whose model changed at or after an instant; all for None."""

    async def spread(self, partitions: Mapping[int, int]) -> None:
        """Say over how many partitions each of these lanes' messages are spread from now on."""

    async def give_back(self, lease: int, ids: Sequence[int]) -> list[Moved]:
        """Rows that the broker did not acknowledge are first in line again."""

    async def postpone_refused(self, rows: Sequence[tuple[int, int, float, str]]) -> list[tuple[int, int]]:
        """(id, lease, first delay in seconds, message) of rows that the broker refused: each is due again after the
        delay, doubled for every earlier refusal up to 32 times; returns (id, sends so far)."""

    async def bury_refused(self, ids: Sequence[int], message: str) -> list[tuple[UUID, int]]:
        """Rows refused too often fail as `undeliverable`; returns (public id, lane) whose slots go back."""


class Events(Protocol):
    """Completion events on their way out. Only the one relay that `hold_relay` admits may use it."""

    async def hold_relay(self) -> bool:
        """Be the one relay from now on, while the connection behind it lives; False when another one is."""

    async def after(
        self, cursor: int, limit: int, missing: Sequence[int], sent: Sequence[EventKey] = ()
    ) -> list[EventRow]:
        """Events numbered above the cursor in order, and those of the missing numbers that exist by now; those that
        were sent, which are neither, are forgotten on the way."""

    async def due(self, limit: int) -> list[EventRow]:
        """Refused events whose time has come again."""

    async def sent(self, events: Sequence[EventKey]) -> None:
        """Acknowledged: forget them."""

    async def hand_over(self, events: Sequence[HookedEvent]) -> int:
        """Forget acknowledged events that webhooks may want, and make a delivery for each that does want them; returns
        how many deliveries."""

    async def refused(self, rows: Sequence[tuple[EventKey, float, str]], max_sends: int) -> list[int]:
        """(event, delay, error) back off alone; returns the ids that are dead now."""


@dataclass(frozen=True, slots=True)
class EndFilter:
    """Which ends: since <= their instant < until, of a tenant and a model."""

    since: datetime
    until: datetime
    tenant: int | None = None
    model: str | None = None


class Ends(Protocol):
    """Tasks that are over."""

    async def finals(self, after: int, limit: int, wanted: EndFilter) -> tuple[list[EventRow], int | None]:
        """Ends among the next so many tasks after an id, and the id to go on after; None when there are no more."""


#: Headers of a record, in their order. Kafka knows the name without a value, too.
Headers: TypeAlias = Sequence[tuple[str, bytes | None]]


class Record(NamedTuple):
    """One record for Kafka."""

    topic: str
    partition: int | None
    key: bytes
    value: bytes
    headers: Headers = ()
    timestamp_ms: int | None = None


class SendVerdict(NamedTuple):
    """What became of a record: acknowledged, refused by the broker for its own sake, or neither (broker away)."""

    acknowledged: bool
    refused: str = ""


class Carrier(Protocol):
    """Kafka, from the sending side."""

    async def send(self, records: Sequence[Record]) -> list[SendVerdict]:
        """Send a batch with acks=all and wait for every answer, 4.5 s at most. Never raises for the broker's sake:
        unreachable, late or unknown to the broker means neither acknowledged nor refused."""

    async def probe(self) -> bool:
        """Look whether the broker answers, opening the connection if there is none; 3 s at most."""

    @property
    def reachable(self) -> bool:
        """Whether the last send or probe got an answer."""

    @property
    def last_error(self) -> str:
        """Why the broker was last out of reach, in words for operators."""


class TopicPlan(NamedTuple):
    """What a topic must be like; no retention means the broker's default."""

    partitions: int
    retention_ms: int | None = None


class Topics(Protocol):
    """Kafka's topics."""

    @property
    def refused(self) -> Mapping[str, str]:
        """Why those that the last `ensure` did not find or make are not there, in the broker's words."""

    async def ensure(self, plans: Mapping[str, TopicPlan]) -> dict[str, int]:
        """Create what is missing, add partitions where there are too few (and the broker can); returns partitions of
        those that exist with leaders now. Raises BrokerUnavailable when the broker does not answer."""

    async def existing(self) -> dict[str, int]:
        """Every topic there is, with its partitions. Raises BrokerUnavailable."""
