"""The typer application that every command registers on.

A command lives in services/cli/<noun>.py and says `@app.command()`. All those modules are imported at every
call, so a command imports what is slow (SQLAlchemy, HTTP and Kafka clients, servers) inside its function.
Modules with an underscore in their name, such as demo_run, hold a command's longer story and are not imported.
"""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from services.cli.output import printable


class _PlainlyRefusing(TyperGroup):
    """Complains of arguments without control characters: what was typed may be repeated in the complaint."""

    def make_context(self, *arguments: Any, **named: Any) -> Any:
        try:
            return super().make_context(*arguments, **named)
        except Exception as error:
            _make_printable(error)
            raise

    def invoke(self, *arguments: Any, **named: Any) -> Any:
        try:
            return super().invoke(*arguments, **named)
        except Exception as error:
            _make_printable(error)
            raise


def _make_printable(error: Any) -> None:
    if hasattr(error, "format_message"):  # typer brings a click of its own along: its errors are known by that
        error.message = printable(error.message)


app = typer.Typer(
    name="sluiceway",
    cls=_PlainlyRefusing,
    help="Carries slow AI-model calls for many tenants, reliably.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _tell_version(asked: bool) -> None:
    if asked:
        print(f"sluiceway {version('sluiceway')}")
        raise typer.Exit


@app.callback()
def begin(
    context: typer.Context,
    _version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the version.")
    ] = False,
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
