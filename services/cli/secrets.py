"""`sluiceway secrets`: the keys that seal secrets at rest."""

from __future__ import annotations

import typer

from services.cli.app import app

secrets = typer.Typer(help="The keys that seal secrets at rest.", no_args_is_help=True)
app.add_typer(secrets, name="secrets")


@secrets.callback()
def main() -> None:
    """The keys that seal secrets at rest."""


@secrets.command()
def new() -> None:
    """Print a new random key; put it in front of SLUICEWAY_SECRET_KEYS."""
    from libs.common.adapters.secrets import new_key

    print(new_key())
