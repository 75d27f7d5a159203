"""The control room straight on the stores: it works while the API is down."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

import orjson

from libs.common.operations import dead_json, insight_json, tenant_json
from libs.common.ports_dead import DeadFilter, DeadKind
from libs.common.ports_insight import SeriesWanted
from services.cli.control_room import ControlRoom, Document, Scope, Steer

if TYPE_CHECKING:
    from libs.common.operations.control import Controls
    from libs.common.operations.keys import Keys
    from libs.common.operations.quota import Quota, Weights
    from libs.common.operations.replay import ReplayRequest
    from libs.common.ports_webhooks import Webhook
    from libs.common.ports_webhooks import Webhooks as StoredWebhooks
    from services.cli.wiring import Stores

View = TypeVar("View")
Item = TypeVar("Item")
Place = TypeVar("Place")
_LANES, _PAGE = 200, 1_000


def room_over_stores(stores: Stores, by: str) -> ControlRoom:
    """Whoever can reach the stores is an operator; `by` is recorded."""
    return ControlRoom(
        sights=StoresSights(stores),
        orders=StoresOrders(stores.controls, by),
        tenants=StoresTenants(stores.weights),
        quotas=StoresQuotas(stores.quota),
        keys=StoresKeys(stores.keys, by),
        webhooks=StoresWebhooks(stores.webhooks, stores.controls, by),
        dead=StoresDead(stores),
    )


@dataclass(frozen=True, slots=True)
class StoresSights:
    """Implements control_room.Sights."""

    stores: Stores

    async def why_task(self, task: str) -> Document:
        return plain(insight_json.task_why_document(await self.stores.why.task(None, UUID(task))))

    async def why_model(self, tenant: int, model: str) -> Document:
        return plain(insight_json.model_why_document(await self.stores.why.model(tenant, model), operator=True))

    async def overview(self) -> Document:
        return plain(insight_json.overview_document(await self.stores.sight.overview()))

    async def lanes(self, tenant: int | None, *, busy: bool, most: int | None) -> list[Document]:
        async def page(after: int | None, limit: int) -> tuple[Sequence[Any], int | None]:
            return await self.stores.sight.lanes(tenant, after=after or 0, limit=limit, busy=busy)

        return plain([insight_json.lane_document(lane, operator=True) for lane in await _gathered(page, most, _LANES)])

    async def executors(self) -> list[Document]:
        return plain([insight_json.executor_document(one) for one in await self.stores.sight.executors()])

    async def outbox(self) -> list[Document]:
        return plain([insight_json.outbox_document(channel) for channel in await self.stores.sight.outbox()])

    async def pauses(self) -> list[Document]:
        found = await self.stores.sight.pauses(None)
        return plain([insight_json.pause_document(pause, operator=True) for pause in found])

    async def series(self, wanted: SeriesWanted) -> Document:
        return plain(insight_json.series_document(await self.stores.series.read(wanted), wanted.step_seconds))

    async def actions(self, most: int) -> list[Document]:
        found = await _gathered(self.stores.controls.actions, most, _PAGE)
        return plain([insight_json.action_document(one) for one in found])


@dataclass(frozen=True, slots=True)
class StoresOrders:
    """Implements control_room.Orders."""

    controls: Controls
    by: str

    async def pause(self, scope: Scope, reason: str) -> str:
        if scope.tenant is None:
            return await self.controls.pause_all(self.by, reason)
        if scope.model is None:
            return await self.controls.pause_tenant(scope.tenant, self.by, reason)
        return await self.controls.pause_model(scope.tenant, scope.model, self.by, reason)

    async def resume(self, scope: Scope, reason: str) -> str:
        if scope.tenant is None:
            return await self.controls.resume_all(self.by, reason)
        if scope.model is None:
            return await self.controls.resume_tenant(scope.tenant, self.by, reason)
        return await self.controls.resume_model(scope.tenant, scope.model, self.by, reason)

    async def drain(self, executor: str, reason: str) -> str:
        return await self.controls.drain(executor, self.by, reason)

    async def undrain(self, executor: str, reason: str) -> str:
        return await self.controls.undrain(executor, self.by, reason)


@dataclass(frozen=True, slots=True)
class StoresTenants:
    """Implements control_room.Tenants."""

    weights: Weights

    async def tenants(self, most: int) -> list[Document]:
        return plain([tenant_json.tenant_use_document(use) for use in await _gathered(self.weights.page, most, _PAGE)])

    async def show(self, tenant: int) -> Document:
        return plain(tenant_json.tenant_document(await self.weights.read(tenant)))

    async def weigh(self, tenant: int, weight: int) -> Document:
        return plain(tenant_json.tenant_document(await self.weights.weigh(tenant, weight)))


@dataclass(frozen=True, slots=True)
class StoresQuotas:
    """Implements control_room.Quotas."""

    quota: Quota

    async def limits(self, tenant: int) -> list[Document]:
        async def page(after: str | None, limit: int) -> tuple[Sequence[Any], str | None]:
            return await self.quota.limits(tenant, after, limit)

        return plain([tenant_json.limit_document(limit) for limit in await _gathered(page, None, _PAGE)])

    async def account(self, tenant: int, user: str) -> Document:
        return plain(tenant_json.account_document(await self.quota.account(tenant, user)))

    async def limit(self, tenant: int, user: str, points: int) -> None:
        await self.quota.set_limit(tenant, user, points)

    async def clear(self, tenant: int, user: str) -> None:
        await self.quota.clear_limit(tenant, user)


@dataclass(frozen=True, slots=True)
class StoresKeys:
    """Implements control_room.Keys."""

    stored: Keys
    by: str

    async def keys(self, tenant: int) -> list[Document]:
        return plain([tenant_json.key_document(key) for key in await self.stored.list_of(tenant)])

    async def create(self, tenant: int, name: str, scopes: list[str]) -> Document:
        return plain(tenant_json.made_key_document(await self.stored.create(tenant, name, scopes, self.by)))

    async def revoke(self, key: int) -> None:
        await self.stored.revoke(key, self.by)


@dataclass(frozen=True, slots=True)
class StoresWebhooks:
    """Implements control_room.Webhooks."""

    stored: StoredWebhooks
    controls: Controls
    by: str

    async def webhooks(self, *, failing: bool) -> list[Document]:
        async def page(after: int | None, limit: int) -> tuple[Sequence[Webhook], int | None]:
            found = await self.stored.page(None, after or 0, limit, failing=failing)
            return found, found[-1].id if len(found) == limit else None

        return plain([tenant_json.webhook_document(one, operator=True) for one in await _gathered(page, None, _PAGE)])

    async def pause(self, webhook: int, reason: str) -> str:
        return await self.controls.pause_webhook(webhook, self.by, reason)

    async def resume(self, webhook: int, reason: str) -> str:
        return await self.controls.resume_webhook(webhook, self.by, reason)


@dataclass(frozen=True, slots=True)
class StoresDead:
    """Implements control_room.Dead."""

    stores: Stores

    async def entries(self, wanted: DeadFilter, most: int) -> list[Document]:
        async def page(after: Any, limit: int) -> tuple[Sequence[Any], Any]:
            return await self.stores.dead.page(None, wanted, after, limit)

        return plain([dead_json.entry_document(entry) for entry in await _gathered(page, most, _PAGE)])

    async def groups(self, wanted: DeadFilter) -> Document:
        return plain(dead_json.groups_document(await self.stores.dead.groups(None, wanted)))

    async def show(self, kind: str, dead: str) -> Document:
        details = await self.stores.dead.show(None, DeadKind(kind), dead)
        return plain(dead_json.details_document(details, self.stores.opener))

    async def preview(self, request: ReplayRequest) -> Document:
        return plain(dead_json.preview_document(await self.stores.replays.preview(None, request)))

    async def start(self, request: ReplayRequest) -> Document:
        started = await self.stores.replays.start(None, request)
        return plain(dead_json.job_document(started.job, started.unknown))

    async def jobs(self, most: int) -> list[Document]:
        async def page(before: int | None, limit: int) -> tuple[Sequence[Any], int | None]:
            return await self.stores.replays.page(None, before, limit)

        return plain([dead_json.job_document(job) for job in await _gathered(page, most, _PAGE)])

    async def job(self, job: int) -> Document:
        return plain(dead_json.job_document(await self.stores.replays.show(None, job)))

    async def items(self, job: int) -> list[Document]:
        async def page(after: int | None, limit: int) -> tuple[Sequence[Any], int | None]:
            return await self.stores.replays.items(None, job, after, limit)

        return plain([dead_json.item_document(item) for item in await _gathered(page, None, _PAGE)])

    async def steer(self, job: int, verb: Steer) -> Document:
        replays = self.stores.replays
        steered = {"pause": replays.pause, "resume": replays.resume, "stop": replays.stop}
        return plain(dead_json.job_document(await steered[verb](None, job)))


def plain(view: View) -> View:
    """A document as the API writes it: times as RFC 3339 text in UTC."""
    written: View = orjson.loads(orjson.dumps(view, option=orjson.OPT_UTC_Z))
    return written


async def _gathered(
    page: Callable[[Place | None, int], Awaitable[tuple[Sequence[Item], Place | None]]], most: int | None, largest: int
) -> list[Item]:
    """Page by page until there are `most` (all for None), each page of `largest` rows at most."""
    found: list[Item] = []
    place: Place | None = None
    while most is None or len(found) < most:
        rows, place = await page(place, largest if most is None else min(largest, most - len(found)))
        found += rows
        if place is None:
            break
    return found
