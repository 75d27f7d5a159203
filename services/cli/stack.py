"""`sluiceway up`, `down` and `status`: the embedded stack of a data folder."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from services.cli.app import app
from services.cli.output import OneObjectOption, note, printable

_READY_SECONDS = 300.0  # Apache Kafka's jars may have to be fetched
_STOP_SECONDS = 90.0
_SAID = "sluiceway: "
_FLAGS = {"api": "--port", "postgres": "--database-port", "redis": "--redis-port", "broker": "--kafka-port"}
_ADDRESSES = ("api", "console", "kafka", "database", "redis", "object_store", "data", "logs")

Data = Annotated[Path | None, typer.Option("--data", help="Data folder (SLUICEWAY_DATA, else one of the account's).")]


def _port(of: str, flag: str) -> Any:
    return typer.Option(flag, min=1, max=65535, help=f"Port of {of}; free when first started, then kept.")


@app.command()
def up(
    data: Data = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return when everything is ready; stop by `down`.")] = False,
    as_json: OneObjectOption = False,
    port: Annotated[int | None, _port("the API", "--port")] = None,
    database_port: Annotated[int | None, _port("PostgreSQL", "--database-port")] = None,
    redis_port: Annotated[int | None, _port("Redis", "--redis-port")] = None,
    kafka_port: Annotated[int | None, _port("the broker", "--kafka-port")] = None,
) -> None:
    """Start servers and services on this machine; a second call reports the running ones.

    Example: sluiceway up --detach --port 8080
    """
    from libs.common.embedded import running
    from libs.common.embedded.data_folder import chosen_folder
    from services.cli.usable_settings import usable_settings

    usable_settings()  # what a service would refuse is said before anything starts
    folder = chosen_folder(data)
    try:
        folder.furnish()
    except OSError as error:
        _say(f"the data folder {folder.path} cannot be used: {error.strerror} ({error.filename})")
        raise typer.Exit(2) from None
    ports = {"api": port, "postgres": database_port, "redis": redis_port, "broker": kafka_port}
    with _ours(folder.path):
        if running.supervisor_pid(folder.path) is not None:
            code = _print_running(folder.path, ports, as_json)
        elif detach:
            code = _detach(folder.path, ports, as_json)
        else:
            code = stay(folder.path, ports, as_json)
    raise typer.Exit(code)


@app.command()
def down(data: Data = None) -> None:
    """Stop everything of a data folder; nothing to stop is fine too.

    Example: sluiceway down
    """
    from libs.common.embedded import running
    from libs.common.embedded.data_folder import chosen_folder

    folder = chosen_folder(data).path
    with _ours(folder):
        stopped = folder.is_dir() and running.stop(folder)
    _say(f"stopped what ran in {folder}" if stopped else f"nothing runs in {folder}")


@app.command()
def status(data: Data = None, as_json: OneObjectOption = False) -> None:
    """Show addresses and the state of each process; exit code 3 when nothing runs.

    Example: sluiceway status --json
    """
    from libs.common.embedded import running
    from libs.common.embedded.data_folder import chosen_folder

    folder = chosen_folder(data).path
    with _ours(folder):
        report = running.current_report(folder) if folder.is_dir() else None
    if report is not None:
        _print(report, as_json, with_state=True)
    if report is None or report["pid"] is None:
        _say(f"nothing runs in {folder}: `sluiceway up` starts a stack")
        raise typer.Exit(3)


def stay(
    folder: Path,
    ports: Mapping[str, int | None],
    as_json: bool,
    service_arguments: Callable[[str], Sequence[str]] | None = None,
) -> int:
    """Run the folder's stack until told to end; returns the exit code. Tests put stand-ins for the services."""
    from libs.common.embedded import running
    from libs.common.embedded.addresses import Addresses
    from libs.common.embedded.child import ChildFailed
    from libs.common.embedded.data_folder import DataFolder
    from libs.common.embedded.keep import keep_running
    from libs.common.embedded.stack import Stack
    from libs.common.runtime.process import die_with_parent

    die_with_parent()
    with running.held(folder) as ours:
        if ours:
            running.end_leftovers(folder)
            home = DataFolder(folder)
            try:
                stack = Stack(home, Addresses(home.addresses, ports), service_arguments=service_arguments)
                return asyncio.run(keep_running(stack, say=_say, ready=lambda report: _print(report, as_json)))
            except ChildFailed as error:
                _say(str(error))
                return 1
    return _print_running(folder, ports, as_json)  # another call was faster


@contextmanager
def _ours(folder: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        what = f"{error.strerror}: {error.filename}" if error.filename else "its supervisor may not be told"
        _say(f"{folder} belongs to another account ({what}): be that account, or name a folder of yours by --data")
        raise typer.Exit(2) from None


def _detach(folder: Path, ports: Mapping[str, int | None], as_json: bool) -> int:
    from libs.common.embedded import running
    from libs.common.embedded.child import last_words, size_of
    from libs.common.embedded.data_folder import DataFolder
    from libs.common.embedded.postgres_home import elsewhere_said

    chosen = [text for name, port in ports.items() if port is not None for text in (_FLAGS[name], str(port))]
    log = DataFolder(folder).logs / "supervisor.log"
    began = size_of(log)
    with log.open("ab") as output:
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "services.cli", "up", "--data", str(folder), *chosen],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        report = running.until_ready(folder, seconds=_READY_SECONDS, vain=lambda: supervisor.poll() is not None)
    except KeyboardInterrupt:  # it is detached: it would go on without us
        supervisor.terminate()
        supervisor.wait(_STOP_SECONDS)
        raise
    if report is None:
        running.stop(folder)
        said = last_words(log, since=began).removeprefix(_SAID)
        _say(f"{said or 'not everything became ready'}\nsupervisor's log: {log}")
        return 1
    if elsewhere := elsewhere_said(folder):
        _say(elsewhere)
    _print(report, as_json)
    return 0


def _print_running(folder: Path, ports: Mapping[str, int | None], as_json: bool) -> int:
    from libs.common.embedded import running
    from libs.common.embedded.addresses import Addresses
    from libs.common.embedded.data_folder import DataFolder

    report = running.until_ready(folder, seconds=_READY_SECONDS)
    if report is None:
        _say(f"what was starting in {folder} did not become ready; logs: {folder / 'logs'}")
        return 1
    kept = Addresses(DataFolder(folder).addresses)
    moved = [f"{_FLAGS[name]} {port}" for name, port in ports.items() if port not in (None, kept.port(name))]
    later = f" and keeps its ports: `sluiceway down` first, to have {' '.join(moved)}" if moved else ""
    _say(f"already running in {folder}{later}")
    _print(report, as_json)
    return 0


def _print(report: dict[str, Any], as_json: bool, *, with_state: bool = False) -> None:
    keys = ("role", "pid", "state") if with_state else ("role", "pid")
    processes = [{key: entry[key] for key in keys} for entry in report["processes"]]
    if as_json:
        addresses = {name: report[name] for name in _ADDRESSES}
        print(json.dumps({**addresses, "pid": report["pid"], "processes": processes}), flush=True)
        return
    for name in _ADDRESSES:
        print(f"{name.replace('_', ' '):13} {printable(str(report[name]))}")
    print(f"{'supervisor':13} process {report['pid']}")
    for entry in report["processes"]:
        pid = "-" if entry["pid"] is None else entry["pid"]
        print(f"{entry['name']:13} process {pid}" + (f", {entry['state']}" if with_state else ""), flush=True)


def _say(message: str) -> None:
    with suppress(OSError):  # a supervisor's log may lie on a full disk, and a terminal may be gone
        note(message)
