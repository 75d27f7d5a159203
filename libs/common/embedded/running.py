"""Who runs the stack of a data folder, and what it says about itself.

The supervisor holds a lock on `lock` for as long as it lives; the kernel drops it however that one ends, so
there are no stale locks. What it reports lies in `state.json`, written whole at every change.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from libs.common.embedded.files import write_whole

Report = dict[str, Any]
_POLL_SECONDS = 0.05
#: A supervisor that has said nothing yet may be at its imports, or on a slow disk.
_STOP_SECONDS = 30.0


@contextmanager
def held(data: Path) -> Iterator[bool]:
    """Hold the folder's lock for the length of the block; gives False when somebody else holds it."""
    with (data / "lock").open("a") as lock:
        if not _take(lock.fileno()):
            yield False
            return
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield True


def _take(lock: int) -> bool:
    # supervisor_pid() takes it for an instant to look; only who keeps it is running.
    for _ in range(10):
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(_POLL_SECONDS)
    return False


def supervisor_pid(data: Path) -> int | None:
    """The process id of whoever runs this folder's stack; None when nobody does."""
    try:
        lock = (data / "lock").open()
    except FileNotFoundError:
        return None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return int(lock.read() or 0) or None  # empty for the instant before it is signed
    return None


def write_report(data: Path, report: Report) -> None:
    """Publish what the supervisor knows."""
    write_whole(data / "state.json", json.dumps(report, indent=2))


def read_report(data: Path) -> Report | None:
    """What the supervisor said last, running or not; None when it never did, or when it cannot be read any more."""
    try:
        report: Report = json.loads((data / "state.json").read_text())
    except (FileNotFoundError, ValueError):
        return None
    return report


def current_report(data: Path) -> Report | None:
    """What runs there now; when nothing does, the last report with every process stopped. None without any."""
    report = read_report(data)
    if report is not None and report["pid"] != supervisor_pid(data):
        stopped = [{**entry, "pid": None, "state": "stopped"} for entry in report["processes"]]
        return {**report, "pid": None, "ready": False, "processes": stopped}
    return report


def until_ready(data: Path, *, seconds: float, vain: Callable[[], bool] | None = None) -> Report | None:
    """Wait for the running stack to say that it is ready.

    None when the time is up, or when nobody runs it and `vain` (nobody will either) is true.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        hopeless = vain is None or vain()  # asked first: it may have ended between the two questions
        pid, report = supervisor_pid(data), read_report(data)
        if report is not None and report["ready"] and report["pid"] == pid:
            return report
        if pid is None and hopeless:
            return None
        time.sleep(_POLL_SECONDS)
    return None


def stop(data: Path) -> bool:
    """Ask the folder's supervisor to stop everything and wait for as long as it may need; by force when that is over.

    Returns whether anything was running. Afterwards nothing is.
    """
    pid = supervisor_pid(data)
    if pid is not None:
        report = read_report(data)
        said = report.get("stop_seconds", 60.0) if report is not None and report["pid"] == pid else 0.0
        _send(pid, signal.SIGTERM)
        if not _until_ended(data, pid, seconds=said + _STOP_SECONDS):
            _send(pid, signal.SIGKILL)
            _until_ended(data, pid, seconds=5)
    end_leftovers(data)
    return pid is not None


def end_leftovers(data: Path) -> None:
    """End what a supervisor that was killed left behind; what still obeys the kernel's signal is waited for."""
    report = read_report(data)
    if report is None or supervisor_pid(data) not in (None, os.getpid()):
        return
    left = []
    for entry in report["processes"]:
        with suppress(psutil.Error):
            process = psutil.Process(entry["pid"] or 0)
            if process.create_time() != entry["born"]:
                continue  # the number belongs to somebody else by now
            left += [process, *process.children(recursive=True)]
            # PostgreSQL's way to end its own children at once; a killed postmaster cannot.
            process.send_signal(signal.SIGQUIT if entry["role"] == "postgres" else signal.SIGKILL)
    _, alive = psutil.wait_procs(left, timeout=10)
    for process in alive:
        with suppress(psutil.Error):
            process.kill()


def _send(pid: int, wish: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, wish)


def _until_ended(data: Path, pid: int, *, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    # The lock goes a moment before the process does.
    while supervisor_pid(data) == pid or _runs(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _runs(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
