"""Webhooks of a tenant: made, changed, rotated, removed; their deliveries read and sent again."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Final

from libs.common.contracts.webhook import check_secret, decode_secrets, encode_secrets, new_secret
from libs.common.domain.errors import Conflict, Invalid, NotFound
from libs.common.domain.model_errors import EgressRefused
from libs.common.domain.webhook import ALL_ENDS, Secrets, check_webhook_url, mask_of
from libs.common.ports import Guard, Ring
from libs.common.ports_webhooks import DeliveryView, Webhook, WebhookCounts, Webhooks

MOST_WEBHOOKS: Final = 50
_TRIES: Final = 5
_SIGNS_SECONDS: Final = 5.0
_MOST_REMEMBERED: Final = 10_000


class WebhookAdministration:
    """One implementation for every face. A secret is told by what makes it, and never again."""

    def __init__(self, webhooks: Webhooks, ring: Ring, guard: Guard) -> None:
        self._webhooks = webhooks
        self._ring = ring
        self._guard = guard

    async def create(self, tenant_id: int, given: dict[str, Any]) -> tuple[Webhook, str]:
        """A new webhook and its secret. Raises Invalid, Conflict."""
        kind, url = given.get("kind", "endpoint"), given.get("url") or ""
        if kind == "tasks" and url:
            raise _no_address()
        if kind == "endpoint":
            await self._check(url)
        secret = check_secret(given["secret"]) if given.get("secret") else new_secret()
        fields = {
            "kind": kind,
            "url": url,
            "events": _mask(given),
            "secrets": self._sealed(tenant_id, Secrets(secret)),
            "description": given.get("description", ""),
        }
        webhook = await self._webhooks.create(tenant_id, fields, MOST_WEBHOOKS)
        if webhook is None:
            raise Conflict("webhook_limit", f"a tenant has at most {MOST_WEBHOOKS} webhooks")
        return webhook, secret

    async def counted(self, tenant_id: int) -> list[tuple[Webhook, WebhookCounts]]:
        """All webhooks of a tenant, oldest first, each with what waits for it and what died."""
        found = await self._webhooks.page(tenant_id, 0, MOST_WEBHOOKS, failing=False)
        counts = await self._webhooks.counts(tenant_id)
        return [(webhook, counts[webhook.id]) for webhook in found if webhook.id in counts]  # else it was just removed

    async def get(self, tenant_id: int, webhook_id: int | None) -> Webhook:
        """A webhook; raises NotFound."""
        webhook = await self._webhooks.find(tenant_id, webhook_id) if webhook_id is not None else None
        if webhook is None:
            raise NotFound("webhook_unknown", "there is no such webhook")
        return webhook

    async def page(
        self, reach: int | None, after: int | None, limit: int, *, failing: bool = False
    ) -> tuple[list[Webhook], int | None]:
        """A page within a reach, one tenant's or (None) everybody's, oldest first, and the id to go on after."""
        found = await self._webhooks.page(reach, after or 0, limit + 1, failing=failing)
        return found[:limit], found[limit - 1].id if len(found) > limit else None

    async def change(self, tenant_id: int, webhook_id: int | None, given: dict[str, Any]) -> Webhook:
        """Change the given fields; switching one on again forgets its failures. Raises Invalid, NotFound, Conflict."""
        fields: dict[str, Any] = {name: given[name] for name in ("description", "paused", "enabled") if name in given}
        if "events" in given:
            fields["events"] = _mask(given)
        if "url" in given:
            if (await self.get(tenant_id, webhook_id)).kind == "tasks":
                raise _no_address()
            await self._check(given["url"])
            fields["url"] = given["url"]
        return await self._update(tenant_id, webhook_id, lambda _: fields)

    async def rotate(self, tenant_id: int, webhook_id: int | None, secret: str | None) -> tuple[Webhook, str]:
        """A fresh secret signs from now on, and the present one beside it for a day. Raises Invalid, NotFound."""
        fresh = check_secret(secret) if secret else new_secret()

        def rotated(current: Webhook) -> dict[str, Any]:
            present = decode_secrets(self._ring.open(current.secrets, _owner(tenant_id)))
            return {"secrets": self._sealed(tenant_id, present.rotated(fresh, datetime.now(UTC)))}

        return await self._update(tenant_id, webhook_id, rotated), fresh

    async def delete(self, tenant_id: int, webhook_id: int | None) -> None:
        """Remove it: what waits for it is given up. Raises NotFound."""
        if webhook_id is None or not await self._webhooks.delete(tenant_id, webhook_id):
            raise NotFound("webhook_unknown", "there is no such webhook")

    async def deliveries(
        self, tenant_id: int, webhook_id: int | None, before: int | None, limit: int
    ) -> tuple[list[DeliveryView], int | None]:
        """A page of its deliveries, newest first, and where the next one goes on. Raises NotFound."""
        webhook = await self.get(tenant_id, webhook_id)
        return await self._webhooks.deliveries(tenant_id, webhook.id, before, limit)

    async def redeliver(self, tenant_id: int, webhook_id: int | None, delivery_id: int | None) -> DeliveryView:
        """Send a delivery (again) now, under the same id. Raises NotFound, Conflict."""
        webhook = await self.get(tenant_id, webhook_id)
        if webhook.disabled_at is not None:
            raise Conflict("webhook_disabled", "the webhook is switched off: switch it on first")
        found = None
        if delivery_id is not None:
            found = await self._webhooks.redeliver(tenant_id, webhook.id, delivery_id)
        if found is None:
            raise NotFound("delivery_unknown", "there is no such delivery")
        return found

    async def _update(
        self, tenant_id: int, webhook_id: int | None, change: Callable[[Webhook], dict[str, Any]]
    ) -> Webhook:
        for _ in range(_TRIES):
            current = await self.get(tenant_id, webhook_id)
            changed = await self._webhooks.update(current, change(current))
            if changed is not None:
                return changed
        raise Conflict("conflict", "the webhook is being changed by others, try again")

    async def _check(self, url: str) -> None:
        endpoint = check_webhook_url(url, "/url")
        try:
            await self._guard.check_resolved(endpoint.url)
        except EgressRefused as error:
            raise Invalid(error.code, str(error), field="/url") from None

    def _sealed(self, tenant_id: int, secrets: Secrets) -> bytes:
        return self._ring.seal(encode_secrets(secrets), _owner(tenant_id))


class TaskHooks:
    """Judges the address that a task brings along, before the task is accepted."""

    def __init__(self, signs_tasks: Callable[[int], Awaitable[bool]], guard: Guard) -> None:
        """`signs_tasks` answers whether a tenant has what signs for its tasks' addresses; many may ask at once."""
        self._signs_tasks = signs_tasks
        self._guard = guard
        self._signing: dict[int, float] = {}

    async def check(self, tenant_id: int, url: str) -> None:
        """Raises Invalid for an address that cannot be posted to, or if nothing would sign what is sent there."""
        endpoint = check_webhook_url(url, "/webhook_url")
        try:
            self._guard.check_url(endpoint.url)
        except EgressRefused as error:
            raise Invalid(error.code, str(error), field="/webhook_url") from None
        if self._signing.get(tenant_id, 0.0) > time.monotonic():
            return
        if not await self._signs_tasks(tenant_id):
            message = 'nothing would sign it: make, or switch on, the webhook of the kind "tasks" (/v1/webhooks)'
            raise Invalid("webhook_unsigned", message, field="/webhook_url")
        if len(self._signing) >= _MOST_REMEMBERED:
            self._signing.clear()
        self._signing[tenant_id] = time.monotonic() + _SIGNS_SECONDS


def _no_address() -> Invalid:
    return Invalid("webhook_url", "one of the kind tasks has no address: tasks bring theirs", field="/url")


def _mask(given: dict[str, Any]) -> int:
    return mask_of(given["events"]) if given.get("events") else ALL_ENDS


def _owner(tenant_id: int) -> str:
    return f"webhook:{tenant_id}"
