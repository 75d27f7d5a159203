"""Debian's PgBouncer in front of a PostgreSQL."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import asyncpg

from libs.common.embedded.child import Command
from libs.common.embedded.ports import LOOPBACK, accepts
from libs.common.embedded.server_process import ServerProcess

PROGRAM: Final = shutil.which("pgbouncer", path=os.environ.get("PATH", "") + ":/usr/sbin")
_SETTINGS: Final = """
[databases]
* = host={host} port={there}
[pgbouncer]
listen_addr = {host}
listen_port = {here}
unix_socket_dir =
auth_type = plain
auth_file = {users}
pool_mode = {mode}
default_pool_size = 200
max_client_conn = 500
"""


class PgBouncer(ServerProcess):
    """Passes on what comes for the server of that URL; `url` leads through it."""

    role = "pgbouncer"

    def __init__(self, folder: Path, behind: str, mode: str) -> None:
        super().__init__(folder)
        self._behind = urlsplit(behind)
        self._mode = mode

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    @property
    def version(self) -> str:
        return "PgBouncer"

    @property
    def url(self) -> str:
        login = self._behind.netloc.rpartition("@")[0]
        return self._behind._replace(netloc=f"{login}@{self.address}").geturl()

    async def prepare(self) -> None:
        self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        users = self.folder / "users.txt"
        users.write_text(f'"{self._behind.username}" "{self._behind.password}"\n')
        ports = {"host": LOOPBACK, "there": self._behind.port, "here": self.port}
        (self.folder / "pgbouncer.ini").write_text(_SETTINGS.format(users=users, mode=self._mode, **ports))

    def command(self) -> Command:
        assert PROGRAM is not None
        # It will not run as root.
        other = ["--user=nobody"] if os.getuid() == 0 else []
        return Command([PROGRAM, *other, self.folder / "pgbouncer.ini"], self.log_path, folder=self.folder)

    async def probe(self) -> bool:
        if not await accepts(self.port):
            return False
        connection = await asyncpg.connect(self.url, timeout=5)
        await connection.close()
        return True
