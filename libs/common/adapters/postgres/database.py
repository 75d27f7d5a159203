"""Connections to PostgreSQL: a pool for hot statements, an engine for everything else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Final

import asyncpg
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError, InterfaceError, InvalidatePoolError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from libs.common.adapters.postgres.connection import Connection
from libs.common.adapters.postgres.failures import READ_ONLY, UNREACHABLE, as_outage
from libs.common.adapters.postgres.statements import Statements, load_statements
from libs.common.adapters.postgres.way_in import WayIn
from libs.common.domain.errors import DatabaseUnavailable, OutcomeUnknown, RowsLocked
from libs.common.runtime.logging import get_logger

log = get_logger()

#: One plan for all values, of nested loops alone. PostgreSQL makes it anew only after it has looked at a table, and it
#: looks when nothing is in flight, too: then it takes `dispatch` for a table of one row until it looks again, a minute
#: later. So statements leave it no choice: a batch is joined to a growing table by `id = ANY (ARRAY[batch.id])`, or in
#: a lateral behind OFFSET 0, which only the index can answer, and `(x IS NULL) IS TRUE` hides the predicate of a
#: partial index that could be walked instead. tests/integration/test_statement_plans.py looks at each plan.
_HOT_PLANNER: Final = """
SET plan_cache_mode = force_generic_plan; SET jit = off; SET enable_seqscan = off; SET enable_bitmapscan = off;
SET enable_hashjoin = off; SET enable_mergejoin = off; SET max_parallel_workers_per_gather = 0;
SET statement_timeout = '20s'
"""
#: Nothing waits longer for rows that a transaction which somebody has forgotten keeps locked: all of a batch would, and
#: a few callers who each want such a row would have all connections. Our own transactions are over sooner, and
#: PostgreSQL has found deadlocks by then (deadlock_timeout, 1 s).
_LOCK_SECONDS: Final = 2.0
#: The locks of a process that is frozen, or whose host is gone without a word, are nobody's for longer.
_IDLE_SECONDS: Final = 30
_ACQUIRE_SECONDS: Final = 2.0
_COMMAND_SECONDS: Final = 30.0
_READ_SECONDS: Final = 5.0
_CONNECT_SECONDS: Final = 3.0
_PING_SECONDS: Final = 2.0
#: A connection that lay at hand for so long goes back to the pool, which closes it when nobody wants it there either.
_AT_HAND_SECONDS: Final = 60.0
#: Networks forget connections that rest (Azure after 4 minutes, AWS after 6), and say nothing: ours end before.
_RESTED_SECONDS: Final = 180


def open_engine(connect: Callable[[], Awaitable[Any]], **pooling: Any) -> AsyncEngine:
    """SQLAlchemy over connections of asyncpg's own making: what SQLAlchemy makes of an address knows no `sslmode`.

    What a statement was given is no part of its errors, which end in logs.
    """
    return create_async_engine("postgresql+asyncpg://", async_creator=connect, hide_parameters=True, **pooling)


class Database:
    """Both ways to PostgreSQL. Hot statements run by name on the pool, `:name` statements on the engine.

    Every method raises DatabaseUnavailable when the server cannot be reached or cannot write, Deadlocked among them; a
    write whose answer was lost raises OutcomeUnknown, because only reading back tells what happened.

    The pool takes three asyncio tasks and eight turns of the loop to hand a connection out and take it back, which is
    more than a small statement costs its caller. So those whose last statement succeeded stay at hand, the one used
    last on top, unless somebody waits in the pool's queue.
    """

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record], engine: AsyncEngine, statements: Statements) -> None:
        self.pool = pool
        self._engine = engine
        self._statements = statements
        self._at_hand: list[tuple[Any, float]] = []  #: connections, and the monotonic second of their last use
        self._queued = 0  #: callers that the pool has to serve
        self._closing = False

    def statement(self, name: str) -> str:
        """The text of a statement, for a connection that its caller keeps."""
        return self._statements[name]

    async def fetch(self, name: str, *arguments: Any, seconds: float | None = None) -> list[asyncpg.Record]:
        """Run a hot statement in a transaction of its own and return its rows."""
        async with self._connection() as connection:
            rows: list[asyncpg.Record] = await connection.fetch(self._statements[name], *arguments, timeout=seconds)
        return rows

    async def read(self, name: str, *arguments: Any) -> list[asyncpg.Record]:
        """The same for a small statement that changes nothing, which somebody waits for: when its answer is lost, or
        late, nothing was done all the same."""
        try:
            return await self.fetch(name, *arguments, seconds=_READ_SECONDS)
        except OutcomeUnknown as error:
            raise DatabaseUnavailable(str(error)) from error

    async def fetch_free(
        self, name: str, ids: Sequence[int], *columns: Any, locked: Sequence[str] = ("locked_rows",)
    ) -> list[asyncpg.Record]:
        """The same for a batch by ids, of tasks unless the statements `locked` look at something else: those whose rows
        somebody's transaction keeps locked are left out of it, as if there were none of them. Raises RowsLocked where
        it is something else that is locked.
        """
        return await self.around_locked(partial(self.fetch, name), ids, *columns, locked=locked)

    async def around_locked(
        self,
        act: Callable[..., Awaitable[list[asyncpg.Record]]],
        ids: Sequence[int],
        *columns: Any,
        locked: Sequence[str] = ("locked_rows",),
    ) -> list[asyncpg.Record]:
        """What `act` returns for such a batch, of whose columns the lists are as long as `ids`."""
        try:
            return await act(ids, *columns)
        except RowsLocked:
            kept = {row["id"] for look in locked for row in await self.fetch(look, ids)}
            if not kept:
                raise
        log.warning("rows.locked", count=len(kept), advice="`sluiceway doctor` finds old transactions")
        free = [index for index, id_ in enumerate(ids) if id_ not in kept]
        return await act(
            *([values[index] for index in free] if isinstance(values, list) else values for values in (ids, *columns))
        )

    async def copy(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Append rows to a table in a transaction of its own: the cheapest way in, which knows no conflicts."""
        async with self._connection() as connection:
            await connection.copy_records_to_table(table, columns=columns, records=rows, timeout=_COMMAND_SECONDS)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[HotTransaction]:
        """Several hot statements in one transaction, committed at the end; rolled back if the body raises."""
        async with self._connection() as connection, connection.transaction():
            yield HotTransaction(connection, self._statements)

    async def acquire(self) -> Any:
        """A connection that is the caller's until it gives it to the pool, within 2 s."""
        while self._at_hand:
            connection, _ = self._at_hand.pop()
            try:
                if not connection.is_closed():
                    return connection
            except asyncpg.InterfaceError:
                continue  # it died, and the pool knows
            await self._give_back(connection)
        self._queued += 1
        try:
            return await self.pool.acquire(timeout=_ACQUIRE_SECONDS)
        except UNREACHABLE as error:
            cause = f"{type(error).__name__} {error}".rstrip()
            raise DatabaseUnavailable(f"no connection to PostgreSQL: {cause}") from error
        finally:
            self._queued -= 1

    async def close(self) -> None:
        """Leave no connection behind."""
        self._closing = True
        while self._at_hand:
            await self._give_back(self._at_hand.pop()[0])
        try:
            await asyncio.wait_for(self.pool.close(), 5)
        except (TimeoutError, *UNREACHABLE):
            self.pool.terminate()
        await self._engine.dispose()

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        connection = await self.acquire()
        began = time.monotonic()
        try:
            yield connection
        except BaseException as error:
            if isinstance(error, READ_ONLY):
                connection.terminate()
            await self._give_back(connection)
            if isinstance(error, TimeoutError):
                await self._distrust(before=began)
            if isinstance(error, UNREACHABLE):
                raise as_outage(error) from error
            raise
        now = time.monotonic()
        self._at_hand.append((connection, now))
        # Whoever waits in the queue sees only what the pool has; the lowest has not been used for the longest time.
        while self._at_hand and (self._closing or self._queued or self._at_hand[0][1] < now - _AT_HAND_SECONDS):
            await self._give_back(self._at_hand.pop(0)[0])

    async def _distrust(self, *, before: float) -> None:
        """A network that forgot one connection forgot the others with it: whoever took them next would wait as long.
        Those that have answered since `before` are good.
        """
        old = [connection for connection, used in self._at_hand if used < before]
        self._at_hand = [(connection, used) for connection, used in self._at_hand if used >= before]
        await self.pool.expire_connections()
        for connection in old:
            with suppress(asyncpg.InterfaceError):  # it died, and the pool knows
                connection.terminate()  # which gives it back, and waits for nothing in which we may be cancelled

    async def _give_back(self, connection: Any) -> None:
        # Shielded: a cancelled caller must not hand a connection back half reset (asyncpg#464).
        # One that does not answer is ended by the pool; that must not hide how the statement went.
        with suppress(*UNREACHABLE):
            await asyncio.shield(self.pool.release(connection, timeout=_ACQUIRE_SECONDS))

    async def query(self, statement_name: str, /, **values: Any) -> Sequence[Any]:
        """Run a `:name` statement of the .sql files in its own transaction and return all rows."""
        return await self.query_text(self._statements[statement_name], **values)

    async def query_text(self, statement: str, /, **values: Any) -> Sequence[Any]:
        """The same for a statement that was put together, from fixed parts, by a repository."""
        async with self._begun() as connection:
            return await _rows(connection, statement, values)

    @asynccontextmanager
    async def queries(self) -> AsyncIterator[Queries]:
        """Several `:name` statements in one transaction, committed at the end; rolled back if the body raises."""
        async with self._begun() as connection:
            yield Queries(connection, self._statements)

    @asynccontextmanager
    async def _begun(self) -> AsyncIterator[AsyncConnection]:
        try:
            async with self._engine.begin() as connection:
                try:
                    yield connection
                except DBAPIError as error:
                    if isinstance(_cause(error), READ_ONLY):
                        await connection.invalidate()
                    raise
        except PoolTimeout as error:
            raise DatabaseUnavailable("every connection to PostgreSQL is busy") from error
        except UNREACHABLE as error:
            raise as_outage(error) from error
        except DBAPIError as error:
            cause = _cause(error)
            if isinstance(error, InterfaceError) or error.connection_invalidated or isinstance(cause, UNREACHABLE):
                raise as_outage(cause or error) from error
            raise
        except SQLAlchemyError as error:
            if isinstance(error.__cause__, UNREACHABLE):
                raise as_outage(error) from error
            raise


def _cause(error: DBAPIError) -> BaseException | None:
    return error.orig.__cause__ if error.orig is not None else None


class Queries:
    """An open transaction for `:name` statements."""

    def __init__(self, connection: AsyncConnection, statements: Statements) -> None:
        self._connection = connection
        self._statements = statements

    async def query(self, statement_name: str, /, **values: Any) -> Sequence[Any]:
        return await _rows(self._connection, self._statements[statement_name], values)


async def _rows(connection: AsyncConnection, statement: str, values: Mapping[str, Any]) -> Sequence[Any]:
    result = await connection.execute(text(statement), values)
    return result.all() if result.returns_rows else []


class HotTransaction:
    """An open transaction on a hot connection."""

    def __init__(self, connection: Any, statements: Statements) -> None:
        self._connection = connection
        self._statements = statements

    async def fetch(self, name: str, *arguments: Any) -> list[asyncpg.Record]:
        rows: list[asyncpg.Record] = await self._connection.fetch(self._statements[name], *arguments)
        return rows

    def stream(self, name: str, *arguments: Any, page: int) -> AsyncIterator[asyncpg.Record]:
        """The rows of a statement, fetched `page` at a time."""
        rows: AsyncIterator[asyncpg.Record] = aiter(
            self._connection.cursor(self._statements[name], *arguments, prefetch=page)
        )
        return rows


@asynccontextmanager
async def open_database(
    database_url: str, *, hot_connections: int = 8, lock_seconds: float = _LOCK_SECONDS
) -> AsyncIterator[Database]:
    """Open both ways. PostgreSQL need not be there yet: connections are made when they are needed. No statement waits
    longer than `lock_seconds` for what others have locked.
    """
    way_in = WayIn()

    async def pin_planner(connection: Any) -> None:
        await connection.execute(_HOT_PLANNER)
        await pin_transactions(connection)

    async def pin_transactions(connection: Any) -> None:
        # Statements must see what was committed before they had their locks, whatever an administrator has as default.
        await connection.execute(
            "SET default_transaction_isolation = 'read committed'; "
            f"SET idle_in_transaction_session_timeout = '{_IDLE_SECONDS}s'; "
            f"SET lock_timeout = {lock_seconds * 1_000:.0f}"
        )

    async def connect() -> Any:
        connection = await way_in.connect(
            database_url, timeout=_CONNECT_SECONDS, command_timeout=_COMMAND_SECONDS, connection_class=Connection
        )
        try:
            await pin_transactions(connection)
        except BaseException:
            connection.terminate()
            raise
        return connection

    pool = asyncpg.create_pool(
        database_url,
        min_size=0,
        max_size=hot_connections,
        init=pin_planner,
        connect=way_in.connect,
        connection_class=Connection,
        # session state is pinned on purpose, and nothing else may leave any: no RESET ALL on release
        reset=_keep,
        command_timeout=_COMMAND_SECONDS,
        timeout=_CONNECT_SECONDS,
        max_inactive_connection_lifetime=_RESTED_SECONDS,
    )
    engine = open_engine(
        connect,
        pool_size=4,
        max_overflow=4,
        pool_timeout=_ACQUIRE_SECONDS,
        pool_recycle=_RESTED_SECONDS,
    )
    event.listen(engine.sync_engine, "checkout", _look_at)
    await pool
    database = Database(pool, engine, load_statements())
    try:
        yield database
    finally:
        await asyncio.shield(database.close())


def _look_at(adapted: Any, record: Any, _borrowed: Any) -> None:
    """See to it that a connection which is used again still answers; if not, all are made anew. SQLAlchemy's own ping
    asks three times, and waits for each answer as long as for a statement's.
    """
    if record.info.setdefault("fresh", True):
        record.info["fresh"] = False
        return
    try:
        adapted.run_async(_ping)
    except UNREACHABLE as error:
        raise InvalidatePoolError("a connection does not answer any more") from error


async def _ping(connection: Any) -> None:
    try:
        await connection.execute("SELECT 1", timeout=_PING_SECONDS)
    except TimeoutError:
        connection.terminate()  # closing it in good order would wait for an answer, too
        raise


async def _keep(connection: Any) -> None:
    """Leave the session's settings as they are."""
