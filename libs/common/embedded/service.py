"""One of our own services as a child process."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from libs.common.embedded.child import Command
from libs.common.embedded.ports import LOOPBACK, first_line
from libs.common.embedded.server_process import ServerProcess


class ServiceProcess(ServerProcess):
    """Ready when its /readyz says so. Asked to stop, it drains; `drain_seconds` is its own limit for that."""

    start_seconds = 60.0

    def __init__(
        self,
        role: str,
        number: int,
        arguments: Sequence[str | os.PathLike[str]],
        *,
        environment: Mapping[str, str],
        port: int,
        logs: Path,
        drain_seconds: float,
    ) -> None:
        self.role = role
        self._name = f"{role}-{number}"
        super().__init__(logs, port=port, log_path=logs / f"{self._name}.log")
        self._command = Command(arguments, self.log_path, environment=environment)
        self.stop_seconds = drain_seconds + 10  # what it cuts off after the drain gets a moment to let go

    @property
    def name(self) -> str:
        return self._name

    @property
    def address(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def version(self) -> str:
        return self.role

    async def prepare(self) -> None:
        """It keeps nothing of its own."""

    def command(self) -> Command:
        return self._command

    async def probe(self) -> bool:
        question = b"GET /readyz HTTP/1.0\r\nHost: localhost\r\n\r\n"
        return b" 200 " in await first_line(self.port, question, seconds=2)
