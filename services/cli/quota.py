"""`sluiceway quota`: what a tenant's users may spend a day, and have spent."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from services.cli.app import app
from services.cli.control_room import ControlRoom, Document
from services.cli.options import LARGEST_ID, SMALLEST_TENANT
from services.cli.output import Column, JsonOption, Output, OutputOption, cell, chosen, show_document, show_list
from services.cli.remote import KeyFileOption
from services.cli.which_way import ApiOption, Way, asked, found

quota = typer.Typer(help="Points that users may spend a day.", no_args_is_help=True)
app.add_typer(quota, name="quota")

Tenant = Annotated[int, typer.Option("--tenant", min=SMALLEST_TENANT, max=LARGEST_ID, help="Whose users.")]
User = Annotated[str, typer.Option("--user", help="One user; left out: all who have no limit of their own.")]

_LIMITS: list[Column] = [
    ("USER", lambda row: row["user"] or "(all others)"),
    ("USED", lambda row: row["used"] if row["user"] else None),  # what they spent is in each one's own account
    ("POINTS A DAY", "points_per_day"),
]


@quota.command("set")
def set_limit(
    points: Annotated[int, typer.Argument(metavar="POINTS", min=0, help="Points a day.")],
    tenant: Tenant,
    user: User = "",
    url: ApiOption = "",
    key_file: KeyFileOption = None,
    output: OutputOption = Output.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Limit a user, or all who have no limit of their own; holds from the next create on.

    Example: sluiceway quota set 1000 --tenant 42 --user ann
    """
    asked(lambda room: room.quotas.limit(tenant, user, points), Way(url, key_file))
    said = f"{_named(user)} of tenant {tenant} may spend {points} points a day"
    document = {"tenant": str(tenant), "user": user, "points_per_day": points}
    show_document(document, chosen(output, as_json), lambda: print(said), [user])


@quota.command()
def clear(
    tenant: Tenant,
    user: User = "",
    url: ApiOption = "",
    key_file: KeyFileOption = None,
    output: OutputOption = Output.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Take a limit away; exit code 1 when there is none.

    Example: sluiceway quota clear --tenant 42 --user ann
    """
    cleared = asked(lambda room: found(room.quotas.clear(tenant, user)), Way(url, key_file))
    said = f"{_named(user)} of tenant {tenant}: {'the limit is gone' if cleared else 'there is no such limit'}"
    document = {"tenant": str(tenant), "user": user, "cleared": cleared}
    show_document(document, chosen(output, as_json), lambda: print(said), [user] if cleared else [])
    if not cleared:
        raise typer.Exit(1)


@quota.command()
def show(
    tenant: Tenant,
    user: Annotated[str | None, typer.Option("--user", help="The account of one user.")] = None,
    url: ApiOption = "",
    key_file: KeyFileOption = None,
    output: OutputOption = Output.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Show a tenant's limits and what was spent today, or the account of one user.

    Example: sluiceway quota show --tenant 42
    """

    async def ask(room: ControlRoom) -> Document:
        if user is not None:
            return await room.quotas.account(tenant, user)
        return {"tenant": str(tenant), "items": await room.quotas.limits(tenant)}

    shown = asked(ask, Way(url, key_file))
    users = [row["user"] for row in shown["items"]] if user is None else [user]
    show_document(shown, chosen(output, as_json), lambda: _show(shown, user), users)


def _show(shown: dict[str, Any], user: str | None) -> None:
    if user is None:
        show_list(shown["items"], _LIMITS, Output.TABLE)
        return
    limit = "no limit" if shown["limit"] is None else f"{shown['rest']} of {shown['limit']} left"
    print(f"{cell(user or '(no name)')}: {shown['used']} points used on {shown['day']}, {limit}")


def _named(user: str) -> str:
    return f"user {user!r}" if user else "every user without a limit of its own"
