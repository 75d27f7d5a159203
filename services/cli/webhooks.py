"""`sluiceway webhooks`: the webhooks of all tenants, for operators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.app import app
from services.cli.insight import Reason, say
from services.cli.options import LARGEST_ID
from services.cli.output import Column, JsonOption, Output, OutputOption, chosen, show_document, show_list
from services.cli.which_way import By, Way, asked

if TYPE_CHECKING:
    from libs.common.ports_webhooks import Webhook
    from libs.common.settings import Settings

_LISTED: list[Column] = [
    ("ID", "id"),
    ("TENANT", "tenant"),
    ("STATE", "state"),
    ("FAILING SINCE", "failing_since"),
    ("URL", lambda line: line["url"] or "(addresses of tasks)"),
]


webhooks = typer.Typer(
    help="""The webhooks of every tenant: list, pause, resume.

    Without a command: list them, whether each is on, and since when it fails.

    Example: sluiceway webhooks --failing
    """,
    invoke_without_command=True,
)
app.add_typer(webhooks, name="webhooks")

WebhookId = Annotated[int, typer.Argument(metavar="ID", min=1, max=LARGEST_ID, help="id of `webhooks`.")]


@webhooks.callback()
def list_webhooks(
    context: typer.Context,
    failing: Annotated[bool, typer.Option("--failing", help="Only those that fail or were switched off.")] = False,
    output: OutputOption = Output.TABLE,
    as_json: JsonOption = False,
) -> None:
    if context.invoked_subcommand is not None:
        return
    from libs.common.settings import load_settings
    from services.cli.wiring import complete

    found = [_line(webhook) for webhook in complete(_read(load_settings(), failing))]
    show_document(
        {"webhooks": found},
        chosen(output, as_json),
        lambda: show_list(found, _LISTED, Output.TABLE),
        [line["id"] for line in found],
    )


@webhooks.command()
def pause(
    webhook_id: WebhookId, reason: Reason = "", by: By = "", output: OutputOption = Output.TABLE,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Let the deliveries of a webhook wait; they go out when it is resumed. Exit code 1 when there is no such webhook.

    Example: sluiceway webhooks pause 7 --reason "their server is being moved"
    """
    say(asked(lambda room: room.orders.pause_webhook(webhook_id, reason), Way(by=by)), chosen(output, as_json))


@webhooks.command()
def resume(
    webhook_id: WebhookId, reason: Reason = "", by: By = "", output: OutputOption = Output.TABLE,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Let the deliveries of a webhook go out again, what waited too.

    Example: sluiceway webhooks resume 7
    """
    say(asked(lambda room: room.orders.resume_webhook(webhook_id, reason), Way(by=by)), chosen(output, as_json))


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
