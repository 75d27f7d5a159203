"""What connections to PostgreSQL learn from those before them."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import asyncpg
import pytest

from libs.common.adapters.postgres import database as databases
from libs.common.adapters.postgres.connection import _BATCHES, Connection
from libs.common.adapters.postgres.database import Database, open_database
from libs.common.adapters.postgres.migrate import revisions, upgrade
from libs.common.adapters.postgres.statements import load_statements
from libs.common.domain.errors import DatabaseUnavailable, OutcomeUnknown
from libs.common.embedded.postgres import EmbeddedPostgres
from tests.support import servers

ARRAYS = "SELECT $1::bigint[] AS a, $2::uuid[] AS b, $3::text[] AS c"
VALUES = ([1, 2], [], ["x"])


async def test_types_that_one_connection_has_asked_about_are_asked_about_by_no_other(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Connection, "_known_types", {})
    asked = []
    for _ in range(3):
        connection = await asyncpg.connect(database_url, connection_class=Connection)
        connection.add_query_logger(lambda record: asked.append(record.query))
        try:
            (row,) = await connection.fetch(ARRAYS, *VALUES)
            assert tuple(row) == VALUES
            assert await connection.fetchval("SELECT array_agg(x) FROM unnest($1::bigint[]) x", [3]) == [3]
            assert await connection.fetchval("SELECT $1::float8[]", [0.5]) == [0.5]
            asked.append("next")
        finally:
            await connection.close()
    first, *others = "\n".join(asked).split("next")
    assert first.count("RECURSIVE typeinfo_tree") == 1, "all that batches are sent as is asked about at once"
    assert all("typeinfo" not in other for other in others), others


async def test_whatever_batches_are_sent_as_is_asked_about_at_once(database_url: str) -> None:
    statements = load_statements()
    arrays = {kind for name in statements for kind in re.findall(r"\$\d+::(\w+\[\])", statements[name])}
    connection = await asyncpg.connect(database_url)
    try:
        numbers = {await connection.fetchval("SELECT $1::text::regtype::oid::int", kind) for kind in arrays}
    finally:
        await connection.close()
    assert numbers <= _BATCHES


async def test_types_of_the_database_itself_are_asked_about_by_each(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their numbers mean something else in the next database."""
    monkeypatch.setattr(Connection, "_known_types", {})
    for words in ("('a', 'b')", "('c', 'd')"):
        connection = await asyncpg.connect(database_url, connection_class=Connection)
        try:
            await connection.execute(f"DROP TYPE IF EXISTS mood; CREATE TYPE mood AS ENUM {words}")
            assert await connection.fetchval("SELECT enum_range(NULL::mood)::text[]") == [words[2], words[7]]
            assert await connection.fetchval("SELECT enum_range(NULL::mood)") == [words[2], words[7]]
        finally:
            await connection.close()
    assert all(number < 10_000 for number in Connection._known_types)


async def test_both_ways_to_the_database_make_such_connections(database_url: str) -> None:
    async with open_database(database_url, hot_connections=1) as database:
        async with database.pool.acquire() as hot:
            assert isinstance(hot._con, Connection)
        async with database._engine.connect() as plain:
            raw = await plain.get_raw_connection()
            assert isinstance(raw.driver_connection, Connection)


async def test_an_address_is_read_in_one_way_whatever_goes_to_it(database_url: str) -> None:
    """What hosters hand out ends in `?sslmode=require`; PostgreSQL has no TLS here, so this one only prefers it."""
    address = servers.with_options(database_url, sslmode="prefer", application_name="told")
    revision = await upgrade(address)
    assert await revisions(address) == (revision, revision)
    async with open_database(address) as database:
        assert await database.fetch("database_now")
        ((name,),) = await database.query_text("SELECT current_setting('application_name')")
        assert name == "told"


async def test_no_connection_stays_at_a_standby(servers_folder: Path) -> None:
    """Where another server takes over, an address may lead to the old one for a while."""
    server = EmbeddedPostgres(servers_folder / "postgres-of-connection-tests")
    await server.start()
    try:
        address = server.address.replace("@", "@127.0.0.1:1,")  # the first host of two is gone
        await upgrade(address)
        await server.stop()
        mark = server._home.cluster / "standby.signal"
        mark.touch()
        await server.start()
        async with open_database(address) as database:
            for ask in (database.fetch("watch_beats"), database.query("find_model", tenant_id=1, name="m")):
                with pytest.raises(DatabaseUnavailable):
                    await ask
            assert database.pool.get_size() == database.pool.get_idle_size() == 0
            admin = await asyncpg.connect(server.address)
            await admin.execute("SELECT pg_promote()")
            await admin.close()
            assert await database.query("find_model", tenant_id=1, name="m") == []
            assert await database.fetch("watch_beats") == []
    finally:
        await server.stop()
        server.remove()


async def test_who_is_frozen_in_a_transaction_holds_up_nobody_for_long(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(databases, "_IDLE_SECONDS", 1)
    locked = asyncio.Event()

    async def freeze(database: Database) -> None:
        async with database.queries() as transaction:
            await transaction.query("count_webhooks_alone", tenant_id=1)
            locked.set()
            await asyncio.sleep(5)

    async with open_database(database_url) as frozen, open_database(database_url) as other:
        freezing = asyncio.create_task(freeze(frozen))
        await locked.wait()
        async with asyncio.timeout(4):
            await other.query("count_webhooks_alone", tenant_id=1)
        with pytest.raises(OutcomeUnknown):
            await freezing
