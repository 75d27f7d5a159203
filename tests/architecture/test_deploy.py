"""The container files, checked as far as that goes without a container engine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import yaml
from compose_spec import PyCompose
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

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


#: Imports all of ours and runs a command, where what the arguments name before `--` is not installed.
_WITHOUT = """
import sys
from importlib import import_module
from pkgutil import walk_packages
nth = sys.argv.index("--")
sys.modules.update(dict.fromkeys(sys.argv[1:nth]))
import services, libs
for package in (services, libs):
    for module in walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith("__main__") and ".migrations." not in module.name:
            import_module(module.name)
from services.cli.__main__ import main
sys.argv[1:] = sys.argv[nth + 1:]
main()
"""


def test_what_the_image_installs_is_enough_for_modules_and_commands(tmp_path: Path) -> None:
    """The Dockerfile installs no extra: what only an extra brings must not be needed by a command for real servers."""
    brought = _brought_by_the_project_alone()
    absent = [module for module, owners in packages_distributions().items() if not brought & _canonical(owners)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLUICEWAY_")}
    run = subprocess.run(
        [sys.executable, "-c", _WITHOUT, *absent, "--", "--data", str(tmp_path), "config", "--json"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert (run.returncode, "SLUICEWAY_DATABASE_URL" in run.stdout) == (0, True), run.stderr


def _canonical(names: list[str]) -> set[str]:
    return {canonicalize_name(name) for name in names}


def _brought_by_the_project_alone() -> set[str]:
    """Distributions that the project's own dependencies bring, with theirs."""
    found = {"sluiceway"}
    waiting = [
        Requirement(text) for text in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    ]
    seen: set[str] = set()
    while waiting:
        wanted = waiting.pop()
        if str(wanted) in seen:
            continue
        seen.add(str(wanted))
        found.add(canonicalize_name(wanted.name))
        for needed in map(Requirement, requires(wanted.name) or []):
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in ("", *wanted.extras)):
                waiting.append(needed)
    return found
