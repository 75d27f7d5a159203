"""The tree of commands: each says what it does, and lists and objects can be printed in every way."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from services.cli import roles
from services.cli.__main__ import load_commands
from services.cli.app import app

#: Their --json is a stream, a report of an errand, or has a binding shape of its own: no list and no stored thing.
ONLY_JSON = {
    "events republish", "events tail", "import-legacy", "migrate", "models apply", "models delete", "models dry-run",
    "secrets rotate", "status", "task download", "task watch", "top", "up",
}  # fmt: skip

load_commands()


def leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    children = getattr(command, "commands", None)
    if children is None:
        yield " ".join(path), command
        return
    for name, child in children.items():
        yield from leaves(child, (*path, name))


LEAVES = dict(leaves(typer.main.get_command(app)))


@pytest.mark.parametrize("name", LEAVES)
def test_help(name: str) -> None:
    shown = CliRunner().invoke(app, [*name.split(), "--help"])
    assert (shown.exit_code, "Usage:" in shown.output) == (0, True)
    assert all(getattr(one, "help", None) for one in LEAVES[name].params if one.name != "help"), "each is explained"


def test_what_prints_json_prints_the_other_ways_too() -> None:
    def options(command: Any) -> set[str]:
        return {option for parameter in command.params for option in parameter.opts}

    assert {
        name for name, one in LEAVES.items() if "--json" in options(one) and "--output" not in options(one)
    } == ONLY_JSON


def test_an_executor_is_run_by_its_name_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    monkeypatch.setattr(roles, "_run", ran.append)
    CliRunner().invoke(app, ["executor"], env={"SLUICEWAY_DATA": "/nowhere"})
    assert ran == ["executor"]
    CliRunner().invoke(app, ["executor", "list", "--help"], env={"SLUICEWAY_DATA": "/nowhere"})
    assert ran == ["executor"]


def test_a_reader_that_left_is_told_by_the_exit_code() -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "services.cli", "config"], stdout=write, stderr=subprocess.PIPE, timeout=60,
            check=False, env={**os.environ, "SLUICEWAY_DATA": "/nowhere"},
        )  # fmt: skip
    finally:
        os.close(write)
    assert (ended.returncode, ended.stderr) == (141, b"")
