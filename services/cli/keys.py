"""`sluiceway keys`: API keys of tenants."""

from __future__ import annotations

from typing import Annotated

import typer

from services.cli.app import app
from services.cli.control_room import Document
from services.cli.options import LARGEST_ID, SMALLEST_TENANT
from services.cli.output import (
    Column,
    JsonOption,
    Output,
    OutputOption,
    YesOption,
    chosen,
    confirm,
    show_document,
    show_list,
)
from services.cli.remote import KeyFileOption
from services.cli.which_way import ApiOption, By, Way, asked, found

#: `operate` reads what belongs to all tenants: it is given on purpose, or not at all.
_USUAL = "submit,read,admin"

keys = typer.Typer(help="API keys of tenants.", no_args_is_help=True)
app.add_typer(keys, name="keys")

Tenant = Annotated[int, typer.Option("--tenant", min=SMALLEST_TENANT, max=LARGEST_ID, help="Whose key it is.")]

_LISTED: list[Column] = [
    ("ID", "id"),
    ("NAME", "name"),
    ("SCOPES", lambda row: ",".join(row["scopes"])),
    ("STATE", lambda row: f"revoked {row['revoked_at']}" if row["revoked_at"] else "valid"),
    ("CREATED", "created_at"),
]


@keys.command()
def create(
    tenant: Tenant,
    name: Annotated[str, typer.Option("--name", help="Who uses it; becomes the creator of its tasks.")] = "",
    scopes: Annotated[str, typer.Option("--scopes", help="Comma separated.")] = _USUAL,
    by: By = "",
    url: ApiOption = "",
    key_file: KeyFileOption = None,
    output: OutputOption = Output.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Make a key. It is shown this once: only its digest is stored.

    Example: sluiceway keys create --tenant 42 --name shop --scopes submit,read
    """
    from libs.common.operations.keys import KEY_NAME_LIMIT

    allowed = _scopes(scopes)
    if len(name) > KEY_NAME_LIMIT or any(ord(character) < 32 for character in name):
        said = f"at most {KEY_NAME_LIMIT} characters, none of them a control character"
        raise typer.BadParameter(said, param_hint="--name")
    made = asked(lambda room: room.keys.create(tenant, name, allowed), Way(url, key_file, by))
    show_document(_numbered(made), chosen(output, as_json), lambda: print(made["key"]), [made["id"]])


@keys.command("list")
def list_keys(
    tenant: Tenant,
    url: ApiOption = "",
    key_file: KeyFileOption = None,
    output: OutputOption = Output.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Show a tenant's keys, without the keys themselves.

    Example: sluiceway keys list --tenant 42
    """
    listed = asked(lambda room: room.keys.keys(tenant), Way(url, key_file))
    show_list([_numbered(key) for key in listed], _LISTED, chosen(output, as_json))


@keys.command()
def revoke(
    key_id: Annotated[int, typer.Argument(metavar="ID", min=1, max=LARGEST_ID, help="id of `keys list`.")],
    by: By = "",
    yes: YesOption = False,
    url: ApiOption = "",
    key_file: KeyFileOption = None,
    output: OutputOption = Output.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Make a key useless within a second; exit code 1 when there is no such valid key.

    Example: sluiceway keys revoke 7 --yes
    """
    confirm(f"Revoke the key {key_id}? Who uses it is refused from then on.", yes=yes)
    revoked = asked(lambda room: found(room.keys.revoke(key_id)), Way(url, key_file, by))
    said = f"key {key_id} is revoked" if revoked else f"there is no valid key {key_id}"
    show_document(
        {"id": key_id, "revoked": revoked}, chosen(output, as_json), lambda: print(said), [key_id] if revoked else []
    )
    if not revoked:
        raise typer.Exit(1)


def _scopes(text: str) -> list[str]:
    from libs.common.operations.keys import SCOPES

    wanted = [scope.strip() for scope in text.split(",") if scope.strip()]
    unknown = sorted(set(wanted) - set(SCOPES))
    if unknown or not wanted:
        raise typer.BadParameter(f"choose of {', '.join(SCOPES)}", param_hint="--scopes")
    return [scope for scope in SCOPES if scope in wanted]


def _numbered(key: Document) -> Document:
    """This command's documents have ids as numbers."""
    return key | {"id": int(key["id"])}
