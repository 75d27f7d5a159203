"""`sluiceway webhooks`: the webhooks of all tenants, for operators."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.app import app

if TYPE_CHECKING:
    from libs.common.ports_webhooks import Webhook
    from libs.common.settings import Settings


@app.command()
def webhooks(
    failing: Annotated[bool, typer.Option("--failing", help="Only those that fail or were switched off.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List the webhooks of every tenant: whether each is on, and since when it fails."""
    from libs.common.settings import load_settings
    from services.cli.wiring import complete

    found = [_line(webhook) for webhook in complete(_read(load_settings(), failing))]
    if as_json:
        print(json.dumps({"webhooks": found}))
        return
    for line in found:
        print(f"{line['tenant']:>12}  {line['id']:>8}  {line['state']:24}  {line['url'] or '(addresses of tasks)'}")


async def _read(settings: Settings, failing: bool) -> list[Webhook]:
    from libs.common.adapters.postgres.database import open_database
    from libs.common.adapters.postgres.webhooks import PostgresWebhooks

    async with open_database(settings.database_url.get_secret_value(), hot_connections=1) as database:
        return await PostgresWebhooks(database).list_all(failing=failing)


def _line(webhook: Webhook) -> dict[str, Any]:
    return {
        "id": str(webhook.id),
        "tenant": str(webhook.tenant_id),
        "kind": webhook.kind,
        "url": webhook.url.partition("?")[0] or None,
        "state": _state(webhook),
        "failing_since": webhook.failing_since.isoformat() if webhook.failing_since else None,
        "disabled_reason": webhook.disabled_reason,
    }


def _state(webhook: Webhook) -> str:
    if webhook.disabled_at is not None:
        return f"off: {webhook.disabled_reason}"
    if webhook.paused:
        return "paused"
    return "fails" if webhook.failing_since is not None else "on"
