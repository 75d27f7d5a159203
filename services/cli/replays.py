"""`sluiceway replays`: jobs that replay or drop the dead."""

from __future__ import annotations

from typing import Annotated

import typer

from services.cli.app import app
from services.cli.control_room import ControlRoom, Document
from services.cli.options import LARGEST_ID
from services.cli.output import (
    Column,
    JsonOption,
    Output,
    OutputOption,
    YesOption,
    chosen,
    confirm,
    show_list,
    show_one,
)
from services.cli.remote import KeyFileOption
from services.cli.which_way import ApiOption, Way, asked

replays = typer.Typer(help="Jobs that replay or drop the dead.", no_args_is_help=True)
app.add_typer(replays, name="replays")

JobId = Annotated[int, typer.Argument(metavar="ID", min=1, max=LARGEST_ID, help="id of `replays list`.")]

_LISTED: list[Column] = [
    ("ID", "id"),
    ("STATE", "state"),
    ("ACTION", "action"),
    ("KIND", "kind"),
    ("DONE", lambda job: f"{job['results']['replayed'] + job['results']['dropped']} of {job['total']}"),
    ("NOT DONE", lambda job: _not_done(job["results"])),
    ("ORDERED", "created_at"),
    ("BY", "asked_by"),
    ("REASON", "reason"),
    ("NOTE", "note"),
]
_ITEMS: list[Column] = [
    ("ID", "id"),
    ("TENANT", "tenant"),
    ("CODE", "code"),
    ("RESULT", "result"),
    ("TRIES", "tries"),
    ("DETAIL", "detail"),
]


def _not_done(results: Document) -> str:
    """What nobody waits for any more, and was neither replayed nor dropped: `replays show ID --items` says why."""
    return ", ".join(f"{results[name]} {name}" for name in ("refused", "gone", "stopped") if results[name])


@replays.command("list")
def list_replays(
    limit: Annotated[int, typer.Option("--limit", min=1, max=1_000, help="So many at most, the newest first.")] = 20,
    url: ApiOption = "",
    key_file: KeyFileOption = None,
    output: OutputOption = Output.TABLE,
    as_json: JsonOption = False,
) -> None:
    """List jobs, newest first; they are kept for ever.

    Example: sluiceway replays list --limit 5
    """
    show_list(asked(lambda room: room.dead.jobs(limit), Way(url, key_file)), _LISTED, chosen(output, as_json))


@replays.command()
def show(
    job_id: JobId,
    items: Annotated[bool, typer.Option("--items", help="Also what became of each.")] = False,
    url: ApiOption = "",
    key_file: KeyFileOption = None,
    output: OutputOption = Output.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Show a job's progress; exit code 1 when there is no such job.

    Example: sluiceway replays show 7 --items
    """

    async def ask(room: ControlRoom) -> tuple[Document, list[Document]]:
        return await room.dead.job(job_id), await room.dead.items(job_id) if items else []

    (job, listed), how = asked(ask, Way(url, key_file)), chosen(output, as_json)
    if not items or how in (Output.JSON, Output.YAML):
        show_one(job | {"items": listed} if items else job, how)
        return
    show_one(job, how)
    show_list(listed, _ITEMS, how)


@replays.command()
def pause(
    job_id: JobId,
    url: ApiOption = "",
    key_file: KeyFileOption = None,
    output: OutputOption = Output.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Let nothing of a job begin until it is resumed.

    Example: sluiceway replays pause 7
    """
    job = asked(lambda room: room.dead.steer(job_id, "pause"), Way(url, key_file))
    show_one(job, chosen(output, as_json))


@replays.command()
def resume(
    job_id: JobId,
    url: ApiOption = "",
    key_file: KeyFileOption = None,
    output: OutputOption = Output.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Let a paused job go on.

    Example: sluiceway replays resume 7
    """
    job = asked(lambda room: room.dead.steer(job_id, "resume"), Way(url, key_file))
    show_one(job, chosen(output, as_json))


@replays.command()
def stop(
    job_id: JobId,
    yes: YesOption = False,
    url: ApiOption = "",
    key_file: KeyFileOption = None,
    output: OutputOption = Output.TABLE,
    as_json: JsonOption = False,
) -> None:
    """End a job for good; what it has not done stays dead, free for another job.

    Example: sluiceway replays stop 7 --yes
    """
    confirm(f"Stop the job {job_id} for good?", yes=yes)
    job = asked(lambda room: room.dead.steer(job_id, "stop"), Way(url, key_file))
    show_one(job, chosen(output, as_json))
