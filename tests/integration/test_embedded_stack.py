"""`sluiceway up`: real servers under the real supervisor, with stand-ins for our services."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from libs.common.embedded import running
from libs.common.embedded.ports import free_port
from libs.common.embedded.postgres_home import everybody_reaches, move_out, place_of
from tests.support import servers
from tests.support.cli_schemas import assert_as_promised
from tests.support.processes import alive, offspring, until
from tests.support.run_alone import run_alone

Report = dict[str, Any]


class Up:
    """One `up` in a process of its own."""

    def __init__(self, data: Path, *, said: Path | None = None, **environment: str) -> None:
        self.data = data
        self.notes = data.parent / "notes"
        own = {"SLUICEWAY_BROKER": "tansu", "SLUICEWAY_STAND_IN_NOTES": str(self.notes), **environment}
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("SLUICEWAY_")}
        self.said = said or data.parent / f"said-{len(list(data.parent.glob('said-*')))}"
        with self.said.open("wb") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.stand_in", str(data)],
                env={**inherited, **own},
                stdout=subprocess.PIPE,
                stderr=said,
            )

    def ready(self) -> Report:
        assert self.process.stdout is not None
        printed = self.process.stdout.readline()
        assert printed, self.said.read_text()
        report: Report = json.loads(printed)
        return report

    def end(self, wish: signal.Signals) -> int:
        self.process.send_signal(wish)
        return self.wait()

    def wait(self) -> int:
        code = self.process.wait(timeout=60)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def state(self) -> Report:
        return running.current_report(self.data) or {}

    def pids(self, role: str) -> list[int]:
        return [entry["pid"] for entry in self.state()["processes"] if entry["role"] == role]

    def has_lost(self, pid: int) -> bool:
        return all(entry["pid"] != pid for entry in self.state()["processes"])

    def settled(self) -> bool:
        return all(entry["state"] == "running" for entry in self.state()["processes"])


@pytest.fixture
def data() -> Iterator[Path]:
    with servers.servers_folder() as folder:
        yield folder / "data"


@contextmanager
def running_up(data: Path, *, said: Path | None = None, **environment: str) -> Iterator[Up]:
    up = Up(data, said=said, **environment)
    try:
        yield up
    finally:
        if up.process.poll() is None:
            up.end(signal.SIGTERM)


def run(*arguments: str, account: str | None = None, **settings: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "services.cli", *arguments]
    environment = {**os.environ, **settings}
    ran = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env=environment, user=account
    )
    assert_as_promised(arguments, ran.stdout)
    return ran


def test_up_reports_every_address_and_ctrl_c_ends_it_in_order(data: Path) -> None:
    with running_up(data) as up:
        report = up.ready()
        assert set(report) == {
            *("api", "kafka", "database", "redis", "object_store", "console", "data", "logs", "pid", "processes")
        }
        roles = [entry["role"] for entry in report["processes"]]
        services = ["api", "dispatcher", "executor", "executor", "janitor"]
        assert sorted(roles) == sorted(["postgres", "redis", "broker", *services])
        assert report["pid"] == up.process.pid
        family = offspring(up.process.pid)
        assert up.end(signal.SIGINT) == 0
        assert alive(family) == set()
        assert up.notes.read_text().split() == services
        assert running.supervisor_pid(data) is None


def test_a_second_signal_does_not_wait_for_a_process_that_hangs(data: Path) -> None:
    with running_up(data) as up:
        up.ready()
        family = offspring(up.process.pid)
        os.kill(up.pids("executor")[0], signal.SIGSTOP)
        up.process.send_signal(signal.SIGTERM)
        until(up.notes.exists, seconds=10, what="the stopping has begun")
        assert up.end(signal.SIGTERM) == 0
        assert alive(family) == set()


def test_down_waits_for_as_long_as_running_work_may_take(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    waited = running._until_ended

    def until_ended(data: Path, pid: int, *, seconds: float) -> bool:
        waits.append(seconds)
        return waited(data, pid, seconds=60)

    monkeypatch.setattr(running, "_until_ended", until_ended)
    with running_up(data, SLUICEWAY_DRAIN_SECONDS="900") as up:
        up.ready()
        assert running.stop(data)
        assert up.wait() == 0
    assert 4 * 900 < waits[0] < 5 * 900  # role by role: API, dispatcher, executors, janitor


def test_what_dies_is_back_at_its_address_and_reported(data: Path) -> None:
    with running_up(data) as up:
        report = up.ready()
        addresses = {name: report[name] for name in ("api", "kafka", "database", "redis")}
        for role in ("postgres", "redis", "broker", "api", "executor"):
            victim = up.pids(role)[0]
            os.kill(victim, signal.SIGKILL)
            until(partial(up.has_lost, victim), seconds=10, what=f"{role} is noticed")
        until(up.settled, seconds=10, what="everything runs again")
        assert {name: up.state()[name] for name in addresses} == addresses
        said = up.said.read_text()
        assert "executor-1 ended with code -9" in said
        assert str(data / "logs" / "executor-1.log") in said
        assert "postgres runs again" in said


def test_a_disk_that_takes_nothing_any_more_ends_nothing(data: Path) -> None:
    with running_up(data, said=Path("/dev/full")) as up:
        up.ready()
        (old,) = up.pids("janitor")
        family = offspring(up.process.pid)
        state = data / "state.json"
        state.unlink()
        state.mkdir()  # nobody can write it now
        os.kill(old, signal.SIGKILL)
        until(lambda: _as_many(up, family - {old}), seconds=10, what="it is back")
        state.rmdir()
        until(lambda: state.exists() and up.settled(), seconds=10, what="the report is there again")
        assert up.pids("janitor") != [old]


def test_a_killed_supervisor_leaves_nothing_and_the_next_one_carries_on(data: Path) -> None:
    up = Up(data)
    first = up.ready()
    run_alone(_write(first["database"]))
    key_ring = (data / "secrets").read_text()
    assert (data / "secrets").stat().st_mode & 0o077 == 0
    family = offspring(up.process.pid)
    up.end(signal.SIGKILL)
    until(lambda: not alive(family), seconds=10, what="all its processes are gone")
    with running_up(data) as again:
        second = again.ready()
        for name in ("api", "kafka", "database", "redis"):
            assert second[name] == first[name]
        assert run_alone(_read(second["database"])) == 7
        assert (data / "secrets").read_text() == key_ring


def test_starting_and_stopping_twice_are_harmless(data: Path) -> None:
    with running_up(data) as up:
        first = up.ready()
        for extra in ((), ("--detach",)):
            again = run("up", "--data", str(data), "--json", *extra)
            assert (again.returncode, json.loads(again.stdout)) == (0, first)
        moved = run("up", "--data", str(data), "--port", "1", "--json")
        assert (moved.returncode, json.loads(moved.stdout)) == (0, first)
        assert "`sluiceway down` first, to have --port 1\n" in moved.stderr
        status = json.loads(run("status", "--data", str(data), "--json").stdout)
        assert [entry.pop("state") for entry in status["processes"]] == ["running"] * len(first["processes"])
        assert status == first

        assert run("down", "--data", str(data)).returncode == 0
        assert up.wait() == 0
    stopped = run("down", "--data", str(data))
    assert (stopped.returncode, stopped.stderr) == (0, f"sluiceway: nothing runs in {data}\n")
    nothing = run("status", "--data", str(data), "--json")
    assert (nothing.returncode, "`sluiceway up`" in nothing.stderr) == (3, True)
    assert run("down", "--data", str(data / "never-there")).returncode == 0


def test_a_service_that_cannot_start_is_named_with_its_log_and_nothing_stays(data: Path) -> None:
    up = Up(data, SLUICEWAY_STAND_IN_BROKEN="dispatcher")
    assert up.wait() == 1
    said = up.said.read_text()
    assert "dispatcher-1 ended with code 7 while starting" in said
    assert str(data / "logs" / "dispatcher-1.log") in said
    assert [entry for entry in up.state()["processes"] if entry["pid"]] == []
    assert "dispatcher-1" in up.state()["failure"]
    assert "SLUICEWAY_STAND_IN_BROKEN" in said, "why it ended is said, too"


def test_what_ended_an_earlier_start_is_not_told_of_this_one(data: Path) -> None:
    assert Up(data, SLUICEWAY_STAND_IN_BROKEN="dispatcher").wait() == 1
    again = run("up", "--data", str(data), "--detach", SLUICEWAY_EXECUTORS="many")
    assert (again.returncode, "SLUICEWAY_EXECUTORS is 'many'" in again.stderr) == (1, True), again.stderr
    assert "dispatcher" not in again.stderr


def test_a_given_database_that_is_not_there_is_told_with_its_setting(data: Path) -> None:
    up = Up(data, SLUICEWAY_DATABASE_URL=f"postgresql://127.0.0.1:{free_port()}/sluiceway")
    assert (up.wait(), "SLUICEWAY_DATABASE_URL" in up.said.read_text()) == (1, True)


@pytest.mark.parametrize("damage", ["", "{"])
def test_damaged_files_of_a_folder_are_named_or_passed_over(data: Path, damage: str) -> None:
    data.mkdir()
    (data / "state.json").write_text(damage)
    assert run("status", "--data", str(data)).returncode == 3
    assert run("down", "--data", str(data)).returncode == 0
    assert run("config", "--json", SLUICEWAY_DATA=str(data)).returncode == 0
    (data / "stack.json").write_text(damage)
    for extra in ((), ("--detach",)):
        up = run("up", "--data", str(data), *extra)
        assert (up.returncode, f"{data / 'stack.json'} is damaged" in up.stderr) == (1, True), up.stderr
        assert ("delete it" in up.stderr, "Traceback" in up.stderr) == (True, False)


@pytest.mark.skipif(
    os.geteuid() != 0
    or not all(everybody_reaches(path) for path in (Path(__file__).parent, Path(sys.executable).resolve())),
    reason="only root can be somebody else, where others reach the tests and the interpreter",
)
def test_the_stack_of_another_account_is_said_to_be_one(data: Path) -> None:
    data.parent.chmod(0o755)
    with running_up(data) as up:
        up.ready()
        for command in ("status", "down", "up"):
            ran = run(command, account="nobody", SLUICEWAY_DATA=str(data))
            assert (ran.returncode, "belongs to another account" in ran.stderr) == (2, True), ran.stderr
        (data / "state.json").chmod(0o644)
        ran = run("down", account="nobody", SLUICEWAY_DATA=str(data))
        assert (ran.returncode, "belongs to another account" in ran.stderr) == (2, True), ran.stderr


def test_servers_that_are_given_are_not_started(data: Path, redis_server: str, postgres_server: str) -> None:
    with servers.clone(postgres_server, "template0") as database:
        given = {"SLUICEWAY_REDIS_URL": redis_server, "SLUICEWAY_DATABASE_URL": database}
        with running_up(data, **given) as up:
            report = up.ready()
            assert {entry["role"] for entry in report["processes"]}.isdisjoint({"postgres", "redis"})
            assert (report["redis"], report["database"]) == (redis_server, database)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's PostgreSQL needs another place")
def test_a_folder_that_postgres_cannot_enter_is_said(data: Path) -> None:
    data.parent.chmod(0o700)
    with running_up(data) as up:
        up.ready()
        elsewhere = place_of(data / "postgres")
        assert f"PostgreSQL's files lie in {elsewhere}" in up.said.read_text()
    detached = run("up", "--data", str(data), "--detach")
    assert run("down", "--data", str(data)).returncode == 0
    assert f"PostgreSQL's files lie in {elsewhere}" in detached.stderr
    assert data.parent.stat().st_mode & 0o777 == 0o700
    move_out(data / "postgres")
    assert not elsewhere.exists()


def _as_many(up: Up, left: set[int]) -> bool:
    return up.process.poll() is None and len(alive(offspring(up.process.pid)) - left) == 1


async def _write(url: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute("CREATE TABLE kept (n int); INSERT INTO kept VALUES (7)")
    await connection.close()


async def _read(url: str) -> int:
    connection = await asyncpg.connect(url)
    try:
        return int(await connection.fetchval("SELECT n FROM kept"))
    finally:
        await connection.close()
