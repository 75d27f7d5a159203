"""`sluiceway quota`, against a real database."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from services.cli import quota
from services.cli.app import app
from tests.support.cli_schemas import assert_as_promised


@pytest.fixture
def run(house_database: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("SLUICEWAY_DATABASE_URL", house_database)
    assert quota.quota in {group.typer_instance for group in app.registered_groups}

    def command(*words: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["quota", *words])
        assert_as_promised(["quota", *words], result.stdout)
        return result.exit_code, result.output

    return command


def test_limits_are_set_shown_and_cleared(run: Any) -> None:
    assert run("set", "100", "--tenant", "-3")[0] == 0
    code, out = run("set", "5", "--tenant", "-3", "--user", "ann", "--json")
    assert (code, json.loads(out)) == (0, {"tenant": "-3", "user": "ann", "points_per_day": 5})
    shown = json.loads(run("show", "--tenant", "-3", "--json")[1])
    assert shown["items"] == [
        {"user": "", "points_per_day": 100, "used": 0},
        {"user": "ann", "points_per_day": 5, "used": 0},
    ]
    account = json.loads(run("show", "--tenant", "-3", "--user", "ann", "--json")[1])
    assert (account["limit"], account["rest"], account["own_limit"]) == (5, 5, True)
    assert "5 of 5 left" in run("show", "--tenant", "-3", "--user", "ann")[1]
    assert "(all others)" in run("show", "--tenant", "-3")[1]
    assert run("clear", "--tenant", "-3", "--user", "ann")[0] == 0
    assert run("clear", "--tenant", "-3", "--user", "ann")[0] == 1
    assert json.loads(run("clear", "--tenant", "-3", "--json")[1])["cleared"] is True
    assert "no limit" in run("show", "--tenant", "-3", "--user", "ann")[1]
    assert json.loads(run("show", "--tenant", "-3", "--json")[1])["items"] == []


def test_what_cannot_be_set_is_said_in_one_line(run: Any) -> None:
    assert run("set", "--tenant", "1", "--", "-5")[0] == 2
    assert run("set", str(2**60), "--tenant", "1")[0] == 1
    assert run("set", "5")[0] == 2
