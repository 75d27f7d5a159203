"""`sluiceway secrets`: the keys that seal secrets at rest."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.app import app
from services.cli.output import OneObjectOption, cell, note
from services.cli.wiring import complete

if TYPE_CHECKING:
    from libs.common.adapters.secrets import KeyRing
    from libs.common.operations.rotation import PlaceReport
    from libs.common.settings import Settings

secrets = typer.Typer(help="The keys that seal secrets at rest.", no_args_is_help=True)
app.add_typer(secrets, name="secrets")


@secrets.callback()
def main() -> None:
    """The keys that seal secrets at rest."""


@secrets.command()
def new() -> None:
    """Print a new random key for SLUICEWAY_SECRET_KEYS; docs/operations.md tells how to bring it in.

    Example: sluiceway secrets new
    """
    from libs.common.adapters.secrets import new_key

    print(new_key())


@secrets.command()
def rotate(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count which key sealed what.")] = False,
    as_json: OneObjectOption = False,
) -> None:
    """Seal everything anew with the first key of SLUICEWAY_SECRET_KEYS; services may run meanwhile.

    Exit code 1 when something is left that another key sealed: no key opens it, or a process still seals with an old
    one. Exit code 2 when the keys cannot be used. A run that was interrupted is repeated.

    Example: sluiceway secrets rotate --dry-run
    """
    from libs.common.adapters.secrets import KeyRing
    from libs.common.runtime.start import arm_failpoints
    from libs.common.settings import load_settings

    settings = load_settings()
    arm_failpoints(settings)
    ring = KeyRing(settings.secret_keys.get_secret_value())
    reports = complete(_rotate(settings, ring, dry_run))
    left = sum(report.left for report in reports.values())
    if as_json:
        places = {name: report.as_dict() for name, report in reports.items()}
        print(json.dumps({"key": ring.newest, "dry_run": dry_run, "left": left, "places": places}))
    else:
        _show(reports, ring.newest)
    raise typer.Exit(1 if left and not dry_run else 0)


def _show(reports: dict[str, PlaceReport], newest: str) -> None:
    for name, report in reports.items():
        keys = ", ".join(f"{number} by {key}" for key, number in sorted(report.keys.items())) or "nothing"
        print(f"{name}: {cell(keys)}; {report.resealed} sealed anew by {newest}, {report.left} left")
        for unreadable in report.unreadable:
            note(str(unreadable))


async def _rotate(settings: Settings, ring: KeyRing, dry_run: bool) -> dict[str, PlaceReport]:
    from libs.common.adapters.postgres.database import open_database
    from libs.common.adapters.postgres.sealed import sealed_places
    from libs.common.operations.rotation import Rotation

    async with open_database(settings.database_url.get_secret_value(), hot_connections=1) as database:
        return await Rotation(ring, sealed_places(database)).run(dry_run=dry_run)
