"""`sluiceway audit`: whether all stores tell the same story."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.app import app
from services.cli.here import offer_stack
from services.cli.output import (
    JsonOption,
    Output,
    OutputOption,
    YesOption,
    cell,
    chosen,
    confirm,
    console,
    note,
    show_document,
)

if TYPE_CHECKING:
    from libs.common.operations.audit import Report
    from libs.common.settings import Settings

_DATABASE = "postgres"


@app.command()
def audit(
    output: OutputOption = Output.TABLE,
    as_json: JsonOption = False,
    fix: Annotated[bool, typer.Option("--fix", help="Repair what can be repaired safely.")] = False,
    yes: YesOption = False,
    wait: Annotated[bool, typer.Option("--wait", help="Look again until it is clean.")] = False,
    wait_seconds: Annotated[float, typer.Option("--wait-seconds", min=0, help="How long --wait waits at most.")] = 60.0,
) -> None:
    """Check the invariants over PostgreSQL, Redis, Kafka, results and staging.

    Exit code 1 when something is wrong, or when a store could not be looked at; 3 when that is PostgreSQL, which all
    the others are held against.

    Example: sluiceway audit --wait --fix --yes
    """
    if fix:
        confirm("Repair what is found, where it is safe? Rows and files that nothing stands for are deleted.", yes=yes)
    from libs.common.runtime.logging import configure_logging
    from libs.common.settings import load_settings

    settings = load_settings()
    configure_logging("audit", "ERROR", settings.log_format)
    report = asyncio.run(_run(settings, wait_seconds if wait else 0.0, fix))
    subjects = [violation.subject for violation in report.violations]
    show_document(report.as_dict(), chosen(output, as_json), lambda: _show(report), subjects)
    if report.unchecked:
        offer_stack()
    if _DATABASE in report.unchecked and not report.violations:
        raise typer.Exit(3)
    raise typer.Exit(0 if report.clean else 1)


async def _run(settings: Settings, wait_seconds: float, fix: bool) -> Report:
    from libs.common.adapters.postgres.refusals import remedy_of
    from libs.common.domain.errors import Unavailable
    from libs.common.operations.audit import Report
    from libs.common.operations.audit_stores import open_audit

    try:
        async with open_audit(settings) as opened:
            return await opened.run(wait_seconds=wait_seconds, fix=fix)
    except Unavailable as error:
        return Report([], {}, {_DATABASE: str(error)})
    except Exception as error:
        remedy = remedy_of(error)
        if remedy is None:
            raise
        return Report([], {}, {_DATABASE: remedy})


def _show(report: Report) -> None:
    from rich.table import Table

    from libs.common.operations.audit_findings import MEANINGS

    screen = console()
    if report.violations:
        table = Table(title="violations", title_justify="left")
        for heading in ("invariant", "subject", "detail", "what --fix does, or you do"):
            table.add_column(heading, overflow="fold")
        for violation in report.violations:
            fix = "--fix: " if violation.fix is not None else ""
            row = (violation.invariant, violation.subject, violation.detail, f"{fix}{violation.repair}")
            table.add_row(*map(cell, row))
        screen.print(table)
        for invariant in sorted({violation.invariant for violation in report.violations}):
            screen.print(f"{invariant} means: {MEANINGS.get(invariant, '?')}")
    for repaired in report.repaired:
        screen.print(f"repaired {repaired.invariant} {cell(repaired.subject)}: {repaired.repair}")
    for store, why in report.unchecked.items():
        note(f"could not look at {store}: {why}")
    looked = ", ".join(f"{invariant} {number}" for invariant, number in report.as_dict()["checked"].items())
    verdict = "clean" if report.clean else f"violations: {len(report.violations)}"
    screen.print(f"{verdict}; looked at {looked or 'nothing'}")
