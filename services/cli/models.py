"""`sluiceway models`: models of a tenant, over the REST face."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

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
    show_list,
    show_one,
)
from services.cli.remote import KeyFileOption, UrlOption, connect

if TYPE_CHECKING:
    from libs.client import Client

models = typer.Typer(help="Models: list, show, apply, dry-run, delete.", no_args_is_help=True)
app.add_typer(models, name="models")

_COLUMNS: Final[list[Column]] = [
    ("NAME", "name"),
    ("ENABLED", lambda row: "yes" if row["enabled"] else "no"),
    ("ADAPTER", "adapter"),
    ("ADDRESS", "base_url"),
    ("CALLS", "max_concurrency"),
    ("QUEUE", "queue_limit"),
    ("TIMEOUT", "timeout_seconds"),
    ("RETRIES", "retry_times"),
]
#: A secret is never shown, so it cannot be compared: it is sent whenever a file has one.
_MASKED: Final = "api_key"


@models.command("list")
def list_models(
    url: UrlOption = "",
    key_file: KeyFileOption = None,
    output: OutputOption = Output.TABLE,
    as_json: JsonOption = False,
) -> None:
    """List the models, newest first.

    Example: sluiceway models list --output yaml
    """
    with connect(url, key_file) as client:
        show_list(client.pages("/v1/models", limit=1_000), _COLUMNS, chosen(output, as_json))


@models.command()
def show(
    name: Annotated[str, typer.Argument(help="Name of the model.")],
    url: UrlOption = "",
    key_file: KeyFileOption = None,
    output: OutputOption = Output.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Show a model, its api_key masked.

    Example: sluiceway models show speech --json
    """
    with connect(url, key_file) as client:
        show_one(_read(client, name), chosen(output, as_json))


@models.command()
def apply(
    file: Annotated[str, typer.Option("--file", "-f", help="YAML or JSON; - reads standard input.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, change nothing.")] = False,
    url: UrlOption = "",
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make the models that a file names what it says; the fields that it leaves out stay.

    One model a YAML document, a list of them, or {"models": [...]}; fields as in POST /v1/models. What changes is
    shown, secrets are not. Applying twice changes nothing more.

    Example: sluiceway models apply -f models.yaml --dry-run
    """
    wanted = list(_documents(file))
    if not wanted:
        raise typer.BadParameter("it names no model", param_hint="--file")
    changes = []
    try:
        with connect(url, key_file) as client:
            for fields in wanted:
                change = _change(client, fields)
                if not dry_run:
                    _carry_out(client, fields, change)
                changes.append(change)
                if not as_json:
                    _say(change, dry_run=dry_run)
    finally:  # where one is refused, those before it are as the file wants them
        if as_json and changes:
            print(json.dumps({"dry_run": dry_run, "models": changes}))


@models.command()
def delete(
    name: Annotated[str, typer.Argument(help="Name of the model.")],
    yes: YesOption = False,
    url: UrlOption = "",
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete a model: its waiting tasks fail (model_deleted), running ones finish.

    Example: sluiceway models delete speech --yes
    """
    from libs.client.calls import Call

    with connect(url, key_file) as client:
        confirm(f"Delete the model {name!r}, and fail what waits for it?", yes=yes)
        client.send(Call("DELETE", _path(name)))
    if as_json:
        print(json.dumps({"name": name, "deleted": True}))
    else:
        note(f"the model {name!r} is deleted")


@models.command("dry-run")
def dry_run(
    name: Annotated[str, typer.Argument(help="Name of the model, unless --file is given.")] = "",
    file: Annotated[str, typer.Option("--file", "-f", help="YAML or JSON of the model; - reads standard input.")] = "",
    payload: Annotated[str, typer.Option("--payload", help="JSON, or @FILE.")] = "{}",
    answer: Annotated[
        list[Path] | None,
        typer.Option(
            "--answer",
            help="JSON that the provider would answer; the first is the submit's, further ones are those of polls.",
        ),
    ] = None,
    url: UrlOption = "",
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a model would be sent and what its answers would mean; nothing is sent to anybody.

    An answer is its body, answered with 200, or {"http_status": 503, "headers": {}, "body": ...}. Secrets are masked.
    With a NAME the model is read from the API, with --file nothing else is needed.

    Example: sluiceway models dry-run -f model.yaml --payload '{"n": 1}' --answer submit.json --answer poll.json
    """
    from services.cli.models_dry_run import show_dry_run

    if bool(name) == bool(file):
        raise typer.BadParameter("give either the name of a model or --file", param_hint="NAME")
    if file:
        wanted = list(_documents(file))
        if len(wanted) != 1:
            raise typer.BadParameter("one model, please", param_hint="--file")
        fields = wanted[0]
    else:
        with connect(url, key_file) as client:
            fields = _read(client, name)
    show_dry_run(fields, payload, answer or [], as_json=as_json)


def _documents(file: str) -> Iterator[dict[str, Any]]:
    """Every model of a file; raises BadParameter for what is none."""
    import yaml

    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text()
        documents = list(yaml.safe_load_all(text))
    except OSError as error:
        raise typer.BadParameter(f"cannot read {file}: {error.strerror}", param_hint="--file") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise typer.BadParameter(f"no YAML: {' '.join(str(error).split())}", param_hint="--file") from None
    for document in documents:
        inner = document.get("models", document) if isinstance(document, dict) else document
        for nth, fields in enumerate(inner if isinstance(inner, list) else [inner]):
            if not isinstance(fields, dict) or not isinstance(fields.get("name"), str):
                raise typer.BadParameter(f"model {nth + 1} has no name", param_hint="--file")
            _check_json(fields)
            yield fields


def _check_json(fields: Mapping[str, Any]) -> None:
    """YAML knows dates, bytes, infinities and loops, which a request cannot carry."""
    try:
        json.dumps(fields, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        told = f"model {fields['name']!r} is no JSON: {error}. Quote what is meant as text"
        raise typer.BadParameter(told, param_hint="--file") from None


def _change(client: Client, fields: Mapping[str, Any]) -> dict[str, Any]:
    """What applying these fields would change."""
    from libs.client import ApiError

    name = fields["name"]
    try:
        present = _read(client, name)
    except ApiError as error:
        if error.status != 404:
            raise
        return {"name": name, "action": "create", "changes": {}}
    changes = {
        field: {"from": present.get(field), "to": value}
        for field, value in fields.items()
        if field != _MASKED and value is not None and value != present.get(field)
    }
    if fields.get(_MASKED) is not None:
        changes[_MASKED] = {"from": present.get(_MASKED), "to": "(sent)"}
    return {"name": name, "action": "change" if changes else "none", "changes": changes}


def _carry_out(client: Client, fields: Mapping[str, Any], change: Mapping[str, Any]) -> None:
    from libs.client.calls import Call

    if change["action"] == "create":
        client.send(Call("POST", "/v1/models", body=dict(fields), repeatable=False))
    elif change["action"] == "change":
        client.send(Call("PATCH", _path(fields["name"]), body={name: fields[name] for name in change["changes"]}))


def _say(change: Mapping[str, Any], *, dry_run: bool) -> None:
    words = {"create": ("created", "would be created"), "change": ("changed", "would be changed")}
    verdict = words[change["action"]][dry_run] if change["action"] in words else "unchanged"
    print(f"{cell(change['name'])}: {verdict}")
    for field, values in change["changes"].items():
        print(f"  {cell(field)}: {json.dumps(values['from'])} -> {json.dumps(values['to'])}")


def _read(client: Client, name: str) -> dict[str, Any]:
    from libs.client.calls import Call

    found: dict[str, Any] = client.send(Call("GET", _path(name)))
    return found


def _path(name: str) -> str:
    from libs.client.calls import quoted

    return f"/v1/models/{quoted(name)}"
