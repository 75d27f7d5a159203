"""The typer application that every command registers on.

A command lives in services/cli/<noun>.py and says `@app.command()`. All those modules are imported at every
call, so a command imports what is slow (SQLAlchemy, HTTP and Kafka clients, servers) inside its function.
Modules with an underscore in their name, such as demo_run, hold a command's longer story and are not imported.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="sluiceway",
    help="Carries slow AI-model calls for many tenants, reliably.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def begin(
    context: typer.Context,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Data folder of the stack that is meant, for every command (SLUICEWAY_DATA)."),
    ] = None,
) -> None:
    """Commands that go to the stores find those of the stack that runs here."""
    from services.cli.here import OWN_SETTINGS, adopt_stack

    if data is not None:
        os.environ["SLUICEWAY_DATA"] = str(data)
    if context.invoked_subcommand not in OWN_SETTINGS:
        adopt_stack()
