"""`sluiceway tenants`: who there is, and how tenants share what all of them wait for. Straight on the stores."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.app import app
from services.cli.options import LARGEST_ID, SMALLEST_TENANT
from services.cli.output import Column, JsonOption, Output, OutputOption, chosen, note, show_list, show_one
from services.cli.wiring import complete

if TYPE_CHECKING:
    from libs.common.operations.quota import Weights
    from libs.common.ports_quota import TenantRecord

_PAGE = 500

tenants = typer.Typer(help="Tenants: list, show, set-weight.", no_args_is_help=True)
app.add_typer(tenants, name="tenants")

Tenant = Annotated[int, typer.Argument(metavar="TENANT", min=SMALLEST_TENANT, max=LARGEST_ID, help="Its number.")]

_LISTED: list[Column] = [
    ("ID", "id"),
    ("WEIGHT", "weight"),
    ("PAUSED", lambda row: "paused" if row["paused"] else ""),
    ("MODELS", lambda row: f"{row['models']['value']}" if row["models"]["exact"] else f">{row['models']['value']}"),
    ("CALLS TODAY", "calls_today"),
    ("CREATED", "created_at"),
]


@tenants.command("list")
def list_tenants(
    limit: Annotated[int, typer.Option("--limit", min=1, max=100_000, help="So many at most.")] = 1_000,
    output: OutputOption = Output.TABLE,
    as_json: JsonOption = False,
) -> None:
    """List tenants by their numbers, with their models and the calls of today that were counted so far.

    Example: sluiceway tenants list --output ids
    """
    show_list(complete(_list(limit)), _LISTED, chosen(output, as_json))


@tenants.command()
def show(tenant: Tenant, output: OutputOption = Output.TABLE, as_json: JsonOption = False) -> None:
    """Show a tenant's weight, and whether it is paused; exit code 1 when nobody has heard of it.

    Example: sluiceway tenants show 42
    """
    show_one(complete(_show(tenant)), chosen(output, as_json))


@tenants.command("set-weight")
def set_weight(
    tenant: Tenant,
    weight: Annotated[int, typer.Argument(metavar="WEIGHT", help="Starts for each one of a tenant of weight 1.")],
    output: OutputOption = Output.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Give a tenant its weight in the rotation of tenants; dispatchers go by it within a second.

    Example: sluiceway tenants set-weight 42 3
    """
    show_one(complete(_weigh(tenant, weight)), chosen(output, as_json))


async def _list(limit: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    after: int | None = None
    async with _opened() as weights:
        while len(found) < limit:
            page, after = await weights.page(after, min(_PAGE, limit - len(found)))
            found += [
                _view(use.tenant)
                | {"models": {"value": use.models.value, "exact": use.models.exact}, "calls_today": use.calls}
                for use in page
            ]
            if after is None:
                break
    return found


async def _show(tenant: int) -> dict[str, Any]:
    from libs.common.domain.errors import NotFound

    async with _opened() as weights:
        try:
            return _view(await weights.read(tenant))
        except NotFound as unknown:
            note(unknown.message)
            raise typer.Exit(1) from None


async def _weigh(tenant: int, weight: int) -> dict[str, Any]:
    from libs.common.domain.errors import Invalid

    async with _opened() as weights:
        try:
            return _view(await weights.weigh(tenant, weight))
        except Invalid as wrong:
            note(wrong.message)
            raise typer.Exit(2) from None


def _view(tenant: TenantRecord) -> dict[str, Any]:
    """As REST shows it."""
    return {
        "id": str(tenant.id),
        "weight": tenant.weight,
        "paused": tenant.paused,
        "created_at": tenant.created_at.isoformat().replace("+00:00", "Z"),
    }


@asynccontextmanager
async def _opened() -> AsyncIterator[Weights]:
    from libs.common.runtime.logging import configure_logging
    from libs.common.settings import load_settings
    from services.cli.wiring import open_weights

    settings = load_settings()
    configure_logging("cli", "ERROR", settings.log_format)  # where Redis is away, dispatchers look by themselves
    async with open_weights(settings) as weights:
        yield weights
