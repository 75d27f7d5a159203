"""The tree of commands: each says what it does, and lists and objects can be printed in every way."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from libs.common.operations.audit_findings import BY_HAND, MEANINGS, Violation
from services.cli import roles
from services.cli.__main__ import load_commands
from services.cli.app import app
from services.cli.options import LARGEST_ID
from tests.support.cli_schemas import SCHEMAS, schema_of

#: Their --json is a stream, a report of an errand, or has a binding shape of its own: no list and no stored thing.
ONLY_JSON = {
    "events republish", "events tail", "import-legacy", "migrate", "models apply", "models delete", "models dry-run",
    "secrets rotate", "status", "task download", "task watch", "top", "up",
}  # fmt: skip

#: What cannot be undone is asked about first; without a terminal it needs --yes.
ASK = {
    "audit", "dead drop", "dead replay", "keys revoke", "models delete", "pause", "replays stop", "task cancel",
}  # fmt: skip

#: Arguments that a statement compares with a bigint.
NUMBERED = {"after", "job_id", "key_id", "tenant", "webhook_id"}

load_commands()


def leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    children = getattr(command, "commands", None)
    if children is None or command.invoke_without_command:
        yield " ".join(path), command
    for name, child in (children or {}).items():
        yield from leaves(child, (*path, name))


TREE = typer.main.get_command(app)
LEAVES = dict(leaves(TREE))
#: What they are told is in their environment: there is nothing to show.
SERVICES = {"api", "dispatcher", "executor", "janitor"}


def example_of(text: str) -> list[str]:
    """The words behind `sluiceway` of the one line that starts with `Example:`."""
    (line,) = [line.strip() for line in text.splitlines() if line.strip().startswith("Example:")]
    sluiceway, *words = shlex.split(line.removeprefix("Example:"))
    assert sluiceway == "sluiceway"
    return words


def found(command: Any, words: list[str]) -> tuple[Any, list[str]]:
    """The command that the words name, and what they give it."""
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    return command, words


@pytest.mark.parametrize("name", LEAVES)
def test_help(name: str) -> None:
    shown = CliRunner().invoke(app, [*name.split(), "--help"])
    assert (shown.exit_code, "Usage:" in shown.output) == (0, True)
    if name not in SERVICES:
        leaf, arguments = found(TREE, example_of(LEAVES[name].help))
        assert leaf is LEAVES[name]
        leaf.make_context(name, arguments)  # raises for what the command would refuse
    assert all(getattr(one, "help", None) for one in LEAVES[name].params if one.name != "help"), "each is explained"


def test_the_version_is_told() -> None:
    shown = CliRunner().invoke(app, ["--version"])
    assert (shown.exit_code, shown.output) == (0, f"sluiceway {version('sluiceway')}\n")


def test_what_prints_json_prints_the_other_ways_too() -> None:
    def options(command: Any) -> set[str]:
        return {option for parameter in command.params for option in parameter.opts}

    assert {
        name for name, one in LEAVES.items() if "--json" in options(one) and "--output" not in options(one)
    } == ONLY_JSON


def test_what_prints_json_has_a_schema() -> None:
    wanted = {name for name, one in LEAVES.items() if any("--json" in parameter.opts for parameter in one.params)}
    assert {file.stem for file in SCHEMAS.iterdir()} == {name.replace(" ", "-") for name in wanted}
    for name in wanted:
        schema_of(name)


def test_what_cannot_be_undone_asks() -> None:
    assert {name for name, one in LEAVES.items() if any("--yes" in option.opts for option in one.params)} == ASK


@pytest.mark.parametrize("words", ["audit --fix", "keys revoke 7", "replays stop 7", "pause --all"])
def test_nobody_there_to_ask_changes_nothing(words: str) -> None:
    nowhere = {"SLUICEWAY_DATABASE_URL": "postgresql://127.0.0.1:1/nothing", "SLUICEWAY_DATA": "/nowhere"}
    asked = CliRunner().invoke(app, words.split(), env=nowhere)
    assert (asked.exit_code, "--yes" in asked.output) == (2, True), "before any store is looked at"


def test_numbers_of_the_database_fit_into_it() -> None:
    numbered = [one for leaf in LEAVES.values() for one in leaf.params if one.name in NUMBERED]
    assert {one.name for one in numbered} == NUMBERED
    assert {one.max for one in numbered} == {LARGEST_ID}
    for name in ("lanes", "top", "events tail"):
        refused = CliRunner().invoke(app, [*name.split(), "--tenant", str(LARGEST_ID + 1)])
        assert (refused.exit_code, "--tenant" in refused.output) == (2, True)


def test_an_executor_is_run_by_its_name_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    monkeypatch.setattr(roles, "_run", ran.append)
    CliRunner().invoke(app, ["executor"], env={"SLUICEWAY_DATA": "/nowhere"})
    assert ran == ["executor"]
    CliRunner().invoke(app, ["executor", "list", "--help"], env={"SLUICEWAY_DATA": "/nowhere"})
    assert ran == ["executor"]


def test_an_audit_names_commands_that_there_are() -> None:
    named = {words for text in BY_HAND.values() for words in re.findall(r"sluiceway ([a-z]+(?: [a-z]+)?)", text)}
    assert named
    assert {words for words in named if words not in LEAVES and words.split()[0] not in LEAVES} == set()


@pytest.mark.parametrize("invariant", sorted(MEANINGS))
def test_a_finding_says_what_an_operator_does(invariant: str) -> None:
    assert Violation(invariant, "task 1", "is broken").repair == BY_HAND[invariant]
    assert Violation(invariant, "task 1", "is broken", "mend it").repair == "mend it"
