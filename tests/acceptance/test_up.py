"""`sluiceway up --detach`, `status` and `down`, with the real services."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from libs.common.embedded import running
from libs.common.embedded.postgres_home import move_out
from tests.support import servers
from tests.support.cli_schemas import assert_as_promised
from tests.support.processes import alive, offspring, until

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def data() -> Iterator[Path]:
    with servers.servers_folder() as folder:
        data = folder / "data"
        yield data
        sluiceway("down", "--data", str(data))
        move_out(data / "postgres")


def sluiceway(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLUICEWAY_")}
    return subprocess.run(
        [sys.executable, "-m", "services.cli", *arguments],
        env={**environment, **settings},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


def report(data: Path, *arguments: str, **settings: str) -> dict[str, Any]:
    done = sluiceway(*arguments, "--data", str(data), "--json", **settings)
    assert done.returncode == 0, done.stderr
    assert_as_promised((*arguments, "--json"), done.stdout)
    shown: dict[str, Any] = json.loads(done.stdout)
    return shown


@pytest.mark.parametrize("broker", ["tansu", pytest.param("kafka", marks=pytest.mark.long)])
def test_the_stack_is_ready_when_up_returns_and_gone_when_down_does(
    data: Path, broker: str, broker_choice: servers.BrokerChoice
) -> None:
    if broker == "kafka" and broker_choice.kind != "kafka":
        pytest.skip("Apache Kafka cannot be started here")
    shown = report(data, "up", "--detach", SLUICEWAY_BROKER=broker)
    assert httpx.get(f"{shown['api']}/readyz").status_code == 200
    roles = [entry["role"] for entry in shown["processes"]]
    assert sorted(roles) == sorted(
        ["api", "dispatcher", "executor", "executor", "janitor", "postgres", "redis", "broker"]
    )
    family = offspring(shown["pid"])
    assert {entry["pid"] for entry in shown["processes"]} <= family

    assert sluiceway("down", "--data", str(data)).returncode == 0
    assert alive(family) == set()
    assert sluiceway("down", "--data", str(data)).returncode == 0


@pytest.mark.long
def test_what_dies_is_ready_again_within_ten_seconds(data: Path) -> None:
    shown = report(data, "up", "--detach")
    for role in ("postgres", "redis", "broker", "api", "dispatcher", "executor", "janitor"):
        victim = next(entry["pid"] for entry in shown["processes"] if entry["role"] == role)
        os.kill(victim, signal.SIGKILL)
        until(lambda: _recovered(data, victim), seconds=10, what=f"{role} runs again")  # noqa: B023  asked at once
        shown = report(data, "status")
    log = (data / "logs" / "supervisor.log").read_text()
    assert "janitor-1 ended with code -9" in log


@pytest.mark.long
def test_a_killed_supervisor_takes_everything_with_it_and_addresses_stay(data: Path) -> None:
    first = report(data, "up", "--detach")
    family = offspring(first["pid"])
    os.kill(first["pid"], signal.SIGKILL)
    until(lambda: not alive(family), seconds=10, what="all processes are gone")
    assert sluiceway("status", "--data", str(data)).returncode == 3
    second = report(data, "up", "--detach")
    for name in ("api", "kafka", "database", "redis", "object_store", "console"):
        assert second[name] == first[name]


@pytest.mark.long
def test_a_port_that_is_taken_is_named_and_nothing_stays(data: Path) -> None:
    first = report(data, "up", "--detach")
    other = data.parent / "other"
    port = first["api"].rpartition(":")[2]
    before = {process.pid for process in psutil.process_iter()}
    refused = sluiceway("up", "--detach", "--data", str(other), "--port", port)
    assert refused.returncode == 1
    assert f"api-1: port {port} of 127.0.0.1 is taken" in refused.stderr
    assert "`sluiceway up --help`" in refused.stderr, "what to do is said"
    assert running.supervisor_pid(other) is None
    left = {process.pid for process in psutil.process_iter(["cmdline"]) if names(process, other)}
    assert left - before == set()
    move_out(other / "postgres")


def names(process: psutil.Process, folder: Path) -> bool:
    """Whether the folder stands in a process's command line; what ended meanwhile has none."""
    return str(folder) in " ".join(process.info["cmdline"] or ())


def _recovered(data: Path, victim: int) -> bool:
    entries = (running.current_report(data) or {"processes": []})["processes"]
    states = {entry["state"] for entry in entries}
    return states == {"running"} and all(entry["pid"] not in (None, victim) for entry in entries)
