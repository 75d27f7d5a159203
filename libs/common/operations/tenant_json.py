"""Tenants, limits of their users, their keys and webhooks, as JSON documents: the same on REST and the command line.

Ids of 64 bits are texts. Nothing here holds a secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from libs.common.domain.webhook import words_of
from libs.common.operations.insight_json import count_document
from libs.common.operations.keys import MadeKey
from libs.common.operations.quota import Account
from libs.common.ports_quota import TenantRecord, TenantUse, UserLimit
from libs.common.ports_webhooks import Webhook


def tenant_document(tenant: TenantRecord) -> dict[str, Any]:
    """A tenant as operators see it."""
    return {
        "id": str(tenant.id),
        "weight": tenant.weight,
        "paused": tenant.paused,
        "created_at": tenant.created_at,
    }


def tenant_use_document(use: TenantUse) -> dict[str, Any]:
    """The same in a list, with what it does."""
    return tenant_document(use.tenant) | {"models": count_document(use.models), "calls_today": use.calls}


def account_document(account: Account) -> dict[str, Any]:
    """A user's account of today."""
    return {
        "user": account.user,
        "day": account.day,
        "used": account.used,
        "limit": account.limit,
        "rest": account.rest,
        "own_limit": account.own_limit,
        "resets_at": account.resets_at,
    }


def limit_document(limit: UserLimit) -> dict[str, Any]:
    """A limit in a list."""
    return {
        "user": limit.user,
        "points_per_day": limit.points_per_day,
        "used": limit.used,
        "updated_at": limit.updated_at,
    }


def key_document(row: Mapping[str, Any]) -> dict[str, Any]:
    """A key that was made before."""
    return {
        "id": str(row["id"]),
        "tenant": str(row["tenant_id"]),
        "name": row["name"],
        "scopes": list(row["scopes"]),
        "created_at": row["created_at"],
        "revoked_at": row["revoked_at"],
    }


def made_key_document(made: MadeKey) -> dict[str, Any]:
    """A key that was made just now: the only time that it is told."""
    return {
        "id": str(made.id),
        "key": made.key,
        "tenant": str(made.tenant_id),
        "name": made.name,
        "scopes": list(made.scopes),
    }


def webhook_document(webhook: Webhook, *, operator: bool = False) -> dict[str, Any]:
    """A webhook. Operators are not told the query of an address, which is where senders hide tokens; tenants not which
    operator holds it."""
    held = webhook.held
    url = webhook.url.partition("?")[0] if operator else webhook.url
    return {
        "id": str(webhook.id),
        "tenant": str(webhook.tenant_id),
        "kind": webhook.kind,
        "url": url or None,
        "events": words_of(webhook.events),
        "description": webhook.description,
        "enabled": webhook.disabled_at is None,
        "paused": webhook.paused,
        "held": held and {"since": held.since, "by": held.by if operator else None, "reason": held.reason},
        "failing_since": webhook.failing_since,
        "disabled_at": webhook.disabled_at,
        "disabled_reason": webhook.disabled_reason,
        "created_at": webhook.created_at,
        "updated_at": webhook.updated_at,
    }
