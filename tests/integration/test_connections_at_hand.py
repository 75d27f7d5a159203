"""Connections to PostgreSQL that stay at hand between statements."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from libs.common.adapters.postgres import database as module
from libs.common.adapters.postgres.database import Database, open_database
from libs.common.adapters.postgres.right import Right
from libs.common.domain.errors import DatabaseUnavailable, OutcomeUnknown
from tests.support.slow_proxy import slow_proxy

STATEMENTS = {
    "me": "SELECT pg_backend_pid() AS pid",
    "sleep": "SELECT pg_backend_pid() AS pid, pg_sleep($1)",
    "divide": "SELECT 1 / $1::int AS result",
    "end": "SELECT pg_terminate_backend($1)",
    "set apart": "SET default_transaction_read_only = on",
    "write": "UPDATE tenant SET id = id",
    "right": "SELECT pg_try_advisory_lock(77, 1)",
    "slow right": "SELECT pg_sleep(60) IS NULL",
}


@pytest.fixture
async def database(database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Database]:
    """With room for two connections."""
    monkeypatch.setattr(module, "load_statements", lambda: STATEMENTS)
    async with open_database(database_url, hot_connections=2) as database:
        yield database


@pytest.mark.parametrize("given_back", [False, True])
async def test_of_connections_that_a_network_forgot_one_statement_alone_waits(
    database_url: str, monkeypatch: pytest.MonkeyPatch, given_back: bool
) -> None:
    monkeypatch.setattr(module, "load_statements", lambda: STATEMENTS)
    monkeypatch.setattr(module, "_COMMAND_SECONDS", 1.0)
    async with slow_proxy(database_url) as proxy, open_database(proxy.url, hot_connections=4) as database:
        await asyncio.gather(*(database.fetch("sleep", 0.05) for _ in range(4)))
        if given_back:
            held = [await database.acquire() for _ in range(4)]
            for connection in held:
                await database.pool.release(connection)
        proxy.forget()
        with pytest.raises(OutcomeUnknown):
            await me(database)
        assert await asyncio.wait_for(me(database), 0.8)


async def test_connections_that_answered_meanwhile_outlast_one_that_did_not(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = asyncio.create_task(database.fetch("sleep", 5, seconds=0.5))
    await asyncio.sleep(0.1)
    at_hand = await me(database)
    with pytest.raises(OutcomeUnknown):
        await slow
    assert await me(database) == at_hand


async def test_who_is_cancelled_while_connections_are_distrusted_leaves_room_for_as_many(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What he had taken from those at hand was nobody's: the pool had room for one less each time."""
    monkeypatch.setattr(module, "load_statements", lambda: STATEMENTS)
    async with open_database(database_url, hot_connections=4) as database:
        await asyncio.gather(*(database.fetch("sleep", 0.05) for _ in range(4)))
        slow = asyncio.create_task(database.fetch("sleep", 5, seconds=0.2))
        while database._at_hand:
            await asyncio.sleep(0)
        slow.cancel()
        with pytest.raises((asyncio.CancelledError, OutcomeUnknown)):
            await slow
        for connection in [await database.acquire() for _ in range(4)]:
            await database.pool.release(connection)


async def test_a_connection_of_the_engine_that_does_not_answer_is_made_anew(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "load_statements", lambda: STATEMENTS)
    monkeypatch.setattr(module, "_PING_SECONDS", 0.3)
    async with slow_proxy(database_url) as proxy, open_database(proxy.url, hot_connections=1) as database:
        ((first,),) = await database.query("me")
        ((same,),) = await database.query("me")
        assert same == first
        proxy.forget()
        ((other,),) = await asyncio.wait_for(database.query("me"), 2)
        assert other != first
        made = proxy.connections
        await database.query("me")
        assert proxy.connections == made
        proxy.silent = True
        with pytest.raises((DatabaseUnavailable, OutcomeUnknown)):
            await asyncio.wait_for(database.query("me"), 6)


async def me(database: Database) -> int:
    (row,) = await database.fetch("me")
    return int(row["pid"])


async def test_the_second_statement_needs_no_task_of_the_pool(database: Database) -> None:
    first = await me(database)
    loop = asyncio.get_running_loop()
    made = []

    def factory(loop: asyncio.AbstractEventLoop, coroutine: object, **options: object) -> asyncio.Task[object]:
        made.append(coroutine)
        return asyncio.Task(coroutine, loop=loop, **options)  # type: ignore[arg-type]

    loop.set_task_factory(factory)
    try:
        assert await me(database) == first
        async with database.transaction() as transaction:
            (row,) = await transaction.fetch("me")
            assert row["pid"] == first
    finally:
        loop.set_task_factory(None)
    assert made == []


async def test_who_waits_in_the_queue_gets_a_connection_that_was_at_hand(database: Database) -> None:
    """A connection that goes back to its place at hand is one that the queue of the pool never sees."""
    pids = await asyncio.wait_for(
        asyncio.gather(*(database.fetch("sleep", 0.05) for _ in range(8)), *(me(database) for _ in range(8))), 10
    )
    assert len(pids) == 16
    held = await database.acquire(), await database.acquire()
    waiting = asyncio.create_task(me(database))
    await asyncio.sleep(0.05)
    for connection in held:
        await database.pool.release(connection)
    assert await asyncio.wait_for(waiting, 1) in {connection for connection in await pids_of(database)}


async def pids_of(database: Database) -> set[int]:
    rows = await asyncio.gather(database.fetch("sleep", 0.05), database.fetch("sleep", 0.05))
    return {row["pid"] for (row,) in rows}


async def test_a_statement_that_failed_or_was_cancelled_leaves_nothing_to_the_next(database: Database) -> None:
    for _ in range(3):
        with pytest.raises(asyncpg.DivisionByZeroError):
            await database.fetch("divide", 0)
        with pytest.raises(asyncpg.DivisionByZeroError):
            async with database.transaction() as transaction:
                await transaction.fetch("divide", 0)
        sleeping = asyncio.create_task(database.fetch("sleep", 30))
        await asyncio.sleep(0.05)
        sleeping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sleeping
        assert [row["result"] for row in await database.fetch("divide", 1)] == [1]


async def test_a_connection_that_died_at_hand_is_not_given_out(database: Database, database_url: str) -> None:
    victims = await pids_of(database)
    assert len(victims) == 2
    other = await asyncpg.connect(database_url)
    try:
        for victim in victims:
            await other.execute("SELECT pg_terminate_backend($1, 5000)", victim)
        await asyncio.sleep(0.1)
        assert await me(database) not in victims
    finally:
        await other.close()


async def test_one_that_dies_under_its_statement_is_not_kept(database: Database) -> None:
    one = await me(database)
    with pytest.raises(OutcomeUnknown):
        await database.fetch("end", one)
    assert await me(database) != one


async def test_what_nobody_used_for_long_goes_back_to_the_pool(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(await pids_of(database)) == 2
    assert database.pool.get_idle_size() == 0
    monkeypatch.setattr(module, "_AT_HAND_SECONDS", 0.05)
    await asyncio.sleep(0.1)
    await me(database)
    assert database.pool.get_idle_size() == 1


async def test_closing_waits_for_who_is_at_work_and_no_longer(database: Database) -> None:
    await me(database)
    working = asyncio.create_task(database.fetch("sleep", 0.2))
    await asyncio.sleep(0.05)
    await asyncio.wait_for(database.close(), 3)
    assert len(await working) == 1


async def test_a_connection_that_does_not_come_back_does_not_hide_how_the_statement_went(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = asyncpg.Pool.release

    async def silent(pool: Any, connection: Any, *, timeout: float) -> None:
        await release(pool, connection, timeout=timeout)
        raise TimeoutError

    monkeypatch.setattr(asyncpg.Pool, "release", silent)
    with pytest.raises(asyncpg.DivisionByZeroError):
        await database.fetch("divide", 0)
    assert await me(database)


async def test_who_stops_asking_for_a_right_keeps_no_connection(database: Database) -> None:
    for _ in range(3):  # one more than there is room for
        asking = asyncio.create_task(Right(database, "slow right", "decides").hold())
        await asyncio.sleep(0.2)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    assert await me(database)


async def test_a_connection_whose_server_takes_no_writes_any_more_is_given_up(database: Database) -> None:
    """It was set apart while another one took over: the address leads there by now."""
    await database.fetch("set apart")
    with pytest.raises(DatabaseUnavailable):
        await database.fetch("write")
    await database.fetch("write")

    await database.query("set apart")
    with pytest.raises(DatabaseUnavailable):
        await database.query("write")
    await database.query("write")


async def test_a_right_at_a_server_that_takes_no_writes_any_more_is_none(database: Database) -> None:
    """At the one that took over, another process may have it."""
    right = Right(database, "right", "tests")
    assert await right.hold()
    before = right._holder
    assert await right.hold()
    assert right._holder is before
    await before.execute("SET default_transaction_read_only = on")
    await right.hold()
    assert right._holder is not before
    right.give_up()
