"""`sluiceway dead`: what will not be tried again without an operator."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.app import app
from services.cli.options import LARGEST_ID, OfTenant, instant
from services.cli.output import (
    Column,
    JsonOption,
    Output,
    OutputOption,
    YesOption,
    chosen,
    confirm,
    note,
    show_document,
    show_list,
    show_one,
)
from services.cli.remote import KeyFileOption
from services.cli.which_way import ApiOption, Way, asked
from services.cli.wiring import operator_name

if TYPE_CHECKING:
    from libs.common.operations.replay import ReplayRequest
    from libs.common.ports_dead import DeadFilter

dead = typer.Typer(help="What is dead, and its replay.", no_args_is_help=True)
app.add_typer(dead, name="dead")


class Kind(StrEnum):
    """What can be dead."""

    TASK = "task"
    EVENT = "event"
    DELIVERY = "delivery"
    MESSAGE = "message"


_MANY = {Kind.TASK: "tasks", Kind.EVENT: "events", Kind.DELIVERY: "deliveries", Kind.MESSAGE: "messages"}

KindOption = Annotated[Kind, typer.Option("--kind", help="Which kind.")]
AnyKind = Annotated[Kind | None, typer.Option("--kind", help="Which kind; left out: all.")]
Code = Annotated[str | None, typer.Option("--code", help="Only this error code.")]
Model = Annotated[str | None, typer.Option("--model", help="Only this model.")]
ModelId = Annotated[
    str | None, typer.Option("--model-id", help="Only this model, by the id in `dead groups`; `none`: of no known one.")
]
Since = Annotated[str | None, typer.Option("--since", help="Died since: RFC 3339, or an age such as 90m, 2h, 3d.")]
Until = Annotated[str | None, typer.Option("--until", help="Died before; written as --since.")]
Part = Annotated[str | None, typer.Option("--text", help="Only with this in the last error's message.")]
OfWebhook = Annotated[
    int | None, typer.Option("--webhook", min=1, max=LARGEST_ID, help="Only deliveries of this webhook, by its id.")
]
Ids = Annotated[
    list[str] | None, typer.Argument(metavar="[ID]...", help="Ids of `dead list`; none: what the filters say.")
]
Reason = Annotated[str, typer.Option("--reason", help="Why; kept for ever. A dry run needs none.")]
Limit = Annotated[int, typer.Option("--limit", min=1, help="So many at most, the oldest first.")]
Rate = Annotated[float, typer.Option("--rate", help="So many a second at most.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say how many and which groups.")]

_LISTED: list[Column] = [
    ("DIED", "died_at"),
    ("KIND", "kind"),
    ("ID", "id"),
    ("TENANT", "tenant"),
    ("MODEL", lambda row: row["model"] or row["topic"]),
    ("CODE", "error.code"),
    ("MESSAGE", "error.message"),
    ("REPLAY", "replay"),
]
_GROUPED: list[Column] = [
    ("COUNT", "count"),
    ("KIND", "kind"),
    ("CODE", "code"),
    ("TENANT", "tenant"),
    ("MODEL", "model"),
    ("MODEL ID", "model_id"),
    ("FIRST", "first_at"),
    ("LAST", "last_at"),
    ("EXAMPLE", "example_id"),
    ("ITS MESSAGE", "example"),
]


@dead.command("list")
def list_dead(
    kind: AnyKind = None,
    code: Code = None,
    model: Model = None,
    model_id: ModelId = None,
    tenant: OfTenant = None,
    since: Since = None,
    until: Until = None,
    text: Part = None,
    webhook: OfWebhook = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="So many at most, the newest first.")] = 50,
    url: ApiOption = "",
    key_file: KeyFileOption = None,
    output: OutputOption = Output.TABLE,
    as_json: JsonOption = False,
) -> None:
    """List the dead, newest first.

    Example: sluiceway dead list --code model_http_503 --since 2h
    """
    wanted = _filter(kind, code, model, model_id, tenant, since, until, text, webhook)
    found = asked(lambda room: room.dead.entries(wanted, limit), Way(url, key_file))
    show_list(found, _LISTED, chosen(output, as_json))


@dead.command()
def groups(
    kind: AnyKind = None,
    code: Code = None,
    model: Model = None,
    model_id: ModelId = None,
    tenant: OfTenant = None,
    since: Since = None,
    until: Until = None,
    text: Part = None,
    webhook: OfWebhook = None,
    url: ApiOption = "",
    key_file: KeyFileOption = None,
    output: OutputOption = Output.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Count the dead by cause, the largest group first.

    Example: sluiceway dead groups --since 1d
    """
    wanted, how = _filter(kind, code, model, model_id, tenant, since, until, text, webhook), chosen(output, as_json)
    found = asked(lambda room: room.dead.groups(wanted), Way(url, key_file))
    _show_groups(found, found["items"], how)
    if not found["complete"] and how in (Output.TABLE, Output.IDS):
        note(f"only the newest {found['counted']} were counted")


@dead.command()
def show(
    dead_id: Annotated[str, typer.Argument(metavar="ID", help="id of `dead list`.")],
    kind: KindOption = Kind.TASK,
    url: ApiOption = "",
    key_file: KeyFileOption = None,
    output: OutputOption = Output.YAML,
    as_json: JsonOption = False,
) -> None:
    """Show one with everything that is known of it; secrets are masked. Exit code 1 when nothing of this id is dead.

    Example: sluiceway dead show 01939d5c-6f3e-7b1a-9c55-2f6f0b6f7a10
    """
    show_one(asked(lambda room: room.dead.show(kind, dead_id), Way(url, key_file)), chosen(output, as_json))


@dead.command()
def replay(
    ids: Ids = None,
    reason: Reason = "",
    kind: KindOption = Kind.TASK,
    code: Code = None,
    model: Model = None,
    model_id: ModelId = None,
    tenant: OfTenant = None,
    since: Since = None,
    until: Until = None,
    text: Part = None,
    webhook: OfWebhook = None,
    limit: Limit = 1_000,
    rate: Rate = 100.0,
    dry_run: DryRun = False,
    value: Annotated[
        Path | None, typer.Option("--value", exists=True, dir_okay=False, help="A file: what one message is sent as.")
    ] = None,
    yes: YesOption = False,
    url: ApiOption = "",
    key_file: KeyFileOption = None,
    output: OutputOption = Output.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Order a replay; janitors and dispatchers work it off. `sluiceway replays show ID` tells how far it is.

    Example: sluiceway dead replay --code model_http_503 --since 2h --rate 20 --reason "the provider is back" --dry-run
    """
    wanted = _filter(None, code, model, model_id, tenant, since, until, text, webhook)
    mended = value.read_bytes() if value is not None else None
    request = _request("replay", kind, _reason(reason, dry_run), wanted, ids, limit, rate, mended)
    _order(request, Way(url, key_file), dry_run, yes, chosen(output, as_json))


@dead.command()
def drop(
    ids: Ids = None,
    reason: Reason = "",
    kind: KindOption = Kind.TASK,
    code: Code = None,
    model: Model = None,
    model_id: ModelId = None,
    tenant: OfTenant = None,
    since: Since = None,
    until: Until = None,
    text: Part = None,
    webhook: OfWebhook = None,
    limit: Limit = 1_000,
    rate: Rate = 100.0,
    dry_run: DryRun = False,
    yes: YesOption = False,
    url: ApiOption = "",
    key_file: KeyFileOption = None,
    output: OutputOption = Output.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Take dead things off the list for good. A dropped task stays failed and goes with its retention.

    Example: sluiceway dead drop --code model_http_400 --reason "the caller was wrong" --yes
    """
    wanted = _filter(None, code, model, model_id, tenant, since, until, text, webhook)
    request = _request("drop", kind, _reason(reason, dry_run), wanted, ids, limit, rate, None)
    _order(request, Way(url, key_file), dry_run, yes, chosen(output, as_json))


def _reason(given: str, dry_run: bool) -> str:
    if not given and not dry_run:
        raise typer.BadParameter("say why: it is kept for ever", param_hint="--reason")
    return given or "dry run"


def _request(
    action: str, kind: Kind, reason: str, wanted: DeadFilter, ids: list[str] | None, limit: int, rate: float,
    mended: bytes | None,
) -> ReplayRequest:  # fmt: skip
    """The order as it was typed."""
    from libs.common.operations.replay import ReplayRequest
    from libs.common.ports_dead import Action, DeadKind

    who = f"{operator_name()} at the command line"
    return ReplayRequest(Action(action), DeadKind(kind), reason, who, wanted, ids or None, limit, rate, mended)


def _order(request: ReplayRequest, way: Way, dry_run: bool, yes: bool, output: Output) -> None:
    preview = asked(lambda room: room.dead.preview(request), way)
    if request.ids is None and preview["selected"] >= request.limit:
        note(f"these are the oldest {preview['selected']}, there may be more: --limit takes more")
    if dry_run:
        _show_preview(preview, output)
        return
    if preview["busy"]:
        note(f"{preview['busy']} are in the hands of another job and are left out")
    if refused := _refused(preview):
        note(f"the job will refuse {refused}")
    if preview["unknown"]:
        note(f"not dead: {', '.join(preview['unknown'][:10])}")
    count = preview["selected"]
    if not count and not yes:
        note("nothing that is dead fits: `sluiceway dead groups` tells what there is")
        raise typer.Exit(1)
    noun = request.kind if count == 1 else _MANY[Kind(request.kind)]
    confirm(f"{request.action.capitalize()} {count} dead {noun}?", yes=yes)
    show_one(asked(lambda room: room.dead.start(request), way), output)


def _show_preview(preview: dict[str, Any], output: Output) -> None:
    _show_groups(preview, preview["groups"], output)
    if output in (Output.TABLE, Output.IDS):
        refused = _refused(preview)
        but = f", of them refused: {refused}" if refused else ""
        note(f"a dry run: {preview['selected']} would be taken{but}; {preview['busy']} are in another job's hands")


def _refused(preview: dict[str, Any]) -> str:
    return ", ".join(f"{count} ({why})" for why, count in preview["why_refused"].items())


def _show_groups(document: dict[str, Any], groups: list[dict[str, Any]], output: Output) -> None:
    """A group has no id of its own: its example's is what `dead show` takes."""
    examples = [group["example_id"] for group in groups]
    show_document(document, output, lambda: show_list(groups, _GROUPED, Output.TABLE), examples)


def _filter(
    kind: Kind | None, code: str | None, model: str | None, model_id: str | None, tenant: int | None,
    since: str | None, until: str | None, text: str | None, webhook: int | None,
) -> DeadFilter:  # fmt: skip
    from libs.common.ports_dead import DeadFilter, DeadKind

    return DeadFilter(
        DeadKind(kind) if kind is not None else None, code, model, tenant, instant(since, "--since"),
        instant(until, "--until"), text or None, _model_number(model_id), webhook,
    )  # fmt: skip


def _model_number(word: str | None) -> int | None:
    from libs.common.ports_dead import NO_MODEL, NO_MODEL_WORD

    if word is None or word == NO_MODEL_WORD:
        return None if word is None else NO_MODEL
    if not (word.isascii() and word.isdecimal() and 0 < int(word[:20]) <= LARGEST_ID):
        raise typer.BadParameter(f"a number, or {NO_MODEL_WORD!r}", param_hint="--model-id")
    return int(word)
