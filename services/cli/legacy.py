"""`sluiceway import-legacy`: the tables of an old Go gateway."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated
from zoneinfo import ZoneInfo

import typer

from services.cli.app import app
from services.cli.output import OneObjectOption, as_json_text, note

if TYPE_CHECKING:
    from libs.common.operations.legacy_report import ImportReport
    from libs.common.ports_import import Progress
    from libs.common.settings import Settings

_STOPPED = 1
_UNUSABLE = 2
_LEFT_OUT = 3


@app.command("import-legacy")
def import_legacy(
    dsn: Annotated[
        str,
        typer.Option(
            "--dsn", envvar="SLUICEWAY_LEGACY_DSN", help="The old database: postgresql://user:password@host/name."
        ),
    ],
    timezone: Annotated[
        str,
        typer.Option("--timezone", help="IANA zone of the old service's local times; SLUICEWAY_TIMEZONE if not given."),
    ] = "",
    payload_path: Annotated[
        str,
        typer.Option(
            "--payload-path", help="Where the payload lies if a wrapper was stored: request.body or /request/body."
        ),
    ] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read everything, write nothing, say what would be done.")
    ] = False,
    as_json: OneObjectOption = False,
) -> None:
    """Copy models, tasks, operation log and statistics of an old Go gateway. Stop the old one first.

    Can be interrupted and repeated: it goes on behind what is there. Exit codes: 0 everything is here; 1 it stopped,
    and what it had copied stays: repeat it; 2 an option or setting cannot be used; 3 it is through, but rows had to be
    left out, which it lists.

    Example: sluiceway import-legacy --dsn postgresql://reader@old-host/gateway --timezone Asia/Shanghai --dry-run
    """
    from libs.common.domain.errors import Refused, SluicewayError
    from libs.common.domain.wrapped_payload import parse_path
    from libs.common.runtime.logging import configure_logging
    from libs.common.runtime.start import arm_failpoints
    from libs.common.settings import load_settings
    from services.cli.legacy_show import show, watch

    settings = load_settings()
    configure_logging("import-legacy", "ERROR", settings.log_format)
    arm_failpoints(settings)
    try:
        path = parse_path(payload_path) if payload_path else None
        zone = str(ZoneInfo(timezone or settings.timezone))
    except (Refused, ValueError, KeyError, OSError) as error:
        wrong = "--payload-path" if payload_path and isinstance(error, Refused) else "--timezone"
        raise typer.BadParameter(str(error).strip("'\""), param_hint=wrong) from None
    try:
        with watch(sys.stderr) as progress:
            report = asyncio.run(_run(settings, dsn, zone, path, dry_run, progress))
    except Refused as error:
        note(str(error))
        raise typer.Exit(_STOPPED if error.code == "import_running" else _UNUSABLE) from None
    except (SluicewayError, OSError) as error:
        note(f"stopped: {error}; what was copied stays, repeat the command to go on")
        raise typer.Exit(_STOPPED) from None
    if as_json:
        print(as_json_text(report.as_dict()))
    else:
        show(report)
    raise typer.Exit(_LEFT_OUT if report.left_out else 0)


async def _run(
    settings: Settings, dsn: str, zone: str, path: list[str] | None, dry_run: bool, progress: Progress
) -> ImportReport:
    from services.cli.legacy_wiring import open_import

    async with open_import(settings, dsn, zone, path, dry_run=dry_run, progress=progress) as job:
        return await job.run()
