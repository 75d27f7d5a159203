"""`sluiceway config`: what a service would be told here."""

from __future__ import annotations

import os

from services.cli.app import app
from services.cli.output import JsonOption, Output, OutputOption, chosen, note, print_exactly, show_document


@app.command()
def config(output: OutputOption = Output.TABLE, as_json: JsonOption = False) -> None:
    """Show every setting with its value, secrets hidden; exit code 2 when one cannot be used.

    Example: sluiceway config --output yaml
    """
    from libs.common.settings import unknown_names
    from services.cli.usable_settings import usable_settings

    for name in unknown_names(os.environ):
        note(f"{name} is no setting; it changes nothing")
    settings = usable_settings()
    shown = settings.redacted()

    def table() -> None:
        for name, value in shown.items():
            print_exactly(f"{name}={value}")

    show_document(shown, chosen(output, as_json), table, shown)
