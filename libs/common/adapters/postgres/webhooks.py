"""Webhooks in PostgreSQL, from the side of their tenants."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy.exc import IntegrityError

from libs.common.adapters.postgres.database import Database
from libs.common.adapters.postgres.insight import counted
from libs.common.adapters.postgres.paging import BEHIND_ALL, page_of
from libs.common.domain.count import Count
from libs.common.domain.errors import Conflict
from libs.common.ports_webhooks import DeliveryView, Held, Webhook, WebhookCounts

#: Deliveries of a tenant are counted so far.
_COUNT_LIMIT: Final = 1_000
_FIELDS: Final = ("kind", "url", "events", "secrets", "description")
_CHANGING: Final = ("url", "events", "secrets", "description", "paused", "enabled")


class PostgresWebhooks:
    """Implements ports_webhooks.Webhooks."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, tenant_id: int, fields: dict[str, Any], most: int) -> Webhook | None:
        try:
            async with self._database.queries() as transaction:
                await transaction.query("count_webhooks_alone", tenant_id=tenant_id)
                rows = await transaction.query(
                    "create_webhook", tenant_id=tenant_id, most=most, **{name: fields[name] for name in _FIELDS}
                )
        except IntegrityError as error:
            raise Conflict("webhook_exists", "there is one of the kind tasks already", field="/kind") from error
        return _webhook(rows[0]) if rows else None

    async def find(self, tenant_id: int, webhook_id: int) -> Webhook | None:
        rows = await self._database.query("find_webhook", tenant_id=tenant_id, id=webhook_id)
        return _webhook(rows[0]) if rows else None

    async def page(self, tenant_id: int | None, after: int, limit: int, *, failing: bool) -> list[Webhook]:
        rows = await self._database.query(
            "webhook_page", tenant_id=tenant_id, after=after, limit=limit, failing=failing
        )
        return [_webhook(row) for row in rows]

    async def counts(self, tenant_id: int) -> dict[int, WebhookCounts]:
        rows = await self._database.query("webhook_counts", tenant_id=tenant_id, most=_COUNT_LIMIT + 1)
        return {
            row.id: WebhookCounts(
                counted(row.pending, _COUNT_LIMIT), Count(min(row.dead, _COUNT_LIMIT), row.looked <= _COUNT_LIMIT)
            )
            for row in rows
        }

    async def update(self, current: Webhook, fields: dict[str, Any]) -> Webhook | None:
        given = dict.fromkeys(_CHANGING) | fields
        rows = await self._database.query(
            "update_webhook", tenant_id=current.tenant_id, id=current.id, was=current.secrets, **given
        )
        return _webhook(rows[0]) if rows else None

    async def delete(self, tenant_id: int, webhook_id: int) -> bool:
        async with self._database.transaction() as transaction:
            gone = bool(await transaction.fetch("delete_webhook", tenant_id, webhook_id))
            if gone:
                await transaction.fetch("end_webhook_pause", tenant_id, webhook_id)
        return gone

    async def sign_tasks(self, tenants: Sequence[int]) -> list[bool]:
        rows = await self._database.read("signs_tasks", sorted(set(tenants)))
        signing = {row["tenant_id"] for row in rows}
        return [tenant_id in signing for tenant_id in tenants]

    async def deliveries(
        self, tenant_id: int, webhook_id: int, before: int | None, limit: int
    ) -> tuple[list[DeliveryView], int | None]:
        rows = await self._database.query(
            "list_deliveries",
            tenant_id=tenant_id,
            webhook_id=webhook_id,
            before=BEHIND_ALL if before is None else before,
            limit=limit + 1,
        )
        return page_of([_delivery(row) for row in rows], limit)

    async def redeliver(self, tenant_id: int, webhook_id: int, delivery_id: int) -> DeliveryView | None:
        rows = await self._database.query(
            "redeliver", tenant_id=tenant_id, webhook_id=webhook_id, delivery_id=delivery_id
        )
        return _delivery(rows[0]) if rows else None


def _webhook(row: Any) -> Webhook:
    return Webhook(
        id=row.id,
        tenant_id=row.tenant_id,
        kind=row.kind,
        url=row.url,
        events=row.events,
        secrets=row.secrets,
        description=row.description,
        paused=row.paused,
        held=None if row.held_since is None else Held(row.held_since, row.held_by, row.held_reason),
        failing_since=row.failing_since,
        disabled_at=row.disabled_at,
        disabled_reason=row.disabled_reason,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def _delivery(row: Any) -> DeliveryView:
    return DeliveryView(
        id=row.id,
        task_id=row.task_id,
        message_id=row.message_id,
        type=row.type,
        url=row.url,
        status=row.status,
        attempts=row.attempts,
        next_at=row.next_at,
        last_code=row.last_code,
        last_error=row.last_error,
        created_at=row.created_at,
        ended_at=row.ended_at,
        tries=[{**tried, "at": datetime.fromisoformat(tried["at"])} for tried in row.tries],
    )
