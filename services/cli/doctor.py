"""`sluiceway doctor`: what is wrong here, and what to do next."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import typer

from services.cli.app import app
from services.cli.here import offer_stack
from services.cli.output import JsonOption, Output, OutputOption, cell, chosen, show_document

if TYPE_CHECKING:
    from libs.common.operations.doctor import Diagnosis
    from libs.common.settings import Settings

_MARKS = {"ok": "ok     ", "advice": "advice ", "problem": "PROBLEM"}


@app.command()
def doctor(output: OutputOption = Output.TABLE, as_json: JsonOption = False) -> None:
    """Examine settings, servers, results and staging; exit code 1 when something keeps the product from working.

    `--output ids` names what has a problem.

    Example: sluiceway doctor --json
    """
    from libs.common.domain.errors import WrongSetting
    from libs.common.operations.doctor import Diagnosis, problem
    from services.cli.usable_settings import usable_settings

    try:
        diagnosis = asyncio.run(_examine(usable_settings()))
    except WrongSetting as wrong:
        diagnosis = Diagnosis({"settings": [problem(line, "correct this setting") for line in wrong.lines]})
    report = diagnosis.as_dict()
    wrong_ones = dict.fromkeys(problem["check"] for problem in report["problems"])
    show_document(report, chosen(output, as_json), lambda: _show(diagnosis), wrong_ones)
    if not diagnosis.healthy:
        offer_stack()
    raise typer.Exit(0 if diagnosis.healthy else 1)


async def _examine(settings: Settings) -> Diagnosis:
    from libs.common.operations import doctor_places as places
    from libs.common.operations import doctor_servers as servers
    from libs.common.operations.doctor import examine
    from libs.common.runtime.logging import configure_logging

    configure_logging("doctor", "ERROR", settings.log_format)
    return await examine(
        {
            "settings": lambda: places.examine_settings(settings, os.environ),
            "adapters": places.examine_adapters,
            "secrets": lambda: places.examine_secrets(settings),
            "postgres": lambda: servers.examine_postgres(settings),
            "redis": lambda: servers.examine_redis(settings),
            "kafka": lambda: servers.examine_kafka(settings),
            "storage": lambda: places.examine_storage(settings),
            "staging": lambda: places.examine_staging(settings),
        }
    )


def _show(diagnosis: Diagnosis) -> None:
    for name, found in diagnosis.findings.items():
        for finding in found:
            print(f"{_MARKS[finding.level]} {name:9} {cell(finding.what)}")
            if finding.do:
                print(f"{'':17} -> {cell(finding.do)}")
