"""What operators see and order, as documents of `/v1`: the same over the REST face and straight on the stores.

Every method raises Refused (NotFound, Invalid, Conflict) for what is not there or makes no sense, and Unavailable while
nobody answers, over REST too. What an API says of the key and its scopes is ApiError.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from libs.common.domain.errors import Unavailable

if TYPE_CHECKING:
    from libs.common.operations.replay import ReplayRequest
    from libs.common.ports_dead import DeadFilter
    from libs.common.ports_insight import SeriesWanted

Document: TypeAlias = dict[str, Any]
Steer: TypeAlias = Literal["pause", "resume", "stop"]


class ApiUnavailable(Unavailable):
    """The API gives no answer, or says that a store of its own is away."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What a pause is about: one model of a tenant, a tenant, or (neither) everything."""

    tenant: int | None = None
    model: str | None = None


class Sights(Protocol):
    """What flows, what waits and why. Lists have `most` items at most (all for None)."""

    async def why_task(self, task: str) -> Document: ...
    async def why_model(self, tenant: int, model: str) -> Document: ...
    async def overview(self) -> Document: ...
    async def lanes(self, tenant: int | None, *, busy: bool, most: int | None) -> list[Document]: ...
    async def executors(self) -> list[Document]: ...
    async def outbox(self) -> list[Document]: ...
    async def series(self, wanted: SeriesWanted) -> Document: ...
    async def actions(self, most: int) -> list[Document]: ...


class Orders(Protocol):
    """Pauses, and executors that shall leave. Each says in a word what it came to."""

    async def pause(self, scope: Scope, reason: str) -> str: ...
    async def resume(self, scope: Scope, reason: str) -> str: ...
    async def drain(self, executor: str, reason: str) -> str: ...
    async def undrain(self, executor: str, reason: str) -> str: ...


class Tenants(Protocol):
    """Who there is, and how tenants share what all of them wait for."""

    async def tenants(self, most: int) -> list[Document]: ...
    async def show(self, tenant: int) -> Document: ...
    async def weigh(self, tenant: int, weight: int) -> Document: ...


class Quotas(Protocol):
    """What a tenant's users may spend a day; the user '' stands for all who have no limit of their own."""

    async def limits(self, tenant: int) -> list[Document]: ...
    async def account(self, tenant: int, user: str) -> Document: ...
    async def limit(self, tenant: int, user: str, points: int) -> None: ...
    async def clear(self, tenant: int, user: str) -> None: ...


class Keys(Protocol):
    """API keys of a tenant."""

    async def keys(self, tenant: int) -> list[Document]: ...
    async def create(self, tenant: int, name: str, scopes: list[str]) -> Document: ...
    async def revoke(self, key: int) -> None: ...


class Webhooks(Protocol):
    """The webhooks of every tenant. Orders say in a word what they came to."""

    async def webhooks(self, *, failing: bool) -> list[Document]: ...
    async def pause(self, webhook: int, reason: str) -> str: ...
    async def resume(self, webhook: int, reason: str) -> str: ...


class Graves(Protocol):
    """The dead, and the jobs that replay or drop them."""

    async def dead(self, wanted: DeadFilter, most: int) -> list[Document]: ...
    async def groups(self, wanted: DeadFilter) -> Document: ...
    async def show(self, kind: str, dead: str) -> Document: ...
    async def preview(self, request: ReplayRequest) -> Document: ...
    async def start(self, request: ReplayRequest) -> Document: ...
    async def jobs(self, most: int) -> list[Document]: ...
    async def job(self, job: int) -> Document: ...
    async def items(self, job: int) -> list[Document]: ...
    async def steer(self, job: int, verb: Steer) -> Document: ...


@dataclass(frozen=True, slots=True)
class ControlRoom:
    """All of it."""

    sights: Sights
    orders: Orders
    tenants: Tenants
    quotas: Quotas
    keys: Keys
    webhooks: Webhooks
    graves: Graves
