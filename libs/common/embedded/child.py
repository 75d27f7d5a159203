"""Child processes that never outlive this process."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

_POLL_SECONDS = 0.02
_LAST_LINES = 15
_GONE_SECONDS = 5.0
#: What `end` may take beyond the time it was given: for a killed child, and for that child's own.
FORCE_SECONDS = 2 * _GONE_SECONDS
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class ChildFailed(Exception):
    """A child process ended, or was not ready in time; the message names it and its log."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The account that a child runs as, when it is not ours."""

    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Command:
    """What to run and where its output goes (appended).

    `environment` replaces ours when given. `on_parent_death` is what the kernel sends when we die
    without a farewell (Linux only).
    """

    arguments: Sequence[str | os.PathLike[str]]
    log_path: Path
    folder: Path | None = None
    environment: Mapping[str, str] | None = None
    owner: Owner | None = None
    on_parent_death: signal.Signals = signal.SIGKILL


def spawn(command: Command) -> subprocess.Popen[bytes]:
    """Start a child in a session of its own, so that Ctrl-C in a terminal reaches only us.

    Call it in the main thread: Linux ties a child to the thread that started it. Raises OSError when
    the program cannot be run.
    """
    command.log_path.parent.mkdir(parents=True, exist_ok=True)
    with command.log_path.open("ab") as log:
        return subprocess.Popen(
            [os.fspath(argument) for argument in command.arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=command.folder,
            env=command.environment,
            start_new_session=True,
            user=command.owner.uid if command.owner else None,
            group=command.owner.gid if command.owner else None,
            extra_groups=[] if command.owner else None,
            # After the change of user, which would clear the wish.
            preexec_fn=_die_with_parent(command.on_parent_death),
        )


def _die_with_parent(wish: signal.Signals) -> Callable[[], None] | None:
    if _LIBC is None:
        return None
    libc, parent = _LIBC, os.getpid()

    def in_child() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, int(wish))
        if os.getppid() != parent:  # it died between fork and prctl
            os._exit(1)

    return in_child


async def run_to_end(command: Command, *, seconds: float) -> None:
    """Run a child until it ends by itself. Raises ChildFailed when it fails or the time is up."""
    process = spawn(command)
    try:
        if not await until_ended(process, seconds=seconds):
            raise ChildFailed(f"{command.arguments[0]} did not end within {seconds:.0f} s; log: {command.log_path}")
    finally:
        if process.poll() is None:
            # With the children of its own: one that it makes in this very moment would go on writing.
            os.killpg(process.pid, signal.SIGKILL)
        await end(process, signal.SIGKILL, seconds=5)
    if process.returncode != 0:
        raise ChildFailed(
            f"{command.arguments[0]} ended with code {process.returncode}; log: {command.log_path}"
            f"\n{last_words(command.log_path)}"
        )


def last_words(log: Path, *, since: int = 0) -> str:
    """The end of a child's log, for the error that names it; nothing that was written before `since` bytes."""
    with contextlib.suppress(OSError):
        return "\n".join(log.read_bytes()[since:].decode(errors="replace").splitlines()[-_LAST_LINES:])
    return ""


def size_of(log: Path) -> int:
    """How much has been written to a log that may not be there yet."""
    with contextlib.suppress(OSError):
        return log.stat().st_size
    return 0


async def until_ended(process: subprocess.Popen[bytes], *, seconds: float) -> bool:
    """Wait for a child's end; False when the time is up first."""
    deadline = time.monotonic() + seconds
    while process.poll() is None:
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(_POLL_SECONDS)
    return True


async def end(process: subprocess.Popen[bytes], wish: signal.Signals, *, seconds: float) -> None:
    """End a child: send the wish, and SIGKILL when it is still there after the given time.

    Waits for the child's own children too: PostgreSQL's outlive a killed postmaster for a moment and
    keep the data folder busy.
    """
    if process.poll() is not None:
        return
    offspring = _offspring(process.pid)
    process.send_signal(wish)
    if not await until_ended(process, seconds=seconds):
        process.kill()
        await until_ended(process, seconds=_GONE_SECONDS)
    await _until_gone(offspring, seconds=_GONE_SECONDS)


def _offspring(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).children(recursive=True)
    return []


async def _until_gone(processes: list[psutil.Process], *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while any(_alive(process) for process in processes):
        if time.monotonic() > deadline:
            for process in processes:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            return
        await asyncio.sleep(_POLL_SECONDS)


def _alive(process: psutil.Process) -> bool:
    # A zombie waits for its own parent only; it holds nothing any more.
    with contextlib.suppress(psutil.Error):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False
