"""`sluiceway tenants`: who there is, and how tenants share what all of them wait for."""

from __future__ import annotations

from typing import Annotated

import typer

from services.cli.app import app
from services.cli.insight import counted
from services.cli.options import LARGEST_ID, SMALLEST_TENANT
from services.cli.output import Column, JsonOption, Output, OutputOption, chosen, show_list, show_one
from services.cli.remote import KeyFileOption
from services.cli.which_way import ApiOption, Way, asked

tenants = typer.Typer(help="Tenants: list, show, set-weight.", no_args_is_help=True)
app.add_typer(tenants, name="tenants")

Tenant = Annotated[int, typer.Argument(metavar="TENANT", min=SMALLEST_TENANT, max=LARGEST_ID, help="Its number.")]

_LISTED: list[Column] = [
    ("ID", "id"),
    ("WEIGHT", "weight"),
    ("PAUSED", lambda row: "paused" if row["paused"] else ""),
    ("MODELS", lambda row: counted(row["models"])),
    ("CALLS TODAY", "calls_today"),
    ("CREATED", "created_at"),
]


@tenants.command("list")
def list_tenants(
    limit: Annotated[int, typer.Option("--limit", min=1, max=100_000, help="So many at most.")] = 1_000,
    url: ApiOption = "",
    key_file: KeyFileOption = None,
    output: OutputOption = Output.TABLE,
    as_json: JsonOption = False,
) -> None:
    """List tenants by their numbers, with their models and the calls of today that were counted so far.

    Example: sluiceway tenants list --output ids
    """
    show_list(asked(lambda room: room.tenants.tenants(limit), Way(url, key_file)), _LISTED, chosen(output, as_json))


@tenants.command()
def show(
    tenant: Tenant,
    url: ApiOption = "",
    key_file: KeyFileOption = None,
    output: OutputOption = Output.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Show a tenant's weight, and whether it is paused; exit code 1 when nobody has heard of it.

    Example: sluiceway tenants show 42
    """
    show_one(asked(lambda room: room.tenants.show(tenant), Way(url, key_file)), chosen(output, as_json))


@tenants.command("set-weight")
def set_weight(
    tenant: Tenant,
    weight: Annotated[
        int, typer.Argument(metavar="WEIGHT", min=1, max=1_000, help="Starts for each one of a tenant of weight 1.")
    ],
    url: ApiOption = "",
    key_file: KeyFileOption = None,
    output: OutputOption = Output.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Give a tenant its weight in the rotation of tenants; dispatchers go by it within a second.

    Example: sluiceway tenants set-weight 42 3
    """
    show_one(asked(lambda room: room.tenants.weigh(tenant, weight), Way(url, key_file)), chosen(output, as_json))
