"""`sluiceway webhooks`: the webhooks of all tenants, for operators."""

from __future__ import annotations

from typing import Annotated

import typer

from services.cli.app import app
from services.cli.control_room import Document
from services.cli.insight import Reason, say
from services.cli.options import LARGEST_ID
from services.cli.output import Column, JsonOption, Output, OutputOption, chosen, show_document, show_list
from services.cli.remote import KeyFileOption
from services.cli.which_way import ApiOption, By, Way, asked

_LISTED: list[Column] = [
    ("ID", "id"),
    ("TENANT", "tenant"),
    ("STATE", "state"),
    ("FAILING SINCE", "failing_since"),
    ("URL", lambda line: line["url"] or "(addresses of tasks)"),
]


webhooks = typer.Typer(
    help="""The webhooks of every tenant: alone it lists them; pause, resume.

    Without a command: list them, whether each is on, held by an operator, or paused by its tenant, and since when it
    fails.

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
    url: ApiOption = "",
    key_file: KeyFileOption = None,
    output: OutputOption = Output.TABLE,
    as_json: JsonOption = False,
) -> None:
    if context.invoked_subcommand is not None:
        for name in ("url", "key_file"):
            source = context.get_parameter_source(name)
            if source is not None and source.name == "COMMANDLINE":  # typer brings a click of its own along
                hint = f"--{name.replace('_', '-')}"
                raise typer.BadParameter(f"say it behind {context.invoked_subcommand!r}", param_hint=hint)
        return
    listed = asked(lambda room: room.webhooks.webhooks(failing=failing), Way(url, key_file))
    found = [_line(webhook) for webhook in listed]
    show_document(
        {"webhooks": found},
        chosen(output, as_json),
        lambda: show_list(found, _LISTED, Output.TABLE),
        [line["id"] for line in found],
    )


@webhooks.command()
def pause(
    webhook_id: WebhookId,
    reason: Reason = "",
    by: By = "",
    url: ApiOption = "",
    key_file: KeyFileOption = None,
    output: OutputOption = Output.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Let the deliveries of a webhook wait; they go out when an operator resumes it, and its tenant cannot.

    Exit code 1 when there is no such webhook.

    Example: sluiceway webhooks pause 7 --reason "their server is being moved"
    """
    verdict = asked(lambda room: room.webhooks.pause(webhook_id, reason), Way(url, key_file, by))
    say(verdict, chosen(output, as_json))


@webhooks.command()
def resume(
    webhook_id: WebhookId,
    reason: Reason = "",
    by: By = "",
    url: ApiOption = "",
    key_file: KeyFileOption = None,
    output: OutputOption = Output.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Let the deliveries of a webhook go out again, what waited too, unless its tenant holds them itself.

    Example: sluiceway webhooks resume 7
    """
    verdict = asked(lambda room: room.webhooks.resume(webhook_id, reason), Way(url, key_file, by))
    say(verdict, chosen(output, as_json))


def _line(webhook: Document) -> Document:
    names = ("id", "tenant", "kind", "url")
    return {
        **{name: webhook[name] for name in names},
        "state": _state(webhook),
        "held": webhook["held"],
        "failing_since": webhook["failing_since"],
        "disabled_reason": webhook["disabled_reason"],
    }


def _state(webhook: Document) -> str:
    if not webhook["enabled"]:
        return f"off: {webhook['disabled_reason']}"
    if webhook["held"]:
        return f"held: {webhook['held']['reason']}" if webhook["held"]["reason"] else "held"
    if webhook["paused"]:
        return "paused"
    return "fails" if webhook["failing_since"] is not None else "on"
