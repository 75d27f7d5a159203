"""The way into PostgreSQL: to a server that takes writes, on sessions of our own.

A standby is left at once: where another server takes over, an address may lead to the old one for some time, and who
came in there would be refused on that connection for ever.

A pooler that shares sessions between connections must not stand between. Behind PgBouncer's pool_mode=transaction a
prepared statement's name may belong to another process's statement, which would run in our place with our values;
advisory locks and the planner's settings would be anybody's, too.
"""

from __future__ import annotations

import asyncio
import traceback
from contextlib import suppress
from typing import Any, Final
from uuid import uuid4

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from libs.common.runtime.logging import get_logger

log = get_logger()

WHAT: Final = "a pooler shares PostgreSQL's sessions between connections"
DO: Final = "connect to PostgreSQL itself, or set pool_mode=session in PgBouncer"
_SECONDS: Final = 5.0
_NAMES: Final = (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError)


class TakesNoWrites(ConnectionRefusedError):
    """It is a standby, or its default is to read only."""

    def __init__(self) -> None:
        super().__init__(
            "PostgreSQL takes no writes there (a standby, or default_transaction_read_only is on): name the primary"
        )


class SharedSessions(ConnectionRefusedError):
    """Nothing may be asked of PostgreSQL on this way."""

    def __init__(self) -> None:
        super().__init__(f"{WHAT}: {DO}")


async def shares_sessions(connection: Any, *address: Any, **arguments: Any) -> bool:
    """Whether what is said on this new connection may be forgotten by its next statement. A second one like it, of
    asyncpg.connect's arguments, keeps the session busy in which the first statement was.
    """
    if connection.get_server_pid() == await connection.fetchval("SELECT pg_backend_pid()"):
        return False  # nobody stands between: a pooler names a process of its own
    mark = uuid4().hex
    try:
        await connection.execute(f"SET sluiceway.session = '{mark}'")
        other = await asyncpg.connect(*address, **arguments)
        try:
            async with other.transaction():
                await other.execute("SELECT 1")
                return bool(await connection.fetchval("SELECT current_setting('sluiceway.session', true)") != mark)
        finally:
            await other.close(timeout=_SECONDS)
    except asyncpg.PostgresError as error:
        # A statement's name was another connection's, or a pooler of statements refuses transactions.
        if isinstance(error, _NAMES) or isinstance(error.__cause__, asyncpg.ProtocolViolationError):
            return True
        raise


class WayIn:
    """Connects as asyncpg.connect does, to a server that takes writes; sees to it once that sessions are not shared."""

    def __init__(self) -> None:
        self._seen = False
        self._told = False

    async def connect(self, *address: Any, **arguments: Any) -> Any:
        """Raises TakesNoWrites, SharedSessions, and what asyncpg.connect raises."""
        try:
            connection = await asyncpg.connect(*address, **arguments, target_session_attrs=SessionAttribute.read_write)
        except asyncpg.TargetServerAttributeNotMatched:
            raise TakesNoWrites from None
        except Exception as error:
            # asyncpg names it in a frame of its traceback: that, and from Python 3.13 on all that called it, would wait
            # for the garbage collector.
            traceback.clear_frames(error.__traceback__)
            raise
        if self._seen:
            return connection
        try:
            if await shares_sessions(connection, *address, **arguments):
                if not self._told:
                    self._told = True
                    log.error("postgres.sessions_shared", what=WHAT, do=DO)
                raise SharedSessions
        except BaseException:
            with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await asyncio.shield(connection.close(timeout=_SECONDS))
            raise
        self._seen = True
        return connection
