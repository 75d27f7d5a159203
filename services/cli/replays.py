"""`sluiceway replays`: jobs that replay or drop the dead. Straight on the stores: the API may be down."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.app import app
from services.cli.output import (
    Column,
    JsonOption,
    Output,
    OutputOption,
    YesOption,
    chosen,
    confirm,
    note,
    show_list,
    show_one,
)
from services.cli.wiring import complete

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from libs.common.operations.replay import Replays
    from libs.common.ports_dead import Job

replays = typer.Typer(help="Jobs that replay or drop the dead.", no_args_is_help=True)
app.add_typer(replays, name="replays")

JobId = Annotated[int, typer.Argument(metavar="ID", min=1, max=2**63 - 1, help="id of `replays list`.")]

_LISTED: list[Column] = [
    ("id", "id"),
    ("state", "state"),
    ("action", "action"),
    ("kind", "kind"),
    ("done", lambda job: f"{job['total'] - job['pending']} of {job['total']}"),
    ("ordered", "created_at"),
    ("by", "asked_by"),
    ("reason", "reason"),
    ("note", "note"),
]
_ITEMS: list[Column] = [
    ("id", "id"),
    ("tenant", "tenant"),
    ("code", "code"),
    ("result", "result"),
    ("tries", "tries"),
    ("detail", "detail"),
]


@replays.command("list")
def list_replays(
    limit: Annotated[int, typer.Option("--limit", min=1, max=1_000, help="So many at most, the newest first.")] = 20,
    output: OutputOption = Output.TABLE,
    as_json: JsonOption = False,
) -> None:
    """List jobs, newest first; they are kept for ever.

    Example: sluiceway replays list --limit 5
    """
    show_list(complete(_list(limit)), _LISTED, chosen(output, as_json))


@replays.command()
def show(
    job_id: JobId,
    items: Annotated[bool, typer.Option("--items", help="Also what became of each.")] = False,
    output: OutputOption = Output.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Show a job's progress; exit code 1 when there is no such job.

    Example: sluiceway replays show 7 --items
    """
    shown = complete(_show(job_id, items))
    how = chosen(output, as_json)
    listed = shown.pop("items", None) if how in (Output.TABLE, Output.IDS) else None
    show_one(shown, how)
    if listed is not None:
        show_list(listed, _ITEMS, how)


@replays.command()
def pause(job_id: JobId, output: OutputOption = Output.TABLE, as_json: JsonOption = False) -> None:
    """Let nothing of a job begin until it is resumed.

    Example: sluiceway replays pause 7
    """
    show_one(complete(_steer(job_id, lambda jobs: jobs.pause)), chosen(output, as_json))


@replays.command()
def resume(job_id: JobId, output: OutputOption = Output.TABLE, as_json: JsonOption = False) -> None:
    """Let a paused job go on.

    Example: sluiceway replays resume 7
    """
    show_one(complete(_steer(job_id, lambda jobs: jobs.resume)), chosen(output, as_json))


@replays.command()
def stop(
    job_id: JobId, yes: YesOption = False, output: OutputOption = Output.TABLE, as_json: JsonOption = False
) -> None:
    """End a job for good; what it has not done stays dead, free for another job.

    Example: sluiceway replays stop 7 --yes
    """
    confirm(f"Stop the job {job_id} for good?", yes=yes)
    show_one(complete(_steer(job_id, lambda jobs: jobs.stop)), chosen(output, as_json))


async def _list(limit: int) -> list[dict[str, Any]]:
    from libs.common.operations.dead_views import job_view
    from libs.common.settings import load_settings
    from services.cli.dead_wiring import open_graveyard, plain

    async with open_graveyard(load_settings()) as graveyard:
        jobs, _ = await graveyard.replays.page(None, None, limit)
    listed: list[dict[str, Any]] = plain([job_view(job) for job in jobs])
    return listed


async def _show(job_id: int, with_items: bool) -> dict[str, Any]:
    from libs.common.domain.errors import Refused
    from libs.common.operations.dead_views import item_view, job_view
    from libs.common.settings import load_settings
    from services.cli.dead_wiring import open_graveyard, plain

    async with open_graveyard(load_settings()) as graveyard:
        try:
            shown = job_view(await graveyard.replays.show(None, job_id))
        except Refused as refused:
            note(refused.message)
            raise typer.Exit(1) from None
        after, found = None, []
        while with_items:
            page, after = await graveyard.replays.items(None, job_id, after, 1_000)
            found += [item_view(item) for item in page]
            if after is None:
                break
    told: dict[str, Any] = plain({**shown, "items": found} if with_items else shown)
    return told


async def _steer(job_id: int, verb: Callable[[Replays], Callable[[None, int], Awaitable[Job]]]) -> dict[str, Any]:
    from libs.common.domain.errors import Refused
    from libs.common.operations.dead_views import job_view
    from libs.common.settings import load_settings
    from services.cli.dead_wiring import open_graveyard, plain

    async with open_graveyard(load_settings()) as graveyard:
        try:
            told: dict[str, Any] = plain(job_view(await verb(graveyard.replays)(None, job_id)))
        except Refused as refused:
            note(refused.message)
            raise typer.Exit(1) from None
    return told
