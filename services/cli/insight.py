"""What flows, what waits and why, and what operators order: over REST, or straight on the stores."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from services.cli.app import app
from services.cli.control_room import Scope
from services.cli.options import OfTenant
from services.cli.output import (
    Column,
    JsonOption,
    Output,
    OutputOption,
    YesOption,
    cell,
    chosen,
    confirm,
    show_document,
    show_list,
    show_one,
)
from services.cli.remote import KeyFileOption
from services.cli.roles import executor
from services.cli.which_way import ApiOption, By, Way, asked

Model = Annotated[str | None, typer.Option("--model", help="Of this model of the tenant.")]
Reason = Annotated[str, typer.Option("--reason", help="Recorded, and shown wherever it holds something.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of `executor list`.")]

LANES: list[Column] = [
    ("TENANT", "tenant_id"),
    ("MODEL", "model"),
    ("WAITING", lambda row: counted(row["waiting"])),
    ("OLDEST", lambda row: _seconds(row["oldest_seconds"])),
    ("WINDOW", lambda row: _used(row["window"])),
    ("PERMITS", lambda row: _used(row["permits"])),
    ("GATE", lambda row: _used(row["gate"])),
    ("STARTS/S", lambda row: _number(row["starts_per_second"])),
    ("ERRORS", lambda row: _share(row["error_rate"])),
    ("PAUSED", lambda row: ",".join(pause["scope"] for pause in row["pauses"])),
]
EXECUTORS: list[Column] = [
    ("NAME", "name"),
    ("VERSION", "version"),
    ("HEARTBEAT", lambda row: _seconds(row["heartbeat_age_seconds"])),
    ("POSTURE", lambda row: row["posture"] if row["alive"] else "silent"),
    ("RUNNING", lambda row: f"{row['running']}/{row['slots']}"),
    ("HELD", "held"),
    ("MODELS", lambda row: ",".join(one["model"] for one in row["models"])),
]
_EXECUTORS: list[Column] = [*EXECUTORS, ("ADAPTERS", lambda row: ",".join(row["adapters"]))]
OUTBOX: list[Column] = [
    ("CHANNEL", "channel"),
    ("WAITING", lambda row: counted(row["waiting"])),
    ("OLDEST", lambda row: _seconds(row["oldest_seconds"])),
    ("RETRYING", lambda row: counted(row["retrying"])),
    ("DEAD", lambda row: counted(row["dead"])),
    ("PAUSED", lambda row: counted(row["held"])),
    ("LAST ERROR", "last_error"),
]
_PAUSES: list[Column] = [
    ("SINCE", "since"),
    ("PAUSED", lambda row: paused_in_words(row)),
    ("BY", "by"),
    ("REASON", "reason"),
]
_HOLDS: list[Column] = [
    ("CODE", "code"),
    ("VALUE", "value"),
    ("LIMIT", "limit"),
    ("UNTIL", "until"),
    ("WHY", "message"),
]
_POINTS: list[Column] = [
    ("AT", "at"),
    ("SUCCESS", "success"),
    ("FAILED", "failed"),
    ("TIMEOUT", "timeout"),
    ("LOST", "lost"),
    ("ERRORS", lambda row: _share(row["error_rate"])),
    ("WAIT P50", lambda row: _seconds(row["wait_seconds"]["p50"])),
    ("WAIT P99", lambda row: _seconds(row["wait_seconds"]["p99"])),
    ("RUN P50", lambda row: _seconds(row["run_seconds"]["p50"])),
    ("RUN P99", lambda row: _seconds(row["run_seconds"]["p99"])),
    ("BACKLOG", "backlog"),
]
_ACTIONS: list[Column] = [
    ("AT", "at"),
    ("BY", "by"),
    ("ACTION", "action"),
    ("SUBJECT", "subject"),
    ("REASON", "reason"),
]


@app.command()
def why(
    task: Annotated[str | None, typer.Argument(metavar="[TASK]", help="Id of a task, of any tenant.")] = None,
    tenant: OfTenant = None,
    model: Model = None,
    url: ApiOption = "",
    key_file: KeyFileOption = None,
    output: OutputOption = Output.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Say what a task, or a model, waits for: which limit holds it, its value, its place, and when it may start.

    Example: sluiceway why --tenant 42 --model speech
    """
    from libs.common.domain.ids import parse_task_id

    way, how = Way(url, key_file), chosen(output, as_json)
    if task is not None and tenant is None and model is None and (public_id := parse_task_id(task)) is not None:
        said = asked(lambda room: room.sights.why_task(str(public_id)), way)
    elif task is None and tenant is not None and model is not None:
        said = asked(lambda room: room.sights.why_model(tenant, model), way)
    else:
        raise typer.BadParameter("name a task by its id, or a model by --tenant and --model")
    if how is not Output.TABLE:
        show_one(said, how)
        return
    print(cell(said["message"]))
    if "priority" in said:
        print(f"priority: {said['priority']} (smaller goes first), weight of its tenant: {said['weight']}")
    if said.get("position"):
        print(f"position: {counted({'value': said['position']['ahead'], 'exact': said['position']['exact']})} go first")
    if said.get("estimate"):
        print(f"estimate: in {_seconds(said['estimate']['seconds'])}, at {said['estimate']['at']}")
    show_list(said["holds"], _HOLDS, how)


@app.command()
def overview(
    url: ApiOption = "",
    key_file: KeyFileOption = None,
    output: OutputOption = Output.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Show the numbers of everything.

    Example: sluiceway overview --output yaml
    """
    show_one(asked(lambda room: room.sights.overview(), Way(url, key_file)), chosen(output, as_json))


@app.command()
def lanes(
    tenant: OfTenant = None,
    everything: Annotated[bool, typer.Option("--all", help="Those with nothing to do, too.")] = False,
    url: ApiOption = "",
    key_file: KeyFileOption = None,
    output: OutputOption = Output.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Show models as the queue sees them: backlog, age, limits and what is used of them, pace, errors.

    Example: sluiceway lanes --tenant 42 --all
    """
    found = asked(lambda room: room.sights.lanes(tenant, busy=not everything, most=None), Way(url, key_file))
    show_list(found, LANES, chosen(output, as_json))


@app.command()
def outbox(
    url: ApiOption = "",
    key_file: KeyFileOption = None,
    output: OutputOption = Output.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Show what has to leave, by channel.

    Example: sluiceway outbox --json
    """
    show_list(asked(lambda room: room.sights.outbox(), Way(url, key_file)), OUTBOX, chosen(output, as_json))


@app.command()
def pauses(
    url: ApiOption = "",
    key_file: KeyFileOption = None,
    output: OutputOption = Output.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Show what is paused now: dispatching, tenants, models, webhooks; since when, by whom and why.

    Example: sluiceway pauses
    """
    show_list(asked(lambda room: room.sights.pauses(), Way(url, key_file)), _PAUSES, chosen(output, as_json))


@app.command()
def series(
    tenant: OfTenant = None,
    model: Model = None,
    hours: Annotated[float, typer.Option("--hours", min=0.1, max=192, help="How far back.")] = 1.0,
    step: Annotated[int, typer.Option("--step", min=60, max=86_400, help="Seconds; from an hour on whole hours.")] = 60,
    url: ApiOption = "",
    key_file: KeyFileOption = None,
    output: OutputOption = Output.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Show what ended, how long it waited and ran, and the backlog, step by step.

    Example: sluiceway series --tenant 42 --model speech --hours 24 --step 3600
    """
    from libs.common.ports_insight import SeriesWanted

    if model is not None and tenant is None:
        raise typer.BadParameter("say --tenant, too: whose model it is", param_hint="--model")
    now = datetime.now(UTC)
    wanted = SeriesWanted(now - timedelta(hours=hours), now, step, tenant, model)
    said, how = asked(lambda room: room.sights.series(wanted), Way(url, key_file)), chosen(output, as_json)
    show_list(said["points"], _POINTS, how) if how is Output.TABLE else show_one(said, how)


@app.command()
def actions(
    limit: Annotated[int, typer.Option("--limit", min=1, max=1_000, help="How many.")] = 50,
    url: ApiOption = "",
    key_file: KeyFileOption = None,
    output: OutputOption = Output.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Show what operators did: pauses, resumes, drains, keys made and revoked, newest first.

    Example: sluiceway actions --limit 10
    """
    show_list(asked(lambda room: room.sights.actions(limit), Way(url, key_file)), _ACTIONS, chosen(output, as_json))


@app.command()
def pause(
    tenant: OfTenant = None,
    model: Model = None,
    everything: Annotated[bool, typer.Option("--all", help="All dispatching, of every tenant.")] = False,
    reason: Reason = "",
    by: By = "",
    yes: YesOption = False,
    url: ApiOption = "",
    key_file: KeyFileOption = None,
    output: OutputOption = Output.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Start nothing of a tenant, of a tenant's model, or of anybody; what runs goes on, what is created waits.

    Example: sluiceway pause --tenant 42 --model speech --reason "wrong answers"
    """
    scope = _scope(tenant, model, everything)
    if everything:
        confirm("Pause all dispatching, of every tenant?", yes=yes)
    say(asked(lambda room: room.orders.pause(scope, reason), Way(url, key_file, by)), chosen(output, as_json))


@app.command()
def resume(
    tenant: OfTenant = None,
    model: Model = None,
    everything: Annotated[bool, typer.Option("--all", help="All dispatching, of every tenant.")] = False,
    reason: Reason = "",
    by: By = "",
    url: ApiOption = "",
    key_file: KeyFileOption = None,
    output: OutputOption = Output.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Let go on what was paused. The time of the pause does not count as waiting.

    Example: sluiceway resume --tenant 42 --model speech
    """
    scope = _scope(tenant, model, everything)
    say(asked(lambda room: room.orders.resume(scope, reason), Way(url, key_file, by)), chosen(output, as_json))


@executor.command("list")
def list_executors(
    url: ApiOption = "",
    key_file: KeyFileOption = None,
    output: OutputOption = Output.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Show executors that have not stopped.

    Example: sluiceway executor list
    """
    show_list(asked(lambda room: room.sights.executors(), Way(url, key_file)), _EXECUTORS, chosen(output, as_json))


@executor.command()
def drain(
    name: Name,
    reason: Reason = "",
    by: By = "",
    url: ApiOption = "",
    key_file: KeyFileOption = None,
    output: OutputOption = Output.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Have an executor finish and leave: it takes nothing new, gives back what waits, lets end what runs, and stops.

    Example: sluiceway executor drain executor-1 --reason "new version"
    """
    verdict = asked(lambda room: room.orders.drain(name, reason), Way(url, key_file, by))
    say(verdict, chosen(output, as_json))


@executor.command()
def undrain(
    name: Name,
    reason: Reason = "",
    by: By = "",
    url: ApiOption = "",
    key_file: KeyFileOption = None,
    output: OutputOption = Output.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Have it stay after all, if it has not left yet.

    Example: sluiceway executor undrain executor-1
    """
    verdict = asked(lambda room: room.orders.undrain(name, reason), Way(url, key_file, by))
    say(verdict, chosen(output, as_json))


def _scope(tenant: int | None, model: str | None, everything: bool) -> Scope:
    if everything == (tenant is not None) or (model is not None and tenant is None):
        raise typer.BadParameter("say --all, or --tenant, or --tenant and --model")
    return Scope(tenant, model)


def say(verdict: str, output: Output) -> None:
    """What an order came to."""
    show_document({"verdict": verdict}, output, lambda: print(cell(verdict.replace("_", " "))), [verdict])


def paused_in_words(pause: Mapping[str, Any]) -> str:
    """What a pause is about."""
    match pause["scope"]:
        case "all":
            return "all dispatching"
        case "tenant":
            return f"tenant {pause['tenant_id']}"
        case "webhook":
            return f"webhook {pause['webhook_id']} of tenant {pause['tenant_id']}"
        case _:
            return f"model {pause['model']} of tenant {pause['tenant_id']}"


def counted(count: Mapping[str, Any]) -> str:
    """A number that was counted up to a limit."""
    return f"{count['value']}" if count["exact"] else f">{count['value']}"


def _used(used: Mapping[str, Any]) -> str:
    return f"{'?' if used['used'] is None else used['used']}/{used['limit']}"


def _seconds(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return f"{seconds:.1f} s" if seconds < 600 else f"{timedelta(seconds=int(seconds))}"


def _number(number: float | None) -> str | None:
    return None if number is None else f"{number:.2f}"


def _share(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.1f} %"
