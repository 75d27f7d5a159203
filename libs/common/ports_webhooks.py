"""Webhooks: what the API and the dispatcher ask of PostgreSQL, and of the other side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple, Protocol, TypeAlias
from uuid import UUID

from libs.common.domain.count import Count


@dataclass(frozen=True, slots=True)
class Held:
    """An operator's hold: nothing is sent until an operator lifts it."""

    since: datetime
    by: str
    reason: str


@dataclass(frozen=True, slots=True)
class Webhook:
    """An address of a tenant; `kind` tasks has none and signs what goes to the addresses of tasks."""

    id: int
    tenant_id: int
    kind: str
    url: str
    events: int
    secrets: bytes = field(repr=False)
    description: str
    paused: bool  #: its tenant's own hold
    held: Held | None
    failing_since: datetime | None
    disabled_at: datetime | None
    disabled_reason: str | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class DeliveryView:
    """A delivery as its tenant sees it, with what each attempt was answered."""

    id: int
    task_id: UUID
    message_id: str
    type: str
    url: str
    status: str
    attempts: int
    next_at: datetime | None
    last_code: int | None
    last_error: str | None
    created_at: datetime
    ended_at: datetime | None
    tries: Sequence[dict[str, Any]]


class WebhookCounts(NamedTuple):
    """Deliveries of one webhook, counted up to a limit."""

    pending: Count
    dead: Count


class Webhooks(Protocol):
    """Webhooks of tenants. Every method raises DatabaseUnavailable or OutcomeUnknown when PostgreSQL is away."""

    async def create(self, tenant_id: int, fields: dict[str, Any], most: int) -> Webhook | None:
        """A new one; None when the tenant has `most` already. Raises Conflict("webhook_exists") for a second one of
        the kind tasks."""

    async def find(self, tenant_id: int, webhook_id: int) -> Webhook | None:
        """The tenant's webhook of that id."""

    async def page(self, tenant_id: int | None, after: int, limit: int, *, failing: bool) -> list[Webhook]:
        """The next ones after an id, of a tenant or (None) of all; or those alone that fail or were switched off."""

    async def counts(self, tenant_id: int) -> dict[int, WebhookCounts]:
        """What waits for each webhook of a tenant, and what was given up of it, by the webhook's id."""

    async def update(self, current: Webhook, fields: dict[str, Any]) -> Webhook | None:
        """Change the given fields; None when it is gone, or, for new secrets, when the present ones are not those of
        `current` any more."""

    async def delete(self, tenant_id: int, webhook_id: int) -> bool:
        """Remove it: nothing more is sent."""

    async def sign_tasks(self, tenants: Sequence[int]) -> list[bool]:
        """Whether each of these tenants has the webhook that signs for the addresses of its tasks."""

    async def deliveries(
        self, tenant_id: int, webhook_id: int, before: int | None, limit: int
    ) -> tuple[list[DeliveryView], int | None]:
        """A page of a webhook's deliveries, newest first, and the cursor of the next one."""

    async def redeliver(self, tenant_id: int, webhook_id: int, delivery_id: int) -> DeliveryView | None:
        """Send it (again) now, with the whole schedule before it; None when there is no such delivery."""


@dataclass(frozen=True, slots=True)
class HookedEvent:
    """A completion event that somebody wants to hear of by webhook; `url` is the task's own address."""

    id: int
    tenant_id: int
    task_id: UUID
    bit: int
    message_id: str
    type: str
    body: str
    url: str | None
    line: str  #: what the task's own address shares with others of its host
    finished_at: datetime


@dataclass(frozen=True, slots=True)
class Delivery:
    """A delivery whose time has come."""

    id: int
    tenant_id: int
    webhook_id: int
    line: str
    url: str
    secrets: bytes = field(repr=False)
    message_id: str
    body: str
    attempts: int
    round: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What an address said: a status code and the beginning of its body, or why there was none."""

    code: int | None
    error: str | None
    body: str
    cost_ms: int

    @property
    def accepted(self) -> bool:
        return self.code is not None and 200 <= self.code < 300 and self.error is None

    @property
    def gone(self) -> bool:
        """The address says that it wants no more."""
        return self.code == 410


@dataclass(frozen=True, slots=True)
class Tried:
    """An attempt that is over; `pause` is when the next one follows, None: there is none."""

    delivery: Delivery
    answer: Answer
    pause: float | None


#: What is sent a few at a time: the deliveries of an endpoint, or those of a tenant's tasks to one host.
Line: TypeAlias = tuple[int, str]


@dataclass(slots=True)
class Place:
    """How far the looks at waiting deliveries have come: behind a webhook, and to a line in those with many."""

    after: int = -1
    inside: dict[int, str] = field(default_factory=dict)


class Reach(NamedTuple):
    """How much one look covers."""

    webhooks: int
    lines: int  #: of each webhook
    deliveries: int  #: of each line
    ahead: int  #: of an endpoint's, which has but one


class Deliveries(Protocol):
    """The deliveries, from the sender's side. Only the one sender that `hold_sender` admits may use it."""

    async def hold_sender(self) -> bool:
        """Be the one sender from now on, while the connection behind it lives; False when another one is."""

    async def due(self, place: Place, reach: Reach) -> tuple[list[Delivery], bool]:
        """The oldest due deliveries, those that are being sent included, of the next webhooks and lines from this place
        on, which moves with the look, from the end to the beginning; and whether there are more behind it."""

    async def tried(self, tries: Sequence[Tried], give_up_seconds: float) -> list[int]:
        """Write down what became of attempts; what was asked for by hand meanwhile is left as it is. Returns the
        webhooks that were switched off: they said that they are gone, or a delivery died and nothing but failures came
        for that long."""

    async def locked(self, tries: Sequence[Tried]) -> list[bool]:
        """Of each, whether somebody's transaction keeps its delivery locked, or its webhook: it cannot be written."""

    async def bury(self, limit: int) -> int:
        """Give up what waits for webhooks that were switched off or removed, but for locked ones; returns how many."""


class Poster(Protocol):
    """The way to the addresses of tenants."""

    async def post(self, url: str, headers: Sequence[tuple[str, str]], body: bytes) -> Answer:
        """Post once, within 15 s; never raises for the other side's sake."""
