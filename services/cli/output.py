"""What commands print: tables for people, JSON and YAML for programs, ids for pipes."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias

import typer

if TYPE_CHECKING:
    from rich.console import Console

_WIDE: Final = 10_000
#: What JSON may have in it as it is, and terminals obey or turn round: controls beyond ASCII, and marks of direction.
_STEERING: Final = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


class Output(StrEnum):
    """How to print."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"
    IDS = "ids"


#: A column: its heading, and where its value is: a path such as `error.code`, or a function of the row.
Column: TypeAlias = tuple[str, str | Callable[[Mapping[str, Any]], Any]]

OutputOption = Annotated[Output, typer.Option("--output", "-o", help="How to print.")]
JsonOption = Annotated[bool, typer.Option("--json", help="The same as --output json.")]
OneObjectOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def chosen(output: Output, as_json: bool) -> Output:
    """What --output and --json say together."""
    return Output.JSON if as_json else output


def show_list(rows: Iterable[Mapping[str, Any]], columns: Sequence[Column], output: Output) -> None:
    """Many things: JSON as {"items": [...]}, ids as one a line."""
    found = list(rows)
    match output:
        case Output.JSON:
            print(as_json_text({"items": found}))
        case Output.YAML:
            print(_yaml({"items": found}), end="")
        case Output.IDS:
            for named in filter(None, map(_first_id, found)):  # an outbox's channel has no id
                print_exactly(named)
        case Output.TABLE:
            _table(found, columns)


def show_one(thing: Mapping[str, Any], output: Output) -> None:
    """One thing: every field on a line of its own, or as JSON, YAML, or its id."""
    match output:
        case Output.JSON:
            print(as_json_text(thing))
        case Output.YAML:
            print(_yaml(dict(thing)), end="")
        case Output.IDS:
            if named := _first_id(thing):  # an overview has no id
                print_exactly(named)
        case Output.TABLE:
            lines = list(_flat(thing))
            width = max((len(name) for name, _ in lines), default=0)
            for name, value in lines:
                print(f"{name:{width}}  {value}".rstrip())


def show_document(
    document: Mapping[str, Any], output: Output, table: Callable[[], None], ids: Iterable[object]
) -> None:
    """A document whose table and ids are written by hand; JSON and YAML are the document itself."""
    match output:
        case Output.TABLE:
            table()
        case Output.IDS:
            for one in ids:
                print_exactly(str(one))
        case _:
            show_one(document, output)


def note(message: str) -> None:
    """Something for the person, not for the pipe; it may repeat what others wrote."""
    lines = "\n".join(map(printable, message.split("\n")))
    print(f"sluiceway: {lines}", file=sys.stderr, flush=True)


def as_json_text(thing: object) -> str:
    """A line of JSON, in its own letters, that steers no terminal."""
    return _escaped(json.dumps(thing, ensure_ascii=False, default=str))


def print_exactly(text: str) -> None:
    """As it is for a pipe: what reads it looks for exactly that."""
    print(printable(text) if sys.stdout.isatty() else text)


def confirm(question: str, *, yes: bool) -> None:
    """Ask before what cannot be undone. Without a terminal nobody can answer: then --yes is needed."""
    if yes:
        return
    question = printable(question)
    if not sys.stdin.isatty():
        note(f"{question} Nobody is there to ask: say --yes.")
        raise typer.Exit(2)
    try:
        agreed = typer.confirm(question, err=True)
    except typer.Abort as aborted:
        if isinstance(aborted.__context__, KeyboardInterrupt):  # typer makes the same of it as of an end of the input
            raise KeyboardInterrupt from None
        raise
    if not agreed:
        raise typer.Exit(1)


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column]) -> None:
    """Columns as wide as what they hold: never cut, so that lines can be searched and split."""
    if not rows:
        note("nothing to show")
        return
    cells = [[cell(value_of(row, where)) for _, where in columns] for row in rows]
    headings = [heading for heading, _ in columns]
    widths = [max(len(line[nth]) for line in [headings, *cells]) for nth in range(len(columns))]
    bold = sys.stdout.isatty()
    for line in [headings, *cells]:
        text = "  ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
        print(f"\x1b[1m{text}\x1b[0m" if bold and line is headings else text)


def console() -> Console:
    """What draws: nothing that others wrote is markup, and in a pipe no line is cut or wrapped."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else _WIDE
    return Console(highlight=False, markup=False, emoji=False, width=width)


def value_of(row: Mapping[str, Any], where: str | Callable[[Mapping[str, Any]], Any]) -> Any:
    """A column's value in a row."""
    if callable(where):
        return where(row)
    value: Any = row
    for name in where.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def cell(value: Any) -> str:
    """One line of text; what others wrote (an error's text, a name) must not steer the terminal."""
    if value is None or value == "":
        return "-"
    if isinstance(value, Mapping | list):
        value = json.dumps(value, ensure_ascii=False, default=str)
    return printable(str(value))


def printable(text: str) -> str:
    """The same text, a space for each sign that a terminal would obey, or that turns a line round."""
    return "".join(character if character.isprintable() else " " for character in text)


def _flat(thing: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for name, value in thing.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", cell(value)


def _first_id(row: Mapping[str, Any]) -> str:
    return str(next((row[name] for name in ("id", "name", "key") if row.get(name) is not None), ""))


def _yaml(value: Any) -> str:
    import yaml

    class Dumper(yaml.SafeDumper):
        """What steers is quoted, so that it can be escaped."""

    def text_of(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if _STEERING.search(text) else None)

    Dumper.add_representer(str, text_of)
    plain = json.loads(json.dumps(value, default=str))
    written: str = yaml.dump(plain, Dumper=Dumper, sort_keys=False, allow_unicode=True)
    return _escaped(written)


def _escaped(text: str) -> str:
    return _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
