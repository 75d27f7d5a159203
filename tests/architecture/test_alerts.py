"""The alerts that come along ask for figures that there are, and name commands that there are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from services.cli.__main__ import load_commands
from services.cli.app import app
from tests.support.metrics_page import described

FILE = Path(__file__).parents[2] / "examples" / "prometheus-alerts.yml"
RULES: list[dict[str, Any]] = yaml.safe_load(FILE.read_text())["groups"][0]["rules"]
FIGURES = {name: {*metric.labels, "instance"} for name, _, metric in described()}
_FIGURE = re.compile(r"(sluiceway_[a-z_]+)(?:\{([^}]*)\})?")
_BY = re.compile(r"by \(([a-z, ]+)\)\s*\((?:rate|increase)?\(?(sluiceway_[a-z_]+)")


@pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
def test_every_alert_asks_for_what_there_is_and_says_what_to_do(rule: dict[str, Any]) -> None:
    asked = [(name, set(re.findall(r"(\w+)=", labels))) for name, labels in _FIGURE.findall(rule["expr"])]
    asked += [(name, set(labels.split(", "))) for labels, name in _BY.findall(rule["expr"])]
    assert asked
    assert {(name, *(labels - FIGURES.get(name, set()))) for name, labels in asked} <= {(name,) for name in FIGURES}
    told = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
    assert told <= set.union(*(labels for _, labels in asked))
    assert rule["labels"]["severity"] in ("page", "ticket")


def test_the_commands_that_they_name_are_ours() -> None:
    load_commands()
    named = re.findall(r"`sluiceway ([a-z ]+)", FILE.read_text())
    assert "dead list " in named
    for words in named:
        command: Any = typer.main.get_command(app)
        for word in words.split():
            assert word in command.commands, words
            command = command.commands[word]
