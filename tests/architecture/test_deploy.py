"""The container files, checked as far as that goes without a container engine."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml
from compose_spec import PyCompose

from libs.common.settings import unknown_names

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())


def test_the_compose_file_keeps_to_the_specification() -> None:
    parsed = PyCompose.from_yaml(yaml.safe_dump(COMPOSE))  # with its anchors resolved
    assert set(parsed.service_names()) >= {"api", "dispatcher", "executor", "janitor", "postgres", "kafka", "redis"}


def test_every_service_runs_a_command_of_ours_with_settings_that_exist() -> None:
    listed = subprocess.run(
        [sys.executable, "-m", "services.cli", "--help"], capture_output=True, text=True, check=True
    )
    for name in ("migrate", "api", "dispatcher", "executor", "janitor"):
        service = COMPOSE["services"][name]
        assert service["command"] == [name]
        assert re.search(rf"\b{name}\b", listed.stdout)
        assert unknown_names(service["environment"]) == []


def test_data_survives_in_named_volumes() -> None:
    for name in ("postgres", "kafka", "objects"):
        (volume,) = COMPOSE["services"][name]["volumes"]
        assert volume.split(":")[0] in COMPOSE["volumes"]


def test_hadolint_finds_nothing() -> None:
    hadolint = shutil.which("hadolint", path=Path(sys.executable).parent)
    assert hadolint is not None
    run = subprocess.run([hadolint, str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, "")


def test_the_image_runs_as_nobody_in_particular() -> None:
    assert re.search(r"^USER \d+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
