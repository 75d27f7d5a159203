"""A right that one process at a time has: an advisory lock on a connection of its own, which dies with it, and with the
proofs that it still lives."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import asyncpg

from libs.common.adapters.postgres.database import Database
from libs.common.adapters.postgres.failures import UNREACHABLE
from libs.common.domain.errors import DatabaseUnavailable

_SECONDS = 5
#: The server ends a right that was not proved for so long: its process is frozen, or its host is gone without a word,
#: which the server would notice after two hours. Longer than whoever has it works between two proofs.
_UNPROVED_SECONDS = 15


class Right:
    """The right that `statement` asks for; `who` says in errors whose question was not answered."""

    def __init__(self, database: Database, statement: str, who: str) -> None:
        self._database = database
        self._statement = statement
        self._who = who
        self._holder: Any = None

    async def hold(self) -> bool:
        """Whether it is ours now; asked again it is proved again. Raises DatabaseUnavailable."""
        if self._holder is not None:
            try:
                proof = await self._holder.fetchval("SELECT current_setting('transaction_read_only')", timeout=_SECONDS)
            except UNREACHABLE:
                proof = None
            if proof == "off":
                return True
            # It is over, or that server was set apart: at the one that took over the right may be another process's.
            self.give_up()
        connection = await self._database.acquire()
        try:
            ours: bool = await connection.fetchval(self._database.statement(self._statement), timeout=_SECONDS)
            if ours:
                await connection.execute(f"SET idle_session_timeout = '{_UNPROVED_SECONDS}s'", timeout=_SECONDS)
        except BaseException as error:
            _end(connection)  # also when nobody waits for the answer any more: it might hold the right
            if isinstance(error, UNREACHABLE):
                raise DatabaseUnavailable(f"nobody can say who {self._who}: {type(error).__name__}") from error
            raise
        if ours:
            self._holder = connection
        else:
            await self._database.pool.release(connection)
        return ours

    def give_up(self) -> None:
        """Let others have it."""
        connection, self._holder = self._holder, None
        if connection is not None:
            _end(connection)


def _end(connection: Any) -> None:
    """Cut a connection off; one that died already is in the pool's hands."""
    with suppress(asyncpg.InterfaceError):
        connection.terminate()
