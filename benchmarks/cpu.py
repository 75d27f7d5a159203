"""CPU time and memory of processes, from /proc."""

from __future__ import annotations

from pathlib import Path

import psutil


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, of its living children, and of those it has reaped."""
    process = psutil.Process(pid)
    times = process.cpu_times()
    total = times.user + times.system + times.children_user + times.children_system
    for child in process.children(recursive=True):
        try:
            own = child.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += own.user + own.system
    return float(total)


def memory_mb(pid: int) -> float:
    """Memory of a process and its children: proportional, so that what they share counts once."""
    process = psutil.Process(pid)
    return float(sum(each.memory_full_info().pss for each in (process, *process.children(recursive=True))) / 2**20)


def most_memory_mb(pid: int) -> float:
    """The most memory that a process has had since its start."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM:")).split()[1]) / 1024


class Meter:
    """CPU seconds that named processes spend between two moments."""

    def __init__(self, pids: dict[str, int]) -> None:
        self._pids = pids
        self._before = {name: cpu_seconds(pid) for name, pid in pids.items()}

    def spent(self) -> dict[str, float]:
        """CPU seconds by name since the meter was made."""
        return {name: cpu_seconds(pid) - self._before[name] for name, pid in self._pids.items()}
