"""`sluiceway task`: hand tasks in, follow them, take their results; over the REST face."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    print_exactly,
    show_list,
    show_one,
)
from services.cli.remote import KeyFileOption, UrlOption, connect

if TYPE_CHECKING:
    from libs.client import Task

task = typer.Typer(help="Tasks: submit, get, list, wait, watch, cancel, why, download.", no_args_is_help=True)
app.add_typer(task, name="task")

Ids = Annotated[list[str], typer.Argument(metavar="ID...", help="Ids of tasks; - reads them from standard input.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="Id of a task.")]

_TASK_COLUMNS: list[Column] = [
    ("ID", "id"),
    ("MODEL", "model"),
    ("STATUS", "status"),
    ("PROGRESS", lambda row: f"{row.get('progress', 0):.0f} %"),
    ("ATTEMPT", "attempt"),
    ("CREATED", "times.created_at"),
    ("ERROR", "error.code"),
]


@task.command()
def submit(
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    payload: Annotated[str, typer.Option("--payload", "-p", help="JSON; @FILE reads it there, - from input.")] = "null",
    input_ref: Annotated[str, typer.Option("--input-ref", help="Reference to input that lies elsewhere.")] = "",
    biz_name: Annotated[str, typer.Option("--biz-name", help="Your own name for it.")] = "",
    priority: Annotated[int, typer.Option("--priority", help="Smaller starts first.")] = 0,
    not_before: Annotated[str | None, typer.Option("--not-before", help="RFC 3339; does not start earlier.")] = None,
    start_by: Annotated[str | None, typer.Option("--start-by", help="RFC 3339; must start by then.")] = None,
    deadline: Annotated[str | None, typer.Option("--deadline", help="RFC 3339; must be done by then.")] = None,
    outputs: Annotated[int, typer.Option("--outputs", min=1, help="How many outputs it asks for.")] = 1,
    idempotency_key: Annotated[str | None, typer.Option("--idempotency-key", help="Same key, same task.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Return when it has ended; exit code 1 unless success.")] = False,
    timeout: Annotated[float | None, typer.Option("--timeout", min=0, help="Seconds for --wait.")] = None,
    url: UrlOption = "",
    key_file: KeyFileOption = None,
    output: OutputOption = Output.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Hand a task in.

    Example: sluiceway task submit speech -p '{"text":"hello"}' --wait
    """
    options: dict[str, Any] = {
        "input_ref": input_ref, "biz_name": biz_name, "priority": priority, "output_count": outputs,
        "not_before": not_before, "start_by": start_by, "deadline": deadline,
    }  # fmt: skip
    given = {name: value for name, value in options.items() if value not in ("", None)}
    with connect(url, key_file) as client:
        made = client.submit(model, _json(payload), idempotency_key=idempotency_key, **given)
        if not wait:
            show_one(_plain(made), chosen(output, as_json))
            return
        _end([_waited(client.wait, made.id, timeout)], chosen(output, as_json))


@task.command()
def get(
    ids: Ids,
    url: UrlOption = "",
    key_file: KeyFileOption = None,
    output: OutputOption = Output.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Show tasks. The first read of a success starts the time until it is cleaned.

    Example: sluiceway task get 01939d5c-6f3e-7b1a-9c55-2f6f0b6f7a10
    """
    with connect(url, key_file) as client:
        found = [_plain(client.get(task_id)) for task_id in _named(ids)]
    if len(found) == 1:
        show_one(found[0], chosen(output, as_json))
    else:
        show_list(found, _TASK_COLUMNS, chosen(output, as_json))


@task.command("list")
def list_tasks(
    model: Annotated[str | None, typer.Option("--model", help="Name of a model.")] = None,
    status: Annotated[str | None, typer.Option("--status", help="Status words, comma separated.")] = None,
    biz_name: Annotated[str | None, typer.Option("--biz-name", help="Your own name for them.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many at most.")] = 50,
    url: UrlOption = "",
    key_file: KeyFileOption = None,
    output: OutputOption = Output.TABLE,
    as_json: JsonOption = False,
) -> None:
    """List tasks, newest first.

    Example: sluiceway task list --status failed,timeout -o ids
    """
    with connect(url, key_file) as client:
        filters = {"model": model, "status": status, "biz_name": biz_name, "limit": min(limit, 1_000)}
        found = islice(client.pages("/v1/tasks", **filters), min(limit, sys.maxsize))
        show_list(found, _TASK_COLUMNS, chosen(output, as_json))


@task.command()
def wait(
    ids: Ids,
    timeout: Annotated[float | None, typer.Option("--timeout", min=0, help="Seconds; exit code 1 after them.")] = None,
    url: UrlOption = "",
    key_file: KeyFileOption = None,
    output: OutputOption = Output.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Return when all have ended; exit code 1 unless all of them are successes.

    Example: sluiceway task wait 01939d5c-6f3e-7b1a-9c55-2f6f0b6f7a10 --timeout 60
    """
    with connect(url, key_file) as client:
        _end([_waited(client.wait, task_id, timeout) for task_id in _named(ids)], chosen(output, as_json))


@task.command()
def watch(task_id: Id, url: UrlOption = "", key_file: KeyFileOption = None, as_json: JsonOption = False) -> None:
    """Print each change of a task until it ends; exit code 1 unless it is a success.

    Example: sluiceway task watch 01939d5c-6f3e-7b1a-9c55-2f6f0b6f7a10
    """
    last = ""
    with connect(url, key_file) as client:
        for event in client.events(task_id):
            last = str(event.get("status"))
            if as_json:
                print(json.dumps(event), flush=True)
            else:
                unit = event.get("unit_progress")
                own = f", provider {unit:.0f} %" if unit is not None else ""
                message = f"  {cell(event['message'])}" if event.get("message") else ""
                line = f"{event.get('at')}  {last:10} {event.get('progress', 0):6.2f} %{own}{message}"
                print(cell(line), flush=True)
    raise typer.Exit(0 if last == "success" else 1)


@task.command()
def cancel(
    ids: Ids,
    yes: YesOption = False,
    url: UrlOption = "",
    key_file: KeyFileOption = None,
    output: OutputOption = Output.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Ask for the end of tasks: verdicts are canceled, cancel_requested, already_final.

    One that is unknown, or whose rows somebody keeps locked, keeps none of the others, and is told behind them; what
    was done before anything else went wrong is printed all the same.

    Example: sluiceway task cancel 01939d5c-6f3e-7b1a-9c55-2f6f0b6f7a10 --yes
    """
    from libs.client import ApiError

    columns: list[Column] = [("ID", "id"), ("VERDICT", "verdict"), ("STATUS", "status")]
    named = list(_named(ids))
    answers: list[dict[str, Any]] = []
    left: list[str] = []
    with connect(url, key_file) as client:
        if named:  # a list of tasks that is read may be empty
            confirm(f"Cancel {len(named)} tasks?" if len(named) > 1 else f"Cancel the task {named[0]}?", yes=yes)
        try:
            for task_id in named:
                try:
                    answers.append(client.cancel(task_id))
                except ApiError as error:
                    if error.status != 404 and error.code != "rows_locked":
                        raise
                    left.append(f"{task_id}: {error}")
        finally:
            if answers or not named:
                show_list(answers, columns, chosen(output, as_json))
            for why in left:
                note(why)
    if left:
        raise typer.Exit(4)


@task.command()
def attempts(
    task_id: Id,
    url: UrlOption = "",
    key_file: KeyFileOption = None,
    output: OutputOption = Output.TABLE,
    as_json: JsonOption = False,
) -> None:
    """List the attempts that have ended, oldest first.

    Example: sluiceway task attempts 01939d5c-6f3e-7b1a-9c55-2f6f0b6f7a10
    """
    columns: list[Column] = [
        ("ATTEMPT", "attempt"), ("OUTCOME", "outcome"), ("EXECUTOR", "executor"), ("STARTED", "started_at"),
        ("ENDED", "ended_at"), ("ERROR", "error.code"), ("MESSAGE", "error.message"),
    ]  # fmt: skip
    with connect(url, key_file) as client:
        show_list(client.attempts(task_id), columns, chosen(output, as_json))


@task.command()
def history(
    task_id: Id,
    url: UrlOption = "",
    key_file: KeyFileOption = None,
    output: OutputOption = Output.TABLE,
    as_json: JsonOption = False,
) -> None:
    """List what happened to a task beside its attempts, oldest first.

    Example: sluiceway task history 01939d5c-6f3e-7b1a-9c55-2f6f0b6f7a10 --json
    """
    columns: list[Column] = [("AT", "at"), ("WHAT", "kind"), ("ATTEMPT", "attempt"), ("DETAIL", "detail")]
    with connect(url, key_file) as client:
        show_list(client.history(task_id), columns, chosen(output, as_json))


@task.command()
def why(
    task_id: Id,
    url: UrlOption = "",
    key_file: KeyFileOption = None,
    output: OutputOption = Output.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Say what a task waits for: the limit that holds it, its value, the position, an estimate.

    Example: sluiceway task why 01939d5c-6f3e-7b1a-9c55-2f6f0b6f7a10
    """
    with connect(url, key_file) as client:
        show_one(client.why(task_id), chosen(output, as_json))


@task.command()
def download(
    task_id: Id,
    to: Annotated[
        str, typer.Option("--to", help="File; or folder, there or with a / at its end, for all files.")
    ] = ".",
    index: Annotated[int | None, typer.Option("--index", min=0, help="One file only, from 0.")] = None,
    url: UrlOption = "",
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a task's result files; exit code 1 when there is none.

    Example: sluiceway task download 01939d5c-6f3e-7b1a-9c55-2f6f0b6f7a10 --to out/
    """
    with connect(url, key_file) as client:
        found = client.get(task_id)
        files = _files(found)
        wanted = [file for file in files if index is None or file[0] == index]
        if not wanted:
            note(f"the task is {found.status} and has {len(files)} files" + (f", none is {index}" if index else ""))
            raise typer.Exit(1)
        target = Path(to)
        if to.endswith("/") or len(wanted) > 1:
            target.mkdir(parents=True, exist_ok=True)
        written = []
        for nth, ending in wanted:
            name = f"{_segment(task_id)}-{nth}.{ending}"
            written.append(client.download(task_id, target / name if target.is_dir() else target, nth))
    if target.is_char_device() or target.is_fifo() or to.startswith("/dev/"):
        return  # it may be the very output
    if as_json:
        print(json.dumps({"files": [str(path) for path in written]}))
    else:
        for path in written:
            print_exactly(str(path))


def _files(found: Task) -> list[tuple[int, str]]:
    """The numbers of a result's files, and how their names end; raises NotReachable for a list that is none of ours."""
    from libs.client import NotReachable
    from libs.client.calls import STRANGER

    files = (found.result or {}).get("files") or []
    told = [file if isinstance(file, dict) else {} for file in (files if isinstance(files, list) else [None])]
    numbers = [file.get("index") for file in told]
    if not all(type(number) is int and number >= 0 for number in numbers) or len(set(numbers)) < len(numbers):
        raise NotReachable(f"{STRANGER}: its list of files is none")
    return [(file["index"], _segment(str(file.get("type") or "bin"))) for file in told]


def _segment(text: str) -> str:
    """As a part of a file's name, which leads to no other folder."""
    return re.sub(r"[^\w.+-]", "_", text, flags=re.ASCII)[:64]


def _end(ended: list[Task], output: Output) -> None:
    """Print tasks that were waited for, and say by the exit code whether all are successes."""
    if len(ended) == 1:
        show_one(_plain(ended[0]), output)
    else:
        show_list([_plain(task) for task in ended], _TASK_COLUMNS, output)
    raise typer.Exit(0 if all(task.succeeded for task in ended) else 1)


def _waited(wait: Any, task_id: str, timeout: float | None) -> Task:
    try:
        found: Task = wait(task_id, timeout)
    except TimeoutError as error:
        note(f"{error}; it goes on: `sluiceway task watch {task_id}`")
        raise typer.Exit(1) from None
    return found


def _plain(found: Task) -> dict[str, Any]:
    return found.model_dump(mode="json")


def _named(ids: Iterable[str]) -> Iterable[str]:
    try:
        for name in ids:
            if name == "-":
                yield from (line.strip() for line in sys.stdin if line.strip())
            else:
                yield name
    except UnicodeDecodeError:
        raise typer.BadParameter("standard input is no text", param_hint="ID...") from None


def _json(text: str) -> Any:
    """The payload; raises BadParameter for what is no JSON."""
    try:
        if text == "-":
            text = sys.stdin.read()
        elif text.startswith("@"):
            text = Path(text[1:]).read_text()
        return json.loads(text)
    except OSError as error:
        raise typer.BadParameter(f"cannot read {text[1:]}: {error.strerror}", param_hint="--payload") from None
    except (ValueError, RecursionError) as error:
        hint = f"{error}. Quote text twice: --payload '\"text\"'"
        raise typer.BadParameter(f"no JSON: {hint}", param_hint="--payload") from None
