"""`sluiceway tenants`, against a real database."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from libs.common.embedded.ports import free_port
from services.cli import tenants
from services.cli.app import app
from tests.support.cli_schemas import assert_as_promised


@pytest.fixture
def run(house_database: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("SLUICEWAY_DATABASE_URL", house_database)
    monkeypatch.setenv("SLUICEWAY_REDIS_URL", f"redis://127.0.0.1:{free_port()}/0")  # weights do without
    assert tenants.tenants in {group.typer_instance for group in app.registered_groups}

    def command(*words: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["tenants", *words])
        assert_as_promised(["tenants", *words], result.stdout)
        return result.exit_code, result.stdout

    return command


def test_tenants_are_weighed_shown_and_listed(run: Any) -> None:
    assert run("show", "--", "-41")[0] == 1
    code, out = run("set-weight", "--json", "--", "-41", "3")
    made = json.loads(out)
    assert (code, made["id"], made["weight"], made["paused"]) == (0, "-41", 3, False)
    assert set(made) == {"id", "weight", "paused", "created_at"}
    assert json.loads(run("show", "--json", "--", "-41")[1]) == made
    assert yaml.safe_load(run("show", "-o", "yaml", "--", "-41")[1])["weight"] == 3
    (listed,) = [one for one in json.loads(run("list", "--json")[1])["items"] if one["id"] == "-41"]
    assert listed == {**made, "models": {"value": 0, "exact": True}, "calls_today": 0}
    assert "-41" in run("list", "-o", "ids")[1].split()
    assert len(run("list", "--limit", "1", "-o", "ids")[1].split()) == 1
    assert run("list")[1].splitlines()[0].split()[:2] == ["ID", "WEIGHT"]


@pytest.mark.parametrize("weight", ["0", "1001", "heavy"])
def test_a_weight_that_cannot_be_is_refused(run: Any, weight: str) -> None:
    assert run("set-weight", "42", weight)[0] == 2
