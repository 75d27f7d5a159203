"""`sluiceway config`: what a service would be told here."""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated

import typer

from services.cli.app import app


@app.command()
def config(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """Show every setting with its value, secrets hidden; exit code 2 when one cannot be used."""
    from libs.common.settings import load_settings, unknown_names

    for name in unknown_names(os.environ):
        print(f"sluiceway: {name} is no setting; it changes nothing", file=sys.stderr)
    settings = load_settings()
    shown = settings.redacted()
    if as_json:
        print(json.dumps(shown))
        return
    for name, value in shown.items():
        print(f"{name}={value}")
