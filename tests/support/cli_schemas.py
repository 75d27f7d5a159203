"""Holds what the command line prints with `--json` against schemas/cli."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import typer.main
from jsonschema import Draft202012Validator

from services.cli.__main__ import load_commands
from services.cli.app import app

SCHEMAS: Final = Path(__file__).parents[2] / "schemas" / "cli"


def assert_as_promised(arguments: Sequence[object], printed: str | bytes) -> None:
    """Fails when a command was told `--json` and a line of what it printed is not as its schema says, or has none."""
    if "--json" in arguments:
        for line in printed.splitlines():
            schema_of(command_of([str(word) for word in arguments])).validate(json.loads(line))


def command_of(words: Sequence[str]) -> str:
    """The command that the words name: `task get` of `task get ID --json`."""
    command, path = _tree(), []
    for word in words:
        if word not in getattr(command, "commands", {}):
            break
        command = command.commands[word]
        path.append(word)
    return " ".join(path)


@cache
def schema_of(command: str) -> Draft202012Validator:
    """What the command's JSON is checked by."""
    file = SCHEMAS / f"{command.replace(' ', '-')}.json"
    assert file.is_file(), f"`sluiceway {command} --json` has no schema {file.name}"
    schema = json.loads(file.read_text())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


@cache
def _tree() -> Any:
    load_commands()
    return typer.main.get_command(app)
