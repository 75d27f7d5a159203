"""What flows, what waits and why, and what operators order: straight on the stores, so that it works without an API."""

from __future__ import annotations

import getpass
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from services.cli.app import app
from services.cli.output import (
    Column,
    JsonOption,
    Output,
    OutputOption,
    YesOption,
    cell,
    chosen,
    confirm,
    note,
    show_document,
    show_list,
    show_one,
)
from services.cli.roles import executor
from services.cli.wiring import complete, open_insight

if TYPE_CHECKING:
    from services.cli.wiring import Insight

Result = TypeVar("Result")
Tenant = Annotated[int | None, typer.Option("--tenant", help="Of this tenant.")]
Model = Annotated[str | None, typer.Option("--model", help="Of this model of the tenant.")]
Reason = Annotated[str, typer.Option("--reason", help="Recorded, and shown wherever it holds something.")]
By = Annotated[str, typer.Option("--by", help="Who does it, for the record; you, if left out.")]
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
OUTBOX: list[Column] = [
    ("CHANNEL", "channel"),
    ("WAITING", lambda row: counted(row["waiting"])),
    ("OLDEST", lambda row: _seconds(row["oldest_seconds"])),
    ("RETRYING", lambda row: counted(row["retrying"])),
    ("DEAD", lambda row: counted(row["dead"])),
    ("LAST ERROR", "last_error"),
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
    tenant: Tenant = None,
    model: Model = None,
    output: OutputOption = Output.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Say what a task, or a model, waits for: which limit holds it, its value, its place, and when it may start.

    Example: sluiceway why --tenant 42 --model speech
    """
    from libs.common.domain.ids import parse_task_id
    from libs.common.operations import insight_json as shown

    public_id = parse_task_id(task) if task is not None else None
    if (task is None) == (model is None) or (model is not None and tenant is None) or (task and public_id is None):
        raise typer.BadParameter("name a task by its id, or a model by --tenant and --model")

    async def ask(over: Insight) -> dict[str, Any]:
        if public_id is not None:
            return shown.task_why_document(await over.why.task(tenant, public_id))
        return shown.model_why_document(await over.why.model(tenant or 0, model or ""), operator=True)

    said, how = asked(ask), chosen(output, as_json)
    if how is not Output.TABLE:
        show_one(said, how)
        return
    print(cell(said["message"]))
    if said.get("position"):
        print(f"position: {counted({'value': said['position']['ahead'], 'exact': said['position']['exact']})} go first")
    if said.get("estimate"):
        print(f"estimate: in {_seconds(said['estimate']['seconds'])}, at {said['estimate']['at']}")
    show_list(said["holds"], _HOLDS, how)


@app.command()
def overview(output: OutputOption = Output.TABLE, as_json: JsonOption = False) -> None:
    """Show the numbers of everything.

    Example: sluiceway overview --output yaml
    """
    from libs.common.operations.insight_json import overview_document

    async def ask(over: Insight) -> dict[str, Any]:
        return overview_document(await over.sight.overview())

    show_one(asked(ask), chosen(output, as_json))


@app.command()
def lanes(
    tenant: Tenant = None,
    everything: Annotated[bool, typer.Option("--all", help="Those with nothing to do, too.")] = False,
    output: OutputOption = Output.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Show models as the queue sees them: backlog, age, limits and what is used of them, pace, errors.

    Example: sluiceway lanes --tenant 42 --all
    """
    from libs.common.operations.insight_json import lane_document

    async def ask(over: Insight) -> list[dict[str, Any]]:
        found, after = [], 0
        while True:
            page, following = await over.sight.lanes(tenant, after=after, limit=200, busy=not everything)
            found += [lane_document(lane, operator=True) for lane in page]
            if following is None:
                return found
            after = following

    show_list(asked(ask), LANES, chosen(output, as_json))


@app.command()
def outbox(output: OutputOption = Output.TABLE, as_json: JsonOption = False) -> None:
    """Show what has to leave, by channel.

    Example: sluiceway outbox --json
    """
    from libs.common.operations.insight_json import outbox_document

    async def ask(over: Insight) -> list[dict[str, Any]]:
        return [outbox_document(channel) for channel in await over.sight.outbox()]

    show_list(asked(ask), OUTBOX, chosen(output, as_json))


@app.command()
def series(
    tenant: Tenant = None,
    model: Model = None,
    hours: Annotated[float, typer.Option("--hours", min=0.1, max=192, help="How far back.")] = 1.0,
    step: Annotated[int, typer.Option("--step", min=60, max=86_400, help="Seconds; from an hour on whole hours.")] = 60,
    output: OutputOption = Output.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Show what ended, how long it waited and ran, and the backlog, step by step.

    Example: sluiceway series --tenant 42 --model speech --hours 24 --step 3600
    """
    from libs.common.operations.insight_json import series_document
    from libs.common.ports_insight import SeriesWanted

    now = datetime.now(UTC)
    wanted = SeriesWanted(now - timedelta(hours=hours), now, step, tenant, model)

    async def ask(over: Insight) -> dict[str, Any]:
        return series_document(await over.series.read(wanted), step)

    said, how = asked(ask), chosen(output, as_json)
    show_list(said["points"], _POINTS, how) if how is Output.TABLE else show_one(said, how)


@app.command()
def actions(
    limit: Annotated[int, typer.Option("--limit", min=1, max=1_000, help="How many.")] = 50,
    output: OutputOption = Output.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Show what operators did: pauses, resumes, drains, newest first.

    Example: sluiceway actions --limit 10
    """
    from libs.common.operations.insight_json import action_document

    async def ask(over: Insight) -> list[dict[str, Any]]:
        return [action_document(one) for one in (await over.controls.actions(None, limit))[0]]

    show_list(asked(ask), _ACTIONS, chosen(output, as_json))


@app.command()
def pause(
    tenant: Tenant = None,
    model: Model = None,
    everything: Annotated[bool, typer.Option("--all", help="All dispatching, of every tenant.")] = False,
    reason: Reason = "",
    by: By = "",
    yes: YesOption = False,
    output: OutputOption = Output.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Start nothing of a tenant, of a tenant's model, or of anybody; what runs goes on, what is created waits.

    Example: sluiceway pause --tenant 42 --model speech --reason "wrong answers"
    """
    if everything:
        confirm("Pause all dispatching, of every tenant?", yes=yes)
    _order(tenant, model, everything, reason, by, chosen(output, as_json), resume=False)


@app.command()
def resume(
    tenant: Tenant = None,
    model: Model = None,
    everything: Annotated[bool, typer.Option("--all", help="All dispatching, of every tenant.")] = False,
    reason: Reason = "",
    by: By = "",
    output: OutputOption = Output.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Let go on what was paused. The time of the pause does not count as waiting.

    Example: sluiceway resume --tenant 42 --model speech
    """
    _order(tenant, model, everything, reason, by, chosen(output, as_json), resume=True)


@executor.command("list")
def list_executors(output: OutputOption = Output.TABLE, as_json: JsonOption = False) -> None:
    """Show executors that have not stopped.

    Example: sluiceway executor list
    """
    from libs.common.operations.insight_json import executor_document

    async def ask(over: Insight) -> list[dict[str, Any]]:
        return [executor_document(one) for one in await over.sight.executors()]

    show_list(asked(ask), EXECUTORS, chosen(output, as_json))


@executor.command()
def drain(
    name: Name, reason: Reason = "", by: By = "", output: OutputOption = Output.TABLE, as_json: JsonOption = False
) -> None:
    """Have an executor finish and leave: it takes nothing new, gives back what waits, lets end what runs, and stops.

    Example: sluiceway executor drain executor-1 --reason "new version"
    """
    say(asked(lambda over: over.controls.drain(name, operator(by), reason)), chosen(output, as_json))


@executor.command()
def undrain(
    name: Name, reason: Reason = "", by: By = "", output: OutputOption = Output.TABLE, as_json: JsonOption = False
) -> None:
    """Have it stay after all, if it has not left yet.

    Example: sluiceway executor undrain executor-1
    """
    say(asked(lambda over: over.controls.undrain(name, operator(by), reason)), chosen(output, as_json))


def _order(
    tenant: int | None, model: str | None, everything: bool, reason: str, by: str, output: Output, *, resume: bool
) -> None:
    if everything == (tenant is not None) or (model is not None and tenant is None):
        raise typer.BadParameter("say --all, or --tenant, or --tenant and --model")

    async def ask(over: Insight) -> str:
        controls, who = over.controls, operator(by)
        if everything:
            return await (controls.resume_all if resume else controls.pause_all)(who, reason)
        if model is not None:
            of_model = controls.resume_model if resume else controls.pause_model
            return await of_model(tenant or 0, model, who, reason)
        return await (controls.resume_tenant if resume else controls.pause_tenant)(tenant or 0, who, reason)

    say(asked(ask), output)


def asked(ask: Callable[[Insight], Awaitable[Result]]) -> Result:
    """Ask the stores; what is not there, or makes no sense, ends with one line and exit code 1."""
    from libs.common.domain.errors import Refused
    from libs.common.runtime.logging import configure_logging
    from libs.common.settings import load_settings

    settings = load_settings()
    configure_logging("cli", "ERROR", settings.log_format)

    async def work() -> Result | Refused:
        async with open_insight(settings) as over:
            try:
                return await ask(over)
            except Refused as refused:
                return refused

    answer = complete(work())
    if isinstance(answer, Refused):
        note(answer.message)
        raise typer.Exit(1)
    return plain(answer)


def plain(document: Result) -> Result:
    """A document as REST would give it: times as RFC 3339 text."""
    import orjson

    shown: Result = orjson.loads(orjson.dumps(document, option=orjson.OPT_UTC_Z))
    return shown


def say(verdict: str, output: Output) -> None:
    """What an order came to."""
    show_document({"verdict": verdict}, output, lambda: print(verdict.replace("_", " ")), [verdict])


def operator(named: str) -> str:
    """Who is recorded."""
    return named or getpass.getuser()


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
