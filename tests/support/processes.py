"""What tests ask about processes of others."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

import psutil

from libs.common.embedded.server_process import ServerProcess

Result = TypeVar("Result")


def alive(pids: Iterable[int]) -> set[int]:
    """Those that still run; a zombie only waits for its parent."""
    return {pid for pid in pids if _runs(pid)}


def offspring(pid: int) -> set[int]:
    """All descendants of a process, itself included."""
    process = psutil.Process(pid)
    return {pid, *(child.pid for child in process.children(recursive=True))}


def until(question: Callable[[], Result | None], *, seconds: float, what: str) -> Result:
    """Ask again and again until the answer is true; AssertionError naming `what` after the deadline."""
    deadline = time.monotonic() + seconds
    while not (answer := question()):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.05)
    return answer


def send(process: ServerProcess, wish: signal.Signals) -> None:
    """A signal to a process that runs. Asked for before anything is sent: to number 0 it would go to all of us."""
    pid = process.pid
    assert pid is not None, f"{process.role} runs"
    os.kill(pid, wish)


def _runs(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
