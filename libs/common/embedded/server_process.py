"""What every process that we start has in common: launch, ready, stop, kill, restart."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from libs.common.embedded.child import FORCE_SECONDS, ChildFailed, Command, end, last_words, size_of, spawn
from libs.common.embedded.ports import LOOPBACK, free_port, until_free


class ServerProcess(ABC):
    """One server in one child process of ours, on one port of 127.0.0.1 that it keeps for life.

    Start it in the main thread (see `child.spawn`). What was kept in `folder` is there again after a
    restart, except for servers that live in memory only.
    """

    role: str
    start_seconds: ClassVar[float] = 30.0
    stop_seconds: float = 10.0
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(self, folder: Path, *, port: int | None = None, log_path: Path | None = None) -> None:
        self.folder = folder
        self.port = port or free_port()
        self.log_path = log_path or folder / f"{self.role}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._log_began = 0

    @property
    @abstractmethod
    def address(self) -> str:
        """What clients connect to: a URL, or host:port for a broker. Known before the start."""

    @property
    @abstractmethod
    def version(self) -> str:
        """Name and version, for people."""

    @property
    def name(self) -> str:
        """Tells it from its siblings of the same role."""
        return self.role

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def exit_code(self) -> int | None:
        """How the last process ended; None before the first start and while it runs."""
        return None if self._process is None else self._process.poll()

    async def start(self) -> None:
        """Start and return when it serves; does nothing while it runs.

        Raises ChildFailed, naming the log, when it cannot run or is not ready within `start_seconds`.
        """
        if self.pid is not None:
            return
        await self.launch()
        try:
            await self.until_ready()
        except BaseException:
            await self.kill()
            raise

    async def launch(self) -> None:
        """Start without waiting until it serves. Raises ChildFailed or OSError."""
        await self.prepare()
        if not await until_free(self.port, seconds=5):
            raise ChildFailed(
                f"{self.name}: port {self.port} of {LOOPBACK} is taken by another process; end it, or choose other"
                " ports (`sluiceway up --help`; without the folder's stack.json all are chosen anew)"
            )
        self._log_began = size_of(self.log_path)
        self._process = spawn(self.command())

    async def until_ready(self) -> None:
        """Wait until it serves. Raises ChildFailed when it ends or `start_seconds` pass before."""
        deadline = time.monotonic() + self.start_seconds
        while not await self.probe():
            if self.pid is None:
                raise ChildFailed(
                    f"{self.name} ended with code {self.exit_code} while starting; log: {self.log_path}"
                    f"\n{last_words(self.log_path, since=self._log_began)}".rstrip()
                )
            if time.monotonic() > deadline:
                raise ChildFailed(f"{self.name} not ready within {self.start_seconds:.0f} s; log: {self.log_path}")
            await asyncio.sleep(0.03)

    @property
    def longest_stop(self) -> float:
        """How many seconds `stop` takes at most."""
        return self.stop_seconds + FORCE_SECONDS

    async def stop(self) -> None:
        """End it in good order within `stop_seconds`, then by force."""
        if self._process is not None:
            await end(self._process, self.stop_signal, seconds=self.stop_seconds)

    async def kill(self) -> None:
        """End it the hard way (SIGKILL)."""
        if self._process is not None:
            await end(self._process, signal.SIGKILL, seconds=5)

    async def restart(self) -> None:
        """Stop and start again on the same port."""
        await self.stop()
        await self.start()

    @abstractmethod
    async def prepare(self) -> None:
        """Bring the data folder into being; does nothing when that was done before."""

    @abstractmethod
    def command(self) -> Command:
        """What runs in the foreground."""

    @abstractmethod
    async def probe(self) -> bool:
        """Whether it does real work for a client now."""


def package_folder(package: str) -> Path:
    """Where an installed package lies, found without importing it. Raises ChildFailed without it."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ChildFailed(
            f"the package {package} is not installed: run `make env`, or install sluiceway[embedded] with Python 3.13"
            " or older, or name a server of your own (SLUICEWAY_REDIS_URL and its like)"
        )
    return Path(next(iter(spec.submodule_search_locations)))
